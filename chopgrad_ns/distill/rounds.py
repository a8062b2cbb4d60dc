"""One round of distillation: look from new places, refine what is seen, say how far to trust it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.data.paths import beside, shifted, through
from chopgrad_ns.data.references import REFERENCES
from chopgrad_ns.data.render_clip import render_clip
from chopgrad_ns.data.views import Views
from chopgrad_ns.distill.store import PseudoObservations
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.render import Scene

REFERENCE_TRUST = 0.5
"""Share of the trust that a pixel earns by being seen in a training photo; the rest comes from the splat's opacity."""


@dataclass
class RoundSettings:
    """How a round looks around."""

    frames: int = 48
    """refined frames a round, half through the training cameras and half beside them"""
    reach: float = 0.5
    """how far the last round moves sideways, in spacings between neighbouring training cameras"""
    references: int = REFERENCES
    """training photos warped into each frame"""
    lane_shifts: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0)
    """metres beside the recorded lane, of the trajectories of a drive"""


def lane_cameras(views: Views, round_index: int, rounds: int, settings: RoundSettings) -> list[Cameras]:
    """Trajectories of one round through a drive: each of the rig's cameras in each of the lanes of the round.

    The first of `rounds` goes as far as half of `lane_shifts`, for two rounds, and the last as far as all; odd rounds move to
    the left, even ones to the right. `frames` of a round are shared out, but a trajectory has 8 at least.
    """
    count = -(-len(settings.lane_shifts) * round_index // rounds)
    side = views.rig.metre * (1 if round_index % 2 else -1)
    names = views.rig.cameras()
    frames = max(settings.frames // len(names), 8)
    paths = []
    for name in names:
        own = views.rig.of_camera(name)
        path = through(views.cameras[own], frames)
        left = views.rig.left[own][torch.linspace(0, len(own) - 1, frames).round().long()]
        paths += [shifted(path, left, side * shift) for shift in settings.lane_shifts[:count]]
    return paths


def novel_cameras(cameras: Cameras, round_index: int, rounds: int, settings: RoundSettings) -> list[Cameras]:
    """Trajectories of one round, in the order they are refined.

    The first runs through the training cameras in order, the second beside them; it moves outward over rounds
    (`reach · round_index / rounds` spacings) and changes sides every round. Held-out cameras are never asked for.
    """
    offset = settings.reach * round_index / rounds
    side = offset if round_index % 2 else -offset
    inner = max(settings.frames // 2, 2)
    return [through(cameras, inner), beside(cameras, max(settings.frames - inner, 2), side)]


def trust(clip: Clip) -> Float[Tensor, "t 1 h w"]:
    """Weight in 0…1 of each refined pixel: opaque in the splat, and better still confirmed by a warped photo."""
    seen = clip.reference_masks.amax(dim=1) if clip.reference_masks is not None else torch.zeros_like(clip.alpha)
    return clip.alpha.clamp(0, 1) * (1 - REFERENCE_TRUST + REFERENCE_TRUST * seen)


def make_round(splat: Scene | Sequence[Scene], refiner, views: Views, round_index: int, rounds: int,
               settings: RoundSettings) -> PseudoObservations:
    """Render, refine and weigh the trajectories of one round.

    Args:
        splat: the model as it is now, or an ensemble of it and of other splats of the photos.
        refiner: callable `clip -> frames [T, 3, H, W]` in 0…1.
        views: training photos and cameras, the only photographs this function is given.
        round_index: 1…rounds.
    """
    frames, weights, cameras = [], [], []
    paths = (novel_cameras(views.cameras, round_index, rounds, settings) if views.rig is None
             else lane_cameras(views, round_index, rounds, settings))
    for path in paths:
        clip = render_clip(splat, path, views, count=settings.references)
        frames.append(refiner(clip))
        weights.append(trust(clip))
        cameras.append(path)
    return PseudoObservations(torch.cat(frames), torch.cat(weights), Cameras.cat(cameras))
