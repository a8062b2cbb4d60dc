"""A drive through a sample world as its sensors record it: what a writer of a recording's format is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32

from chopgrad_ns.data.drives.drive import Photo, RigCamera

Pose = Float[np.ndarray, "4 4"]


@dataclass(frozen=True)
class Lidar:
    """A spinning lidar: `vehicle_from_lidar`; `inclinations` [H] in radians, of the beams from the top row of the range
    image down, `columns` W. Where `uniform`, the recording says the lowest and the highest inclination only.
    """

    name: str
    vehicle_from_lidar: Pose
    inclinations: Float[np.ndarray, "h"]
    columns: int
    uniform: bool = False


@dataclass(frozen=True)
class Sweep:
    """One turn of a lidar: a range image for each of two returns, [H, W, 4]: range in metres (−1: nothing came back),
    intensity, elongation, and −1 (no zone without labels). `pixel_poses` [H, W, 6], where it moved on while it turned:
    roll, pitch, yaw and place of the vehicle in the world at each column.
    """

    lidar: str
    returns: tuple[Float32[np.ndarray, "h w 4"], Float32[np.ndarray, "h w 4"]]
    pixel_poses: Float32[np.ndarray, "h w 6"] | None = None


@dataclass(frozen=True)
class Box:
    """An actor's box in one frame, in the world: `pose` world_from_actor, `size` length, width, height in metres, and its
    velocity in m/s; `kind` is vehicle, pedestrian, sign or cyclist. `points`: lidar points inside.
    """

    name: str
    kind: str
    size: Float[np.ndarray, "3"]
    pose: Pose
    velocity: Float[np.ndarray, "3"]
    points: int


@dataclass(frozen=True)
class Frame:
    """All of one frame. `time` in seconds from the first; every photo has its own time and pose of the vehicle; `pictures`
    are encoded, one for each photo, whose `frame` is this one's number.
    """

    time: float
    world_from_vehicle: Pose
    photos: list[Photo]
    pictures: list[bytes]
    sweeps: list[Sweep]
    boxes: list[Box]


@dataclass
class Recording:
    """A drive of which each frame is made when it is asked for. `start` is the first frame's time in seconds since 1970;
    `exposure`: seconds that a line of a picture is exposed.
    """

    name: str
    start: float
    cameras: list[RigCamera]
    lidars: list[Lidar]
    frames: Iterable[Frame]
    exposure: float = 0.004
    about: dict = field(default_factory=dict)
