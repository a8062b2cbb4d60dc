"""What drives through a sample street: a vehicle with three cameras and two lidars, and where it is at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from chopgrad_ns.data.drives.drive import Photo, RigCamera, Shutter, Side
from chopgrad_ns.sim.recording import Lidar
from chopgrad_ns.sim.road import FRAME_RATE
from chopgrad_ns.sim.walks import Drive
from chopgrad_ns.sim.world import World
from chopgrad_ns.splat.cameras import Cameras

FOCAL = 1.07
"""Focal length in picture widths: a field of view of 50°, so that cameras 45° apart see a little of the same."""
OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
"""Forward-left-up from OpenCV's axes."""
STEP = 1e-4
"""Seconds to both sides over which velocities are taken."""


@dataclass(frozen=True)
class Mount:
    """Of a camera: metres ahead of and to the left of the vehicle's origin, yaw in radians, which side the shutter
    exposes first, and, in seconds, when the middle line is exposed after the frame's time and how long all take.
    """

    ahead: float
    left: float
    yaw: float
    first_line: Side
    after: float
    readout: float


MOUNTS = {"FRONT": Mount(1.55, 0.0, 0.0, "left", 0.0, 0.024),
          "FRONT_LEFT": Mount(1.5, 0.1, np.pi / 4, "right", -0.012, 0.022),
          "FRONT_RIGHT": Mount(1.5, -0.1, -np.pi / 4, "top", 0.013, 0.028)}
TOP = Lidar("TOP", np.eye(4), np.deg2rad(2.4 - 20 * np.linspace(0, 1, 64) ** 1.3), 600)
"""Its beams lie closer together near the horizon; it turns once in 0.1 s, the frame's time in the middle."""
FRONT = Lidar("FRONT", np.eye(4), np.deg2rad(15 - 55 * (np.arange(32) + 0.5) / 32), 180, uniform=True)
"""Short-range, with beams evenly from 15° down to −40° (these are the borders of the outermost); measures all at once."""


@dataclass(frozen=True)
class Rig:
    """A vehicle on its way: its frame is x forward, y left, z up, the origin on the ground."""

    walk: Drive
    cameras: dict[str, RigCamera]
    lidars: list[Lidar]

    def poses(self, times: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 4 4"]:
        """world_from_vehicle at any seconds; it nods and rolls a little."""
        times = np.asarray(times, np.float64)
        place, yaw, nod = self.walk.course(times)
        poses = np.tile(np.eye(4), (len(times), 1, 1))
        poses[:, :3, :3] = rotations(0.004 * np.sin(3 * times + self.walk.phase), -nod, yaw)
        poses[:, :3, 3] = place
        return poses

    def velocities(self, time: float) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """Linear in m/s and angular in rad/s, along the world's axes."""
        before, after = self.poses(time + np.array([-STEP, STEP]))
        turn = after[:3, :3] @ before[:3, :3].T  # so small that its sine is its angle
        spin = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
        return (after[:3, 3] - before[:3, 3]) / (2 * STEP), spin / (2 * STEP)

    def photos(self, frame: int) -> list[Photo]:
        """The photos that the cameras take in a frame."""
        photos = []
        for name, mount in MOUNTS.items():
            time = frame / FRAME_RATE + mount.after
            shutter = Shutter(time - mount.readout / 2, time + mount.readout / 2)
            photos.append(Photo(name, frame, time, self.poses(np.array([time]))[0], f"{name} in frame {frame}",
                                *self.velocities(time), shutter))
        return photos

    def pinholes(self, photos: Sequence[Photo], left: float = 0.0) -> Cameras:
        """Cameras without distortion and rolling shutter of photos of one camera, at their middles, the whole rig moved
        `left` metres along the vehicle's y axis; with times.
        """
        camera, times = self.cameras[photos[0].camera], np.array([photo.middle for photo in photos])
        aside = np.eye(4)
        aside[1, 3] = left
        poses = np.linalg.inv(self.poses(times) @ aside @ camera.vehicle_from_camera)
        K = torch.from_numpy(camera.K).float().repeat(len(times), 1, 1)
        return Cameras(torch.from_numpy(poses).float(), K, camera.width, camera.height, torch.from_numpy(times).float())


def make_rig(world: World, width: int, height: int) -> Rig:
    """The rig for a street, whose seed draws the lenses; pictures of `width`×`height` px. Raises ValueError for worlds
    that nobody drives through.
    """
    if not isinstance(world.walk, Drive):
        raise ValueError(f"nobody drives through the world {world.kind} {world.seed}")
    rng, cameras = np.random.default_rng([world.seed, 20]), {}
    for name, mount in MOUNTS.items():
        focal = FOCAL * width * rng.uniform(0.99, 1.01)
        K = np.array([[focal, 0, width * rng.uniform(0.49, 0.51)],
                      [0, focal * rng.uniform(0.998, 1.002), height * rng.uniform(0.49, 0.51)], [0, 0, 1]])
        distortion = np.array([rng.uniform(0.03, 0.05), rng.uniform(-0.35, -0.2), *rng.choice([-1, 1], 2) *
                               rng.uniform(5e-4, 2e-3, 2), 0])
        pose = np.eye(4)
        pose[:3, :3] = rotations(0, -world.walk.pitch, mount.yaw) @ OPTICAL
        pose[:3, 3] = mount.ahead, mount.left, world.walk.height
        cameras[name] = RigCamera(name, width, height, K, distortion, pose, mount.first_line)
    lidars = [_mounted(TOP, (1.43, 0, 2.18), (0.004, -0.006, 0.3)), _mounted(FRONT, (3.9, 0, 0.7), (0, 0.01, -0.02))]
    return Rig(world.walk, cameras, lidars)


def _mounted(lidar: Lidar, place: tuple[float, ...], turn: tuple[float, ...]) -> Lidar:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotations(*turn), place
    return Lidar(lidar.name, pose, lidar.inclinations, lidar.columns, lidar.uniform)


def rotations(roll, pitch, yaw) -> Float[np.ndarray, "*n 3 3"]:
    """About x by `roll`, then about the world's y by `pitch` (down is positive), then about its z by `yaw`; radians."""
    roll, pitch, yaw = np.broadcast_arrays(roll, pitch, yaw)
    (cr, cp, cy), (sr, sp, sy) = (np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw]))
    rows = [[cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr], [-sp, cp * sr, cp * cr]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def angles(rotation: Float[np.ndarray, "*n 3 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Roll, pitch and yaw of rotations: the inverse of `rotations`."""
    return (np.arctan2(rotation[..., 2, 1], rotation[..., 2, 2]), np.arcsin(-rotation[..., 2, 0]),
            np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0]))
