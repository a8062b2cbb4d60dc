"""Pairs from plain videos: low frames for super-resolution, frames with holes for inpainting."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.degradations import Degradation, degrade

HOLE = 128 / 255
"""What holes are filled with: mid grey, exact in 8 bit."""


def super_resolution_pair(frames: Float[Tensor, "t 3 h w"], name: str, degradation: Degradation,
                          seed: int) -> tuple[Pair, dict]:
    """Frames beside their degraded, smaller selves, and what was drawn for them (fit for JSON).

    `Pair.scale` says how much smaller they are; it differs a little from `degradation.scale` where sides are no
    multiples of it.
    """
    low, drawn = degrade(frames, degradation, seed)
    return Pair(degraded=Clip(low), clean=frames, name=name), drawn


def inpainting_pair(frames: Float[Tensor, "t 3 h w"], name: str, masks: Float[Tensor, "t 1 h w"]) -> Pair:
    """Frames beside the same with `HOLE` where `masks` are 1; they go along as `degraded.mask`.

    Masks come from `draw_masks`, which says what it drew, `ObjectMasks.read` or `actor_masks`.
    """
    if masks.shape != frames[:, :1].shape:
        raise ValueError(f"masks have shape {tuple(masks.shape)}, not {tuple(frames[:, :1].shape)}")
    holed = torch.where(masks > 0.5, HOLE, frames)
    return Pair(degraded=Clip(holed, mask=masks), clean=frames, name=name)
