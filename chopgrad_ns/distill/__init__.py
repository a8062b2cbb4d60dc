"""Refined frames back into the splat: where to look from, what to trust, when to train on it."""

from chopgrad_ns.distill.rounds import RoundSettings, make_round, novel_cameras
from chopgrad_ns.distill.schedule import Schedule
from chopgrad_ns.distill.store import PseudoObservations

__all__ = ["PseudoObservations", "RoundSettings", "Schedule", "make_round", "novel_cameras"]
