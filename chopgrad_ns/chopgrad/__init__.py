"""Gradients of pixel losses through causal video decoders, group by group."""

from chopgrad_ns.chopgrad.adapters import as_causal_decoder
from chopgrad_ns.chopgrad.frame_by_frame import FrameByFrame
from chopgrad_ns.chopgrad.interface import CausalDecoder
from chopgrad_ns.chopgrad.pixel_loss import pixel_loss
from chopgrad_ns.chopgrad.planner import Plan, plan
from chopgrad_ns.chopgrad.strategies import Backprop, Exact, Full, SpatialTiles, Truncated, strategy_named

__all__ = ["Backprop", "CausalDecoder", "Exact", "FrameByFrame", "Full", "Plan", "SpatialTiles", "Truncated", "as_causal_decoder",
           "pixel_loss", "plan", "strategy_named"]
