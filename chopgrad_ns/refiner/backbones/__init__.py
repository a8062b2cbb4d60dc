"""Latent video diffusion models that a refiner can be made of."""

from chopgrad_ns.refiner.backbones.base import Backbone
from chopgrad_ns.refiner.backbones.families import FAMILIES, build
from chopgrad_ns.refiner.backbones.folders import load
from chopgrad_ns.refiner.backbones.prompts import embed_prompt

__all__ = ["FAMILIES", "Backbone", "build", "embed_prompt", "load"]
