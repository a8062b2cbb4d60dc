"""Renders of a splat, with its alpha and depth, and photos beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.refiner.exposure import matched
from chopgrad_ns.refiner.tasks.base import Task

if TYPE_CHECKING:
    from chopgrad_ns.data.stored import StoredPair

AT_ONCE = 8
"""Frames that are read together to see which are fitted."""
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
        """Two of those that the splat was fitted to and nothing is to be learnt from: else they would give it away."""
        fitted = _fitted(pair)
        if len(fitted) < PHOTOS:
            return None
        chosen = [pair.read(slice(number, number + 1)) for number in sorted(draw.sample(fitted, PHOTOS))]
        if any(frame.valid is None or frame.valid.any() for frame in chosen):
            return None
        return torch.cat([frame.clean for frame in chosen])

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


def _fitted(pair: Pair | StoredPair) -> list[int]:
    """Frames whose photos the splat was fitted to, by name where the pair was made with names.

    Else those of which nothing is to be learnt; a trajectory is long, and only a few frames of it are in memory at once.
    """
    about = getattr(pair, "about", {})
    names, fitted = about.get("cameras", ()), about.get("fitted")
    if fitted is not None and len(names) == len(pair):
        return [number for number, name in enumerate(names) if name in fitted]
    numbers = []
    for first in range(0, len(pair), AT_ONCE):
        valid = pair.read(slice(first, first + AT_ONCE)).valid
        if valid is None:
            return []
        numbers += [first + number for number, frame in enumerate(valid) if not frame.any()]
    return numbers
