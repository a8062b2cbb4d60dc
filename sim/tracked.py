"""Gaussians of actors, each actor's in the frame of its box, carried along corrected tracks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.drives.tracks import between, bracket
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.geometry import harmonic_turns, multiply, quaternions
from chopgrad_ns.splat.rolling import carried

INSTANT = 0.01
"""Seconds over which velocities are taken."""
PARTS = ("means", "log_scales", "quats", "opacity_logits", "sh")


class TrackedGaussians(torch.nn.Module):
    """All actors of a scene as parameters that can be trained together.

    `means` … `sh` hold the Gaussians of all, one actor's after the other's; `shift` [A, T, 3] (along the
    box's axes) and `turn` [A, T] (radians, about its z) correct the boxes of `actors`, zero at first. What is not
    trained: `owner` [M], `sizes` [A, 3], `frame_times` [T] in seconds. All that is in metres, whatever world it is drawn in.
    """

    def __init__(self, actors: Sequence[Actor], splats: Sequence[Gaussians], frame_times: Float[Tensor, "t"],
                 translation: Float[Tensor, "3"] | None = None, scale: float = 1.0):
        """Drawn in a world whose points are scale · (x + translation). Raises ValueError without actors, or where their
        frames are not as many as the times.
        """
        super().__init__()
        if not actors or len(actors) != len(splats) or any(len(actor) != len(frame_times) for actor in actors):
            raise ValueError(f"{len(actors)} actors, {len(splats)} splats and {len(frame_times)} times do not belong together")
        self.actors, self.scale = list(actors), scale
        self.register_buffer("translation", torch.zeros(3) if translation is None else translation.clone(), persistent=False)
        merged = Gaussians.merged(list(splats))
        for name in PARTS:
            setattr(self, name, torch.nn.Parameter(getattr(merged, name).clone()))
        self.shift = torch.nn.Parameter(torch.zeros(len(actors), len(frame_times), 3))
        self.turn = torch.nn.Parameter(torch.zeros(len(actors), len(frame_times)))
        counts = torch.tensor([len(splat) for splat in splats])
        self.register_buffer("owner", torch.repeat_interleave(torch.arange(len(actors)), counts))
        self.register_buffer("frame_times", frame_times.clone(), persistent=False)
        self.register_buffer("sizes", torch.stack([actor.size for actor in actors]), persistent=False)
        self.register_buffer("present", torch.stack([actor.present for actor in actors]), persistent=False)
        self.register_buffer("recorded", torch.stack([actor.world_from_actor for actor in actors]), persistent=False)
        self._brackets: dict[float, tuple] = {}

    def __len__(self) -> int:
        return len(self.means)

    def make_room(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take as many Gaussians as a state has that is about to be loaded."""
        for name in PARTS:
            setattr(self, name, torch.nn.Parameter(torch.empty_like(state[prefix + name], device=self.owner.device)))
        self.owner = torch.empty_like(state[prefix + "owner"], device=self.owner.device)

    def splat_of(self, index: int) -> Gaussians:
        """One actor's Gaussians, in the frame of its box, detached."""
        own = self.owner == index
        return Gaussians(*(getattr(self, name).detach()[own] for name in PARTS))

    def actor(self, index: int) -> Actor:
        """One actor with its boxes as corrected."""
        actor = self.actors[index]
        poses = _corrected(self.recorded[index], self.shift[index], self.turn[index]).detach()
        return Actor(actor.name, actor.kind, actor.size, poses, actor.present)

    def poses(self, time: float, later: float = 0.0) -> tuple[Float[Tensor, "a 4 4"], Bool[Tensor, "a"]]:
        """world_from_actor of all at a time, corrected, and which are there then; carried on for some seconds as they move
        then.
        """
        left, right, share, there = self._bracket(time)
        span = self.frame_times[right] - self.frame_times[left]
        share = share + torch.where(span > 0, later / span.clamp_min(1e-9), 0)
        each = torch.arange(len(left), device=left.device)
        ends = [_corrected(self.recorded[each, frames], self.shift[each, frames], self.turn[each, frames])
                for frames in (left, right)]
        return between(*ends, share.to(self.recorded)), there

    def unevenness(self) -> Float[Tensor, ""]:
        """Mean square of the corrected boxes' accelerations, in units of 3 m/s² and of 1 rad/s², zero where no actor has boxes
        in three frames in a row.

        Frames that no photo is trained on follow their neighbours by it, and what jitters is smoothed.
        """
        if self.recorded.shape[1] < 3:
            return self.shift.new_zeros(())
        turns = self.recorded[..., :3, :3]
        place = self.recorded[..., :3, 3] + (turns @ self.shift[..., None])[..., 0]
        heading = torch.atan2(turns[..., 1, 0], turns[..., 0, 0]).diff(dim=1)
        heading = torch.atan2(heading.sin(), heading.cos()) + self.turn.diff(dim=1)
        before, after = self.frame_times.diff()[:-1].to(place), self.frame_times.diff()[1:].to(place)
        span, there = (before + after) / 2, self.present[:, 2:] & self.present[:, 1:-1] & self.present[:, :-2]
        velocity = place.diff(dim=1)
        along = (velocity[:, 1:] / after[:, None] - velocity[:, :-1] / before[:, None]) / span[:, None] / 3
        about = (heading[:, 1:] / after - heading[:, :-1] / before) / span
        uneven = along.square().sum(dim=-1) + about.square()
        return (uneven * there).sum() / there.sum().clamp_min(1)

    def at(self, time: float, camera: Cameras | None = None) -> Gaussians:
        """Those that are there at a time, in the world that is drawn; differentiable in everything.

        Where the camera has a rolling shutter, each is where it is when the line that shows it is exposed.
        """
        poses, there = self.poses(time)
        kept = there[self.owner].nonzero()[:, 0]
        owner = self.owner[kept]
        means = self.scale * (_moved(poses[owner], self.means[kept]) + self.translation)
        if camera is not None and camera.readout is not None:
            with torch.no_grad():
                drift = (self.poses(time, INSTANT)[0] - poses) / INSTANT
                velocity = self.scale * _moved(drift[owner], self.means[kept])
            means = carried(means, velocity, camera)
        quats = multiply(quaternions(poses[:, :3, :3])[owner], self.quats[kept])
        sh = self.sh[kept]
        degree = round(sh.shape[1] ** 0.5) - 1
        if degree:
            sh = harmonic_turns(poses[:, :3, :3].detach(), degree)[owner] @ sh
        return Gaussians(means, self.log_scales[kept] + math.log(self.scale), quats,
                         self.opacity_logits[kept], sh)

    def _bracket(self, time: float) -> tuple[Int[Tensor, "a"], Int[Tensor, "a"], Float[Tensor, "a"], Bool[Tensor, "a"]]:
        """Frames around a time, for each actor; kept, for a training asks for the same times again and again."""
        if time not in self._brackets:
            at = self.frame_times.new_tensor([time])
            found = [bracket(actor.present.to(at.device), self.frame_times, at) for actor in self.actors]
            self._brackets[time] = tuple(torch.cat(part) for part in zip(*found))
        return self._brackets[time]


def _moved(poses: Float[Tensor, "n 4 4"], points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    return (poses[:, :3, :3] @ points[:, :, None])[..., 0] + poses[:, :3, 3]


def _corrected(poses: Float[Tensor, "n 4 4"], shift: Float[Tensor, "n 3"], turn: Float[Tensor, "n"]) -> Float[Tensor, "n 4 4"]:
    """Boxes moved along their own axes and turned about their own z."""
    cos, sin, zero, one = turn.cos(), turn.sin(), torch.zeros_like(turn), torch.ones_like(turn)
    correction = torch.stack([cos, -sin, zero, shift[:, 0], sin, cos, zero, shift[:, 1], zero, zero, one, shift[:, 2],
                              zero, zero, zero, one], dim=1)
    return poses @ correction.unflatten(1, (4, 4))
