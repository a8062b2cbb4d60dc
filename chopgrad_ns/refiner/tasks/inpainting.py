"""Video with holes."""

from __future__ import annotations

import torch

from chopgrad_ns.data.fill import filled
from chopgrad_ns.data.masks import MaskSettings, draw_masks
from chopgrad_ns.data.video_pairs import inpainting_pair
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.tasks.base import Task

KEEP = 0.5
"""Chance that a step of training takes the mask that is stored with a pair, of an object perhaps."""


class Inpainting(Task):
    """Fill what the mask covers (1, white); what it does not comes out as it went in, to the bit."""

    name = "inpainting"
    extra_channels = 1

    def fits(self, pair):
        return pair.scale == (1, 1) and "mask" in pair.carries and "actor_ids" not in pair.carries

    def prepare(self, clip, size=None):
        """What is below the mask is replaced by what OpenCV finds from around it: nothing of it may shine through."""
        if clip.mask is None:
            raise UserError("The clip to be inpainted has no mask; give one, white where it is to be filled.")
        mask = clip.mask
        if mask.min() < 0 or mask.max() > 1:
            raise UserError(f"The mask of the clip to be inpainted has values from {float(mask.min()):g} to "
                            f"{float(mask.max()):g}; give 0, where the clip stays, to 1, where it is to be filled.")
        mended = mask * filled(clip.frames, mask) + (1 - mask) * clip.frames
        return type(clip)(torch.where(mask > 0, mended, clip.frames), cameras=clip.cameras, mask=mask)

    def redraw(self, pair, draw, settings):
        if draw.random() < KEEP and pair.degraded.mask is not None:
            return pair
        kind = draw.choice(["central", "box", "moving-box", "brush"])
        holes, _ = draw_masks(MaskSettings(kind), *pair.clean[:, 0].shape, draw.getrandbits(31))
        made = inpainting_pair(pair.clean, pair.name, holes)
        made.valid = pair.valid
        return made

    def extra(self, clip):
        return clip.mask

    def gate(self, clip):
        return clip.mask

    def weight(self, pair, settings):
        """The hole alone, for nothing else can be learnt."""
        return super().weight(pair, settings) * pair.degraded.mask
