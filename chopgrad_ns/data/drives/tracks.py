"""Where actors are between the frames in which their boxes are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.splat.geometry import quaternions
from chopgrad_ns.splat.torch_backend import rotations

LONGEST = 0.35, 1.8
"""Seconds between two boxes, or usual spacings of the recording's frames where those are more, beyond which it is not known
what happened in between."""
BEYOND = 0.12, 0.6
"""The same before the first and after the last of a row of boxes, where an actor is taken to go on as it did."""


def bracket(present: Bool[Tensor, "t"], frame_times: Float[Tensor, "t"], times: Float[Tensor, "n"]
            ) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"], Float[Tensor, "n"], Bool[Tensor, "n"]]:
    """Two frames for each time, how far it is from the one to the other (beyond 0…1 where motion goes on past an end), and
    whether the actor is there at all. See `at_times`.
    """
    times = times.double()
    known = present.nonzero()[:, 0]
    if not len(known):
        zero = torch.zeros(len(times), dtype=torch.long, device=times.device)
        return zero, zero, zero.double(), zero.bool()
    longest, beyond = _reach(frame_times)
    clock, last = frame_times[known].double(), len(known) - 1
    right = torch.searchsorted(clock, times).clamp(min(1, last), last)
    left = (right - 1).clamp_min(0)
    near = torch.where((times - clock[left]).abs() <= (times - clock[right]).abs(), left, right)
    bridged = clock[right] - clock[left] <= longest
    there = ((times - clock[near]).abs() <= beyond) | (bridged & (times >= clock[left]) & (times <= clock[right]))
    # In a gap, the motion on the other side of the nearer box goes on.
    past = (times > clock[near]).long()
    left = torch.where(bridged, left, near - past).clamp(0, last)
    right = torch.where(bridged, right, near + 1 - past).clamp(0, last)
    span = clock[right] - clock[left]
    moves = (span > 0) & (span <= longest)
    left, right = torch.where(moves, left, near), torch.where(moves, right, near)
    share = torch.where(moves & there, (times - clock[left]) / span.clamp_min(1e-9), 0.0)
    return known[left], known[right], share, there


def _reach(frame_times: Float[Tensor, "t"]) -> tuple[float, float]:
    """LONGEST and BEYOND in seconds: some recordings have a frame a second. A single frame stands for all times."""
    usual = float(frame_times.diff().median()) if len(frame_times) > 1 else float("inf")
    return max(LONGEST[0], LONGEST[1] * usual), max(BEYOND[0], BEYOND[1] * usual)


def between(left: Float[Tensor, "n 4 4"], right: Float[Tensor, "n 4 4"], share: Float[Tensor, "n"]
            ) -> Float[Tensor, "n 4 4"]:
    """Rigid poses on the way from one to another: straight between places, by normalised quaternions between rotations,
    which are close to each other. Differentiable in the poses.
    """
    a, b = quaternions(left[:, :3, :3]), quaternions(right[:, :3, :3])
    b = torch.where((a * b).sum(dim=1, keepdim=True) < 0, -b, b)
    turn = rotations(torch.lerp(a, b, share[:, None]))
    place = torch.lerp(left[:, :3, 3], right[:, :3, 3], share[:, None])
    bottom = left.new_tensor([0.0, 0, 0, 1]).expand(len(turn), 1, 4)
    return torch.cat([torch.cat([turn, place[:, :, None]], dim=2), bottom], dim=1)


def at_times(actor: Actor, frame_times: Float[Tensor, "t"], times: Float[Tensor, "n"]
             ) -> tuple[Float[Tensor, "n 4 4"], Bool[Tensor, "n"]]:
    """world_from_actor at any times, and whether the actor is there then.

    Between two boxes at most 0.35 s or 1.8 frames apart places and rotations are interpolated; up to 0.12 s or 0.6 frames
    beyond the ends of such a row the motion at the end goes on, and where a row is a single box, it stands still. Poses
    where it is not there mean nothing. Differentiable in the actor's poses.
    """
    left, right, share, there = bracket(actor.present, frame_times, times)
    poses = actor.world_from_actor
    return between(poses[left], poses[right], share.to(poses)), there


def at_time(actor: Actor, frame_times: Float[Tensor, "t"], time: float) -> tuple[Float[Tensor, "4 4"], bool]:
    """`at_times` for one time."""
    poses, there = at_times(actor, frame_times, torch.tensor([time], dtype=torch.float64))
    return poses[0], bool(there[0])


def all_at_time(actors: Sequence[Actor], frame_times: Float[Tensor, "t"], time: float) -> dict[int, Float[np.ndarray, "4 4"]]:
    """Poses (world_from_actor) of those actors that are there at a time, by their indices: as `at_time` of each, but faster
    for the hundreds that a recording has.
    """
    within = (frame_times - time).abs() <= max(_reach(frame_times))
    near = [index for index, actor in enumerate(actors) if actor.present[within].any()]
    if not near:
        return {}
    at = torch.tensor([time], dtype=torch.float64)
    left, right, share, there = (torch.cat(parts) for parts in
                                 zip(*(bracket(actors[index].present, frame_times, at) for index in near)))
    poses = [actors[index].world_from_actor for index in near]
    ends = [torch.stack([pose[frame] for pose, frame in zip(poses, side.tolist())]) for side in (left, right)]
    found = between(*ends, share.to(ends[0])).double().numpy()
    return {index: found[place] for place, index in enumerate(near) if there[place]}
