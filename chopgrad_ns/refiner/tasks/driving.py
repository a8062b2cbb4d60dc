"""Drives with vehicles inserted, and nothing done about their light, outlines and shadows."""

from __future__ import annotations

import torch

from chopgrad_ns.refiner.tasks.base import Task


class Driving(Task):
    """Harmonise naive insertions (Mirage): the mask of what was inserted goes with the frames, and the decoder learns too.

    The output may differ everywhere, for shadows fall beside the mask.
    """

    name = "driving"
    extra_channels = 1
    trains_decoder = True

    def fits(self, pair):
        return pair.scale == (1, 1) and "mask" in pair.carries and "actor_ids" in pair.carries

    def extra(self, clip):
        """The mask of actors; where there is none, whatever actor ids name."""
        if clip.mask is not None:
            return clip.mask
        return torch.zeros_like(clip.frames[:, :1]) if clip.actor_ids is None else (clip.actor_ids > 0).to(clip.frames)
