"""Pinhole cameras of one size along a trajectory (OpenCV axes: x right, y down, z forward)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

OPTIONAL = {"times": (), "readout": (2,), "motion": (6,)}
"""What cameras may know besides, and its shape for each."""


@dataclass(frozen=True)
class Cameras:
    """T cameras: `camera_from_world` [T, 4, 4]; `K` [T, 3, 3] in pixels, pixel (i, j) centred at (j+½, i+½).

    `times` [T], in seconds, matter where something moves: a splat is the same at any time, the scene of a drive is not.
    Cameras with a rolling shutter have `readout` [T, 2], seconds from the exposure of the left border to that of the right
    and from the top to the bottom, one of them 0; and `motion` [T, 6], the camera's velocity along its own axes (world units a
    second) and about them (rad/s). Poses and times are then those of the picture's middle. Raises ValueError for other shapes.
    """

    camera_from_world: Float[Tensor, "t 4 4"]
    K: Float[Tensor, "t 3 3"]
    width: int
    height: int
    times: Float[Tensor, "t"] | None = None
    readout: Float[Tensor, "t 2"] | None = None
    motion: Float[Tensor, "t 6"] | None = None

    def __post_init__(self) -> None:
        count = len(self.camera_from_world)
        if self.camera_from_world.shape != (count, 4, 4) or self.K.shape != (count, 3, 3):
            shapes = f"{tuple(self.camera_from_world.shape)} and {tuple(self.K.shape)}"
            raise ValueError(f"camera_from_world and K must be [T, 4, 4] and [T, 3, 3], not {shapes}")
        for name, shape in OPTIONAL.items():
            value = getattr(self, name)
            if value is not None and value.shape != (count, *shape):
                raise ValueError(f"{name} of shape {tuple(value.shape)} for {count} cameras")
        if (self.readout is None) != (self.motion is None):
            raise ValueError("readout and motion go together")

    def __len__(self) -> int:
        return len(self.K)

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Cameras:
        """Some of the cameras; an int gives one camera, still with its leading axis."""
        if isinstance(index, int):
            index = [index]
        return self._each(lambda value: value[index])

    def to(self, *args, **kwargs) -> Cameras:
        """Move or cast, as `Tensor.to`."""
        return self._each(lambda value: value.to(*args, **kwargs))

    def _each(self, change) -> Cameras:
        changed = {name: change(value) for name in ("camera_from_world", "K", *OPTIONAL)
                   if (value := getattr(self, name)) is not None}
        return replace(self, **changed)

    def still(self) -> Cameras:
        """The same cameras without a rolling shutter."""
        return replace(self, readout=None, motion=None)

    @property
    def world_from_camera(self) -> Float[Tensor, "t 4 4"]:
        """Inverse of the rigid `camera_from_world`."""
        rotation = self.camera_from_world[:, :3, :3].transpose(1, 2)
        inverse = torch.zeros_like(self.camera_from_world)
        inverse[:, :3, :3] = rotation
        inverse[:, :3, 3:] = -rotation @ self.camera_from_world[:, :3, 3:]
        inverse[:, 3, 3] = 1
        return inverse

    @property
    def centers(self) -> Float[Tensor, "t 3"]:
        """Camera centres in the world."""
        return self.world_from_camera[:, :3, 3]

    def resized(self, width: int, height: int) -> Cameras:
        """The same views at another picture size."""
        scale = self.K.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(self, K=self.K * scale[:, None], width=width, height=height)

    @staticmethod
    def cat(parts: list[Cameras]) -> Cameras:
        """Trajectories one after the other; all of one size, and all with times or none, and rolling shutters or none."""
        sizes = {(part.width, part.height) for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"cameras of different sizes cannot be joined: {sorted(sizes)}")
        poses, K = torch.cat([part.camera_from_world for part in parts]), torch.cat([part.K for part in parts])
        optional = {}
        for name in OPTIONAL:
            there = {getattr(part, name) is not None for part in parts}
            if len(there) != 1:
                raise ValueError(f"cameras with {name} and without cannot be joined")
            if there == {True}:
                optional[name] = torch.cat([getattr(part, name) for part in parts])
        return Cameras(poses, K, parts[0].width, parts[0].height, **optional)

    @staticmethod
    def from_opengl(c2w: Float[Tensor, "t _ 4"], fx, fy, cx, cy, width: int, height: int,
                    times: Float[Tensor, "t"] | None = None) -> Cameras:
        """From poses in OpenGL axes (x right, y up, z back), [T, 3|4, 4]; intrinsics [T] or numbers."""
        count = len(c2w)
        world_from_camera = torch.eye(4, dtype=c2w.dtype, device=c2w.device).repeat(count, 1, 1)
        world_from_camera[:, :3] = c2w[:, :3] * c2w.new_tensor([1.0, -1.0, -1.0, 1.0])
        K = torch.eye(3, dtype=c2w.dtype, device=c2w.device).repeat(count, 1, 1)
        for (row, column), value in {(0, 0): fx, (1, 1): fy, (0, 2): cx, (1, 2): cy}.items():
            K[:, row, column] = torch.as_tensor(value, dtype=c2w.dtype, device=c2w.device)
        return Cameras(Cameras(world_from_camera, K, width, height).world_from_camera, K, width, height, times)
