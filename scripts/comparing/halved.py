"""Clips and pairs at half the resolution, for refiners that work there."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.pair_set import PairSet
from chopgrad_ns.data.stored import save_pair


def halved(clip: Clip) -> Clip:
    """Means of 2 × 2 pixels; depths are picked, and photos weighed by how far they can be believed. Cameras are left out."""
    values = {name: half(getattr(clip, name)) for name in clip.carries & {"frames", "alpha"}}
    if clip.depth is not None:
        values["depth"] = clip.depth[..., 1::2, 1::2][..., : clip.frames.shape[-2] // 2, : clip.frames.shape[-1] // 2]
    if clip.references is not None:
        masks = half(clip.reference_masks)
        values |= {"reference_masks": masks,
                   "references": half(clip.references * clip.reference_masks) / masks.clamp_min(1e-6) * (masks > 0)}
    return Clip(**values)


def half(value: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n h2 w2"]:
    """Means of 2 × 2 pixels; an odd last row or column is left out."""
    flat = value.flatten(0, -4) if value.ndim > 4 else value
    return F.avg_pool2d(flat, 2).unflatten(0, value.shape[:-3])


def halved_pairs(pairs: PairSet, folder: Path) -> PairSet:
    """The same pairs at half the resolution, made unless they are there; what is not wholly valid is not."""
    for stored in pairs:
        if not (folder / stored.name / "pair.json").exists():
            pair = stored.read()
            valid = None if pair.valid is None else (half(pair.valid) == 1).to(torch.float32)
            made = Pair(halved(pair.degraded), half(pair.clean), pair.name, valid)
            save_pair(replace(made, name=stored.name), folder / stored.name, stored.about)
    return PairSet(folder)
