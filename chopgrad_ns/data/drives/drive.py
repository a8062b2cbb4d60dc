"""A recorded drive: what every reader gives, and all that comes after it takes.

World and vehicles: metres, x forward, y left, z up; cameras: OpenCV axes. A drive's world is the vehicle's frame at the first
of its frames, so that places are small numbers which float32 holds; `source_from_world` leads back to the recording's own.
Poses are float64 and named target_from_source; times are seconds, 0 at the first frame of the recording.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float, Float32, UInt8

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.errors import UserError

Pose = Float[np.ndarray, "4 4"]
Side = Literal["top", "bottom", "left", "right"]


@dataclass(frozen=True)
class RigCamera:
    """A calibrated camera of the rig.

    `K` [3, 3] in pixels, pixel (i, j) centred at (j+½, i+½); `distortion` [5], OpenCV's k1, k2, p1, p2, k3;
    `vehicle_from_camera` with the camera in OpenCV axes. `first_line`: the side of the picture that a rolling shutter
    exposes first, None where it is not known or all lines are exposed at once.
    """

    name: str
    width: int
    height: int
    K: Float[np.ndarray, "3 3"]
    distortion: Float[np.ndarray, "5"]
    vehicle_from_camera: Pose
    first_line: Side | None = None


@dataclass(frozen=True)
class Shutter:
    """When a rolling shutter exposes: the outer edge of the first line at `first`, that of the last at `last`, seconds
    (the middle of the exposure each).
    """

    first: float
    last: float


@dataclass(frozen=True)
class Photo:
    """One picture of one camera.

    `world_from_vehicle` is the vehicle's pose at `time`, the picture's own, not the frame's; with `linear_velocity` [3] in
    m/s and `angular_velocity` [3] in rad/s, both along the world's axes, it can be carried a few hundredths of a second
    away. `name` says in a few words where the picture is in the recording, for messages.
    """

    camera: str
    frame: int
    time: float
    world_from_vehicle: Pose
    name: str
    linear_velocity: Float[np.ndarray, "3"] | None = None
    angular_velocity: Float[np.ndarray, "3"] | None = None
    shutter: Shutter | None = None

    @property
    def middle(self) -> float:
        """Seconds: when the middle line was exposed."""
        return self.time if self.shutter is None else (self.shutter.first + self.shutter.last) / 2

    def vehicle_at(self, times: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n 4 4"]:
        """world_from_vehicle at other times, carried on by the velocities (where there are any)."""
        times = np.asarray(times, np.float64)
        poses = np.broadcast_to(self.world_from_vehicle, (*times.shape, 4, 4)).copy()
        if self.linear_velocity is None:
            return poses
        ahead = (times - self.time)[..., None]
        poses[..., :3, 3] += ahead * self.linear_velocity
        if self.angular_velocity is not None:
            poses[..., :3, :3] = turns(ahead * self.angular_velocity) @ poses[..., :3, :3]
        return poses


@dataclass(frozen=True)
class Points:
    """What the lidars measured in one frame, in the drive's world, moved there as the vehicle moved while they turned.

    `xyz` [N, 3]; `intensity` [N]; `returns` [N], 1 or 2; `lidar` [N], index into `Drive.lidars`.
    """

    xyz: Float32[np.ndarray, "n 3"]
    intensity: Float32[np.ndarray, "n"]
    returns: UInt8[np.ndarray, "n"]
    lidar: UInt8[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.xyz)

    @staticmethod
    def cat(parts: Sequence[Points]) -> Points:
        """One after the other; nothing for no parts."""
        none = Points(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), *[np.zeros(0, np.uint8)] * 2)
        return Points(*(np.concatenate([getattr(part, name) for part in [none, *parts]])
                        for name in ("xyz", "intensity", "returns", "lidar")))


class Source(Protocol):
    """Where a drive's large parts are read from, when they are needed. Both raise UserError for what is damaged."""

    def picture(self, photo: Photo) -> bytes:
        """The encoded picture (JPEG or PNG), as recorded."""

    def points(self, frame: int) -> Points:
        """What the lidars measured in one frame (index into `Drive.times`)."""


@dataclass
class Drive:
    """A drive, or the part of one that was asked for.

    `times` [T] and `world_from_vehicle` [T, 4, 4] of the frames; `actors` have a box in each frame, T poses of them, not
    all of them present (`tracks.at_time` tells where they are in between, when photos are taken). `photos` in order of
    cameras, then of time. `notes`: a sentence for each thing that is odd about the recording and was dealt with (gaps in
    time, tracks of one box). `key` is of the recording's content and of what was asked for: what is derived from the
    drive is kept under it.
    """

    name: str
    times: Float[np.ndarray, "t"]
    world_from_vehicle: Float[np.ndarray, "t 4 4"]
    source_from_world: Pose
    cameras: dict[str, RigCamera]
    photos: list[Photo]
    lidars: list[str]
    actors: list[Actor]
    source: Source
    key: str
    truth: Path | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.times)

    def __deepcopy__(self, memo: dict) -> Drive:
        """Itself: nothing changes it, and its files are open once (nerfstudio copies what it knows of a scene)."""
        return self

    def photos_of(self, camera: str) -> list[Photo]:
        """A camera's pictures in order of time."""
        return [photo for photo in self.photos if photo.camera == camera]

    def of_frames(self, frames: Sequence[int]) -> Drive:
        """The drive with the photos and points of some frames only, the others' out of reach; boxes and times stay."""
        kept = frozenset(frames)
        digest = hashlib.sha256(repr((self.key, sorted(kept))).encode()).hexdigest()
        return replace(self, photos=[photo for photo in self.photos if photo.frame in kept],
                       source=_Part(self.source, kept), key=digest[:16])


@dataclass(frozen=True)
class _Part:
    """A source of some frames."""

    source: Source
    frames: frozenset[int]

    def picture(self, photo: Photo) -> bytes:
        if photo.frame not in self.frames:
            raise ValueError(f"frame {photo.frame} is not in this part of the drive")
        return self.source.picture(photo)

    def points(self, frame: int) -> Points:
        return self.source.points(frame) if frame in self.frames else Points.cat([])


@dataclass(frozen=True)
class Selection:
    """Which part of a recording is read.

    `cameras` by name (None: those that the format has in front, of one size); frames from `first` up to, not including,
    `last` (None: to the end), every `step`-th.
    """

    cameras: tuple[str, ...] | None = None
    first: int = 0
    last: int | None = None
    step: int = 1

    def frames(self, count: int, where: str) -> list[int]:
        """Indices of the frames chosen among `count`. Raises UserError where none are left."""
        if self.first < 0 or self.step < 1 or (self.last is not None and self.last < 0):
            raise UserError(f"Frames {self.first} to {self.last} by {self.step} of {where} cannot be taken; give numbers from "
                            "0 on and a step of 1 or more.")
        chosen = list(range(count))[self.first:self.last:self.step]
        if not chosen:
            raise UserError(f"No frame of {where} lies from {self.first} up to {self.last}: it has {count}; choose others.")
        return chosen

    def camera_names(self, there: Sequence[str], usual: Sequence[str], where: str) -> list[str]:
        """Cameras in the order asked for, or as many of the usual ones as are `there`, or all. Raises UserError for unknown
        ones.
        """
        if self.cameras is None:
            return [name for name in usual if name in there] or list(there)
        unknown = [name for name in self.cameras if name not in there]
        if unknown or not self.cameras:
            raise UserError(f"{where} has no camera {', '.join(unknown) or 'of no name'}; choose among {', '.join(there)}.")
        return list(dict.fromkeys(self.cameras))


def in_first_frame(world_from_vehicle: Float[np.ndarray, "t 4 4"]) -> tuple[Pose, Pose]:
    """`source_from_world` and its inverse for poses in a recording's own world: the vehicle's frame at the first of them."""
    source_from_world = np.array(world_from_vehicle[0], np.float64)
    return source_from_world, inverse(source_from_world)


def inverse(pose: Float[np.ndarray, "*n 4 4"]) -> Float[np.ndarray, "*n 4 4"]:
    """Of rigid poses; rotations that float32 has rounded included, so solved and not transposed."""
    return np.linalg.inv(np.asarray(pose, np.float64))


def moved(photo: Photo, world_from_source: Pose) -> Photo:
    """A photo whose pose and velocities were in a recording's own world, in the drive's."""
    turn = world_from_source[:3, :3]
    velocities = {name: None if value is None else turn @ value for name, value in
                  (("linear_velocity", photo.linear_velocity), ("angular_velocity", photo.angular_velocity))}
    return replace(photo, world_from_vehicle=world_from_source @ photo.world_from_vehicle, **velocities)


def turns(vectors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3 3"]:
    """Rotations by vectors: their lengths in radians, about their directions (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([np.stack([zero, -z, y], -1), np.stack([z, zero, -x], -1), np.stack([-y, x, zero], -1)], -2)
    return np.eye(3) + np.sinc(angle / np.pi) * cross + 0.5 * np.sinc(angle / 2 / np.pi) ** 2 * cross @ cross
