"""Actors: rigid things with a box that stand or move in a scene."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.files import write_whole

FORMAT = 1


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

    def moves(self, tolerance: float = 0.01) -> bool:
        """Whether a corner of its box is ever more than `tolerance` world units from where it first was present."""
        poses = self.world_from_actor[self.present]
        signs = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 3).to(self.size)
        corners = (signs * self.size) @ poses[:, :3, :3].transpose(1, 2) + poses[:, None, :3, 3]
        return bool(((corners - corners[:1]).norm(dim=-1) > tolerance).any())


def write_actors(path: Path, actors: Sequence[Actor]) -> None:
    """Write JSON that `read_actors` reads, whole or not at all; an actor a line."""
    lines = [json.dumps({
        "name": actor.name, "kind": actor.kind, "size": _numbers(actor.size), "present": actor.present.tolist(),
        "world_from_actor": _numbers(actor.world_from_actor)}) for actor in actors]
    listed = ",\n".join(lines)
    write_whole(path, f'{{"format": {FORMAT}, "actors": [\n{listed}\n]}}\n'.encode())


def read_actors(path: Path) -> list[Actor]:
    """Actors of a scene, all of as many frames. Raises UserError with what is wrong, where, and the remedy."""
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"The actors in {path} cannot be read ({error}); write the scene again.") from error
    listed = content.get("actors") if isinstance(content, dict) and content.get("format") == FORMAT else None
    if not isinstance(listed, list):
        raise UserError(f"{path} is not a list of actors of format {FORMAT}; write it with write_actors.")
    actors = [_read_actor(item, f"Actor {index} of {path}") for index, item in enumerate(listed)]
    names = [actor.name for actor in actors]
    if len(set(names)) < len(names):
        raise UserError(f"Two actors of {path} have the same name ({max(names, key=names.count)}); give each its own.")
    lengths = {len(actor) for actor in actors}
    if len(lengths) > 1:
        raise UserError(f"Actors of {path} have {min(lengths)} to {max(lengths)} frames; give all the same number.")
    return actors


def _read_actor(item: object, where: str) -> Actor:
    try:
        size, poses = (torch.tensor(item[key], dtype=torch.float32) for key in ("size", "world_from_actor"))
        present = torch.tensor(item["present"], dtype=torch.bool)
        actor = Actor(str(item["name"]), str(item["kind"]), size, poses, present)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where} is incomplete or of wrong shape ({error!r}); give name, kind, size [3], "
                        "world_from_actor [T, 4, 4] and present [T].") from error
    if not torch.isfinite(size).all() or not (size > 0).all():
        raise UserError(f"{where} ({actor.name}) has the size {size.tolist()}; give three positive lengths.")
    there = poses[actor.present]
    rotation, bottom = there[:, :3, :3], torch.tensor([0.0, 0, 0, 1])
    rigid = (rotation @ rotation.transpose(1, 2) - torch.eye(3)).abs().amax(dim=(1, 2)) < 1e-3
    rigid &= (torch.linalg.det(rotation) > 0) & (there[:, 3] == bottom).all(dim=1)
    rigid &= torch.isfinite(there).all(dim=(1, 2))
    if not rigid.all():
        raise UserError(f"A pose of {where[0].lower() + where[1:]} ({actor.name}) is not a rigid motion; give "
                        "rotations and finite places.")
    return actor


def _numbers(tensor: Tensor) -> list:
    """For people to read; a micrometre is exact enough."""
    return torch.round(tensor.double(), decimals=6).tolist()
