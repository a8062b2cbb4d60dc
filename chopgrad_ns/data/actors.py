"""Actors: rigid things with a box that stand or move in a scene."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass
class Actor:
    """A vehicle, for instance: its box, and where that is in each of T frames.

    `size` [3] is length, width and height in world units, along the box's x (forward), y (left) and z (up);
    `world_from_actor` [T, 4, 4] are rigid poses of the box's centre; `present` [T] tells in which frames it is there
    (poses of the others mean nothing). In maps of actor ids, the actor at index k of a scene's list is k + 1, and 0 is
    the background.
    """

    name: str
    kind: str
    size: Float[Tensor, "3"]
    world_from_actor: Float[Tensor, "t 4 4"]
    present: Bool[Tensor, "t"]

    def __post_init__(self) -> None:
        count = len(self.present)
        if self.size.shape != (3,) or self.world_from_actor.shape != (count, 4, 4):
            raise ValueError(f"actor {self.name}: size {tuple(self.size.shape)} and poses "
                             f"{tuple(self.world_from_actor.shape)} for {count} frames; [3] and [T, 4, 4] are needed")

    def __len__(self) -> int:
        return len(self.present)

    def __getitem__(self, frames: slice | list[int]) -> Actor:
        """The same actor in some of the frames."""
        return Actor(self.name, self.kind, self.size, self.world_from_actor[frames], self.present[frames])

    def transformed(self, rotation: Float[Tensor, "3 3"], translation: Float[Tensor, "3"], scale: float) -> Actor:
        """The actor in a world whose points are scale · (rotation · x + translation): nerfstudio's way of moving one."""
        moved = torch.eye(4).to(self.world_from_actor)
        moved[:3, :3], moved[:3, 3] = rotation, translation
        poses = moved @ self.world_from_actor
        poses[:, :3, 3] *= scale
        return Actor(self.name, self.kind, self.size * scale, poses, self.present)
