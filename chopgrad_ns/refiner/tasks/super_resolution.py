"""Small, blurred, noisy and compressed video."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.data.degradations import Degradation
from chopgrad_ns.data.video_pairs import super_resolution_pair
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.tasks.base import Task

SCALE = 4.0
"""How much larger the output is where nothing else is asked for."""


class SuperResolution(Task):
    """Enlarge by any factor, whole or not: the clip is enlarged bilinearly (as DOVE does) and then refined."""

    name = "super-resolution"

    def fits(self, pair):
        return pair.scale != (1, 1)

    def prepare(self, clip, size=None):
        height, width = clip.frames.shape[-2:]
        size = size or (round(height * SCALE), round(width * SCALE))
        if size[0] < height or size[1] < width:
            raise UserError(f"The output would have {size[1]}×{size[0]} pixels and the clip has {width}×{height}; give a scale "
                            "of 1 or more.")
        return Clip(F.interpolate(clip.frames, size, mode="bilinear"))

    def redraw(self, pair, draw, settings):
        """`settings.degradation` at `settings.scale`, drawn anew."""
        degradation = Degradation(kind=settings.degradation, scale=settings.scale)
        low, _ = super_resolution_pair(pair.clean, pair.name, degradation, draw.getrandbits(31))
        return replace(low, valid=pair.valid)
