"""Renders of a splat, with its alpha and depth, and photos beside them."""

from __future__ import annotations

from dataclasses import replace

import torch

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.refiner.exposure import matched
from chopgrad_ns.refiner.tasks.base import Task

PHOTOS = 2
"""That are not aligned, in training."""


class ArtifactRemoval(Task):
    """Mend what a splat shows from new views.

    Alpha and inverse depth go with the render; photos warped into the view (`Clip.references`) are found where the splat
    has geometry, and photos that are not aligned (`Clip.photos`) may be given where it has none.
    """

    name = "artifact-removal"
    prompt = "remove degradation"
    extra_channels = 2
    losses = "robust_l1=1,ssim=0.2"  # people, cars and clouds differ between photos, and are not the splat's fault

    def fits(self, pair):
        return pair.scale == (1, 1) and "mask" not in pair.carries

    def prepare(self, clip, size=None):
        """Depth in units of its median in the clip, for scenes have no common scale; photos as the frames are exposed."""
        if clip.depth is not None and (seen := clip.depth > 0).any():
            clip = replace(clip, depth=clip.depth / clip.depth[seen].median())
        if clip.references is not None:
            clip = replace(clip, references=matched(clip.references, clip.frames[:, None], clip.reference_masks))
        return clip

    def photos(self, pair, draw):
        """Two of those that the splat was fitted to: where nothing of a frame is to be learnt, it was one of them."""
        whole = pair.read()
        if whole.valid is None:
            return None
        fitted = [number for number, valid in enumerate(whole.valid) if not valid.any()]
        return whole.clean[sorted(draw.sample(fitted, PHOTOS))] if len(fitted) >= PHOTOS else None

    def extra(self, clip):
        """Alpha, and nearness 1 / (1 + depth), 0 where there is no depth."""
        alpha = torch.ones_like(clip.frames[:, :1]) if clip.alpha is None else clip.alpha
        if clip.depth is None:
            return torch.cat([alpha, torch.zeros_like(alpha)], dim=1)
        near = torch.where(clip.depth > 0, 1 / (1 + clip.depth), torch.zeros_like(clip.depth))
        return torch.cat([alpha, near], dim=1)

    def target(self, pair, settings):
        """The photos as the render is exposed: how a photo was exposed cannot be foretold, and is no artifact."""
        if not settings.match_exposure:
            return pair.clean
        return matched(pair.clean, pair.degraded.frames, self.weight(pair, settings)).clamp(0, 1)

    def weight(self, pair, settings):
        """Only where the splat shows something: what it does not show cannot be mended, only invented."""
        weight = super().weight(pair, settings)
        alpha = pair.degraded.alpha
        return weight if alpha is None else weight * (alpha >= settings.min_alpha)
