"""Clips and pairs at half the resolution, for refiners that work there."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.stored import StoredPair, save_pair
from chopgrad_ns.evaluate.baselines import enlarged


def halved(clip: Clip) -> Clip:
    """Means of 2 × 2 pixels; depths are picked, and photos weighed by how far they can be believed. Cameras are left out.

    Of an odd size, the last row or column counts twice.
    """
    values = {name: half(getattr(clip, name)) for name in clip.carries & {"frames", "alpha"}}
    if clip.depth is not None:
        values["depth"] = _even(clip.depth)[..., 1::2, 1::2]
    if clip.references is not None:
        masks = half(clip.reference_masks)
        values |= {"reference_masks": masks,
                   "references": half(clip.references * clip.reference_masks) / masks.clamp_min(1e-6) * (masks > 0)}
    return Clip(**values)


def half(value: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n h2 w2"]:
    """Means of 2 × 2 pixels; of an odd size, the last row or column counts twice."""
    value = _even(value)
    flat = value.flatten(0, -4) if value.ndim > 4 else value
    return F.avg_pool2d(flat, 2).unflatten(0, value.shape[:-3])


def doubled(frames: Float[Tensor, "t 3 h2 w2"], size: tuple[int, int]) -> Float[Tensor, "t 3 h w"]:
    """Frames of half the resolution enlarged bicubically to what they were halved from, of this height and width."""
    height, width = frames.shape[-2:]
    return enlarged(frames, (2 * height, 2 * width))[..., : size[0], : size[1]]


def _even(value: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n h2 w2"]:
    rows, columns = (torch.arange(side + side % 2).clamp_max(side - 1) for side in value.shape[-2:])
    return value[..., rows, :][..., columns]


def halved_pairs(pairs: Sequence[StoredPair], folder: Path) -> list[StoredPair]:
    """The same pairs at half the resolution, made unless they are there; what is not wholly valid is not."""
    found = []
    for stored in pairs:
        there = folder / stored.name
        if not (there / "pair.json").exists() or StoredPair(there).about != stored.about:
            pair = stored.read()
            valid = None if pair.valid is None else (half(pair.valid) == 1).to(torch.float32)
            made = Pair(halved(pair.degraded), half(pair.clean), pair.name, valid)
            save_pair(replace(made, name=stored.name), there, stored.about)
        found.append(StoredPair(there))
    return found
