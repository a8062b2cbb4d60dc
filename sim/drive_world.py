"""A sample street as the recording of a drive: pictures, sweeps of lidars and boxes, frame by frame."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from chopgrad_ns.data.drives.drive import Photo
from chopgrad_ns.sim.raycast import Shot
from chopgrad_ns.sim.recording import Box, Frame, Recording, Sweep
from chopgrad_ns.sim.rig import STEP, Rig, make_rig
from chopgrad_ns.sim.road import FRAME_RATE
from chopgrad_ns.sim.sensors import Sensors, points_of
from chopgrad_ns.sim.underway import DriveCaster
from chopgrad_ns.sim.world import RECIPE, World

IN_RANGE = 75.0
"""Metres from the vehicle within which others have boxes."""
QUALITY = 95
"""Of the pictures, which are JPEG with all of their colour."""
START = 1_700_000_000.0
"""Seconds since 1970 at which seed 0 is recorded; each seed an hour after the one before."""

Seen = Callable[[Photo, Shot], None]


@dataclass(frozen=True)
class DriveFrames:
    """The frames of a drive, made while they are gone through; each time alike."""

    world: World
    rig: Rig
    frames: int
    seen: Seen | None

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[Frame]:
        sensors = Sensors(DriveCaster(self.world), self.rig)
        gains = self.world.exposure.gains(self.frames)
        for number in range(self.frames):
            yield self._frame(sensors, number, gains[number])

    def _frame(self, sensors: Sensors, number: int, gain: Float[np.ndarray, "3"]) -> Frame:
        time, photos, pictures = number / FRAME_RATE, self.rig.photos(number), []
        for photo in photos:
            shot = sensors.photo(photo, gain)
            pictures.append(_jpeg(shot.picture))
            if self.seen is not None:
                self.seen(photo, shot)
        pose = self.rig.poses(np.array([time]))[0]
        sweeps = [sensors.sweep(lidar, time) for lidar in self.rig.lidars]
        return Frame(time, pose, photos, pictures, sweeps, boxes(self.world, self.rig, time, sweeps))


def record(world: World, frames: int = 40, width: int = 240, height: int = 160, seen: Seen | None = None) -> Recording:
    """Drive through a street, ten frames a second, with pictures of `width`×`height` px; nothing is made before the
    recording's frames are gone through, and then `seen` is told what each photo truly shows.

    Raises ValueError for worlds that nobody drives through; that the street is long enough is the caller's to see to.
    """
    rig = make_rig(world, width, height)
    about = {"kind": world.kind, "seed": world.seed, "recipe": RECIPE}
    return Recording(f"{world.kind}-{world.seed}", START + 3600.0 * world.seed, list(rig.cameras.values()), rig.lidars,
                     DriveFrames(world, rig, frames, seen), about=about)


def boxes(world: World, rig: Rig, time: float, sweeps: list[Sweep]) -> list[Box]:
    """Of all vehicles in range, hidden ones too; with the points that the sweeps have in them."""
    pose, lidars = rig.poses(np.array([time]))[0], {lidar.name: lidar for lidar in rig.lidars}
    points = np.concatenate([np.zeros((0, 3)), *(points_of(sweep, lidars[sweep.lidar], pose) for sweep in sweeps)])
    found = []
    for vehicle in world.vehicles:
        (before, now, after), present = world.poses_at(vehicle, time + np.array([-STEP, 0, STEP]))
        if not present[1] or np.linalg.norm(now[:3, 3] - pose[:3, 3]) > IN_RANGE:
            continue
        inside = (np.abs((points - now[:3, 3]) @ now[:3, :3]) <= vehicle.size / 2 + 1e-3).all(axis=1)
        velocity = (after[:3, 3] - before[:3, 3]) / (2 * STEP)
        found.append(Box(vehicle.name, "vehicle", vehicle.size, now, velocity, int(inside.sum())))
    return found


def _jpeg(picture: Float[np.ndarray, "h w 3"]) -> bytes:
    content = io.BytesIO()
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(content, "JPEG", quality=QUALITY, subsampling=0)
    return content.getvalue()
