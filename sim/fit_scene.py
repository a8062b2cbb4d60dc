"""A scene graph from the photos of a drive: what stands still, actors on their tracks and the sky are trained together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.views import Views
from chopgrad_ns.sim.scene_graph import Node, SceneGraph
from chopgrad_ns.sim.sky import Sky
from chopgrad_ns.sim.tracked import TrackedGaussians
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.fit import LEARNING_RATES, FitSettings, Progress, fit
from chopgrad_ns.splat.gaussians import Gaussians

FEWEST, MOST, MOST_OF_ALL = 400, 3000, 120_000
"""Gaussians of an actor, as far as it has points, and of all: they are not made anew in training."""
SH_DEGREE = 2
"""Of actors."""

RATES = {"sky": 1e-2, "actor_means": 2.5 * LEARNING_RATES["means"], "actor_log_scales": LEARNING_RATES["scales"],
         "actor_quats": LEARNING_RATES["quats"], "actor_opacity_logits": LEARNING_RATES["opacities"],
         "actor_sh": LEARNING_RATES["sh0"], "actor_shift": 1e-3, "actor_turn": 2e-4}
"""Learning rates, in metres and radians where they are of places: a vehicle's radius is about 2.5 m."""


@dataclass
class SeededActor:
    """An actor with its boxes over the scene's frames, and coloured points on it: `points` [P, 3] in the frame of its box,
    `colors` [P, 3] in 0…1.
    """

    actor: Actor
    points: Float[Tensor, "p 3"]
    colors: Float[Tensor, "p 3"]


class ActorsAndSky(torch.nn.Module):
    """What is trained beside a splat of what stands still (a `splat.fit.Beside`)."""

    def __init__(self, actors: Sequence[SeededActor], frame_times: Float[Tensor, "t"], sky: Sky, **placement):
        """`placement`: in which world all is drawn, as `TrackedGaussians` takes it."""
        super().__init__()
        # No buffer: tracks are looked up with times, presence and frames that all stay on the CPU.
        self.sky, self.tracked, self.frame_times = sky, None, frame_times.cpu()
        if actors:
            most = max(min(MOST, MOST_OF_ALL // len(actors)), FEWEST)
            seeds = [seed_gaussians(one.actor.size, one.points, one.colors, most) for one in actors]
            self.tracked = TrackedGaussians([one.actor for one in actors], seeds, frame_times, **placement)

    def at(self, camera: Cameras) -> Gaussians:
        if self.tracked is None:
            return Gaussians.from_points(torch.zeros(0, 3), torch.zeros(0, 3), 0).to(self.sky.colors)
        return self.tracked.at(float(camera.times[0]), camera)

    def behind(self, camera: Cameras) -> Float[Tensor, "3 h w"]:
        return self.sky.seen_by(camera)

    def penalty(self) -> Float[Tensor, ""]:
        """Against a sky of noise; against boxes that wander off (10 cm and 0.03 rad count alike) or move unevenly, and
        Gaussians that leave theirs.
        """
        loss = 0.1 * self.sky.roughness()
        if self.tracked is not None:
            tracked = self.tracked
            wander = (tracked.shift / 0.1).square().mean() + (tracked.turn / 0.03).square().mean()
            outside = (tracked.means.abs() - 0.55 * tracked.sizes[tracked.owner]).clamp_min(0)
            loss = loss + 1e-3 * (wander + tracked.unevenness()) + 0.1 * outside.mean()
        return loss

    def optimizer(self, extent: float) -> torch.optim.Adam:
        groups = [{"params": parameters, "lr": RATES[name]} for name, parameters in self.parameter_groups().items()]
        return torch.optim.Adam(groups, eps=1e-15, fused=True)

    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """Parameters under the names of their learning rates in `RATES`."""
        groups = {"sky": [self.sky.colors]}
        if self.tracked is not None:
            groups |= {name: [getattr(self.tracked, name.removeprefix("actor_"))] for name in RATES if name != "sky"}
        return groups

    def graph(self, background: Gaussians) -> SceneGraph:
        """The scene as it is now, in the drive's world (metres), with a background that is in it too."""
        nodes = {}
        if self.tracked is not None:
            nodes = {actor.name: Node(self.tracked.actor(k), self.tracked.splat_of(k))
                     for k, actor in enumerate(self.tracked.actors)}
        return SceneGraph(background, self.frame_times, nodes, Sky(self.sky.colors.detach()))


def seed_gaussians(size: Float[Tensor, "3"], points: Float[Tensor, "p 3"], colors: Float[Tensor, "p 3"],
                   most: int = MOST) -> Gaussians:
    """Where an actor's training begins: at its points, mirrored left to right, for vehicles are alike on both sides, and in
    its box where those are few.
    """
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(points), generator=generator)[:most // 2]
    points, colors = points[chosen].float(), colors[chosen].float()
    points, colors = torch.cat([points, points * points.new_tensor([1, -1, 1])]), colors.repeat(2, 1)
    missing = FEWEST - len(points)
    if missing > 0:
        mean = colors.mean(dim=0) if len(colors) else torch.full((3,), 0.4)
        drawn = (torch.rand(missing, 3, generator=generator) - 0.5) * size.cpu()
        points = torch.cat([points, drawn.to(points)])
        colors = torch.cat([colors, mean.to(colors).expand(missing, 3)])
    return Gaussians.from_points(points, colors, SH_DEGREE)


def fit_scene(views: Views, actors: Sequence[SeededActor], frame_times: Float[Tensor, "t"], settings: FitSettings,
              progress: Progress | None = None) -> SceneGraph:
    """Reconstruct a drive from `views`, whose cameras have times and whose points are of what stands still.

    All photos count everywhere: actors are not masked but drawn. `views.depths` (lidar) guide all Gaussians. Deterministic
    on the CPU for given inputs and `settings.seed`. Raises ValueError for cameras without times.
    """
    if views.cameras.times is None:
        raise ValueError("the cameras of a drive need times")
    beside = ActorsAndSky(actors, frame_times, Sky.of_one_color(typical_sky(views)))
    background = fit(views.photos, views.cameras, views.points, views.colors, settings, progress, views.depths, beside=beside)
    return beside.graph(background)


def typical_sky(views: Views) -> Float[Tensor, "3"]:
    """The median colour of the photos' uppermost rows: where a sky's training begins."""
    return views.photos[:, :, : max(views.photos.shape[2] // 12, 1)].permute(1, 0, 2, 3).flatten(1).median(dim=1).values
