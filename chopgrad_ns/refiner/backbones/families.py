"""Which backbones there are."""

from __future__ import annotations

from chopgrad_ns.refiner.backbones.base import Backbone
from chopgrad_ns.refiner.backbones.cogvideox import CogVideoX
from chopgrad_ns.refiner.backbones.wan import Wan

FAMILIES: dict[str, type[Backbone]] = {family.family: family for family in (Wan, CogVideoX)}


def build(config: dict) -> Backbone:
    """A backbone with random weights, of the architecture that `Backbone.config` describes."""
    return FAMILIES[config["family"]].build(config)
