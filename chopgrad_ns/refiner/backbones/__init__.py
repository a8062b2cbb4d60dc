"""Latent video diffusion models that a refiner can be made of."""

from chopgrad_ns.refiner.backbones.base import Backbone
from chopgrad_ns.refiner.backbones.wan import Wan

FAMILIES: dict[str, type[Backbone]] = {"wan": Wan}


def build(config: dict) -> Backbone:
    """A backbone with random weights, of the architecture that `Backbone.config` describes."""
    return FAMILIES[config["family"]].build(config)


__all__ = ["FAMILIES", "Backbone", "build"]
