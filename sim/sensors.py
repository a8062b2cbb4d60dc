"""What the rig's cameras and lidars measure while it drives: distortion, rolling shutter, turning beams, two returns."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
from jaxtyping import Float

from chopgrad_ns.data.drives.drive import Photo, RigCamera
from chopgrad_ns.data.drives.projection import from_pixels
from chopgrad_ns.sim.raycast import Shot
from chopgrad_ns.sim.recording import Lidar, Sweep
from chopgrad_ns.sim.rig import Rig, angles, rotations
from chopgrad_ns.sim.underway import DriveCaster
from chopgrad_ns.splat.cameras import Cameras

TURN = 0.1
"""Seconds in which a lidar that is not `uniform` turns once."""
REACH = {"TOP": 75.0, "FRONT": 20.0}
"""Metres beyond which nothing comes back."""
SIDE = np.deg2rad(95)
"""Short-range lidars see nothing beyond this angle to their front: the vehicle is there."""
DIVERGENCE = 1.5e-3
"""Radians by which a beam's edge is above, and as far beside, its middle."""
APART = 0.3
"""Metres between two returns of a beam, at least."""


class Sensors:
    """The cameras and lidars of a rig, in a world that rays are cast into."""

    def __init__(self, caster: DriveCaster, rig: Rig):
        self.caster, self.rig = caster, rig
        self._rays = cache(lambda name, offset: _rays(rig.cameras[name], np.array(offset)))

    def photo(self, photo: Photo, gain: Float[np.ndarray, "3"] | float = 1.0) -> Shot:
        """A picture as the camera takes it: each line from where it was when the line was exposed, with all that moves
        where it was then; depth along that line's optical axis.
        """
        camera, shutter = self.rig.cameras[photo.camera], photo.shutter
        across = camera.first_line in ("left", "right")
        lines = camera.width if across else camera.height
        rows, columns = np.divmod(np.arange(camera.width * camera.height), camera.width)
        when = columns if across else rows

        def rays(offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            share = (np.arange(lines) + float(offset[0 if across else 1])) / lines
            share = share if camera.first_line in ("left", "top") else 1 - share
            times = shutter.first + share * (shutter.last - shutter.first)
            self.caster.at(times)
            poses = (self.rig.poses(times) @ camera.vehicle_from_camera).astype(np.float32)
            local = self._rays(photo.camera, (float(offset[0]), float(offset[1])))
            return poses[when, :3, 3], np.einsum("nij,nj->ni", poses[when, :3, :3], local)

        return self.caster.shoot(rays, when, (camera.height, camera.width), float(camera.K[0, 0]), gain)

    def view(self, camera: Cameras, gain: Float[np.ndarray, "3"] | float = 1.0) -> Shot:
        """What a pinhole camera sees, all at the camera's time."""
        self.caster.at(camera.times.numpy())
        return self.caster.look(camera, gain)

    def sweep(self, lidar: Lidar, time: float) -> Sweep:
        """A lidar's range images of the frame at `time`.

        What the middle of a beam meets is the first return. Where the beam's edge goes on past that, what is there in
        the direction of the middle is the second: both lie on surfaces.
        """
        rows, columns = len(lidar.inclinations), lidar.columns
        times = np.array([time]) if lidar.uniform else time + TURN * ((np.arange(columns) + 0.5) / columns - 0.5)
        poses = self.rig.poses(times)
        when = np.zeros(rows * columns, int) if lidar.uniform else np.tile(np.arange(columns), rows)
        self.caster.at(times)
        mounted = (poses @ lidar.vehicle_from_lidar)[when].astype(np.float32)
        origins = mounted[:, :3, 3]
        middle, edge = (np.einsum("nij,nj->ni", mounted[:, :3, :3], beams(lidar, off).reshape(-1, 3).astype(np.float32))
                        for off in (0.0, DIVERGENCE))
        measure = partial(self._measure, when=when)
        first, bright = measure(origins, middle)
        passing, _ = measure(origins, edge)
        beyond = np.flatnonzero(np.isfinite(passing) & (passing > first + 2 * APART))
        second, faint = np.full_like(first, np.inf), np.zeros_like(bright)
        from_there = passing[beyond] - APART
        further, faint[beyond] = self._measure(origins[beyond] + from_there[:, None] * middle[beyond], middle[beyond],
                                               when[beyond])
        second[beyond] = np.where(further < 2 * APART, from_there + further, np.inf)
        blind = np.tile(np.abs(azimuths(lidar)) > SIDE, rows) if lidar.uniform else np.zeros(len(when), bool)
        limit = REACH[lidar.name]
        returns = tuple(_range_image(distance, bright, blind | (distance > limit), rows)
                        for distance, bright in ((first, bright), (second, 0.5 * faint)))
        return Sweep(lidar.name, returns, None if lidar.uniform else _pixel_poses(poses, rows))

    def _measure(self, origins, directions, when) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Metres to what beams meet, inf for nothing, and the share of their light that comes back."""
        hits = self.caster.cast(origins, directions, when)
        distance, bright = hits["t_hit"].numpy(), np.zeros(len(when), np.float32)
        seen = np.flatnonzero(np.isfinite(distance))
        albedo, _, facing = self.caster.surface(directions[seen], when[seen], distance[seen], hits["face"].numpy()[seen],
                                                hits["at"].numpy()[seen], 1 / DIVERGENCE)
        bright[seen] = np.minimum(albedo.mean(axis=1) * facing, 1)
        return distance, bright


def azimuths(lidar: Lidar) -> Float[np.ndarray, "w"]:
    """Of the columns, in the lidar's frame, radians: the first looks back, those after it further and further right."""
    ahead = np.arctan2(lidar.vehicle_from_lidar[1, 0], lidar.vehicle_from_lidar[0, 0])
    return (2 * (lidar.columns - np.arange(lidar.columns) - 0.5) / lidar.columns - 1) * np.pi - ahead


def beams(lidar: Lidar, off: float = 0.0) -> Float[np.ndarray, "h w 3"]:
    """Directions in the lidar's frame, of length 1; `off` radians above, and as far to the left."""
    up, turn = lidar.inclinations[:, None] + off, azimuths(lidar)[None] + off
    return np.stack(np.broadcast_arrays(np.cos(up) * np.cos(turn), np.cos(up) * np.sin(turn), np.sin(up)), axis=-1)


def points_of(sweep: Sweep, lidar: Lidar, world_from_vehicle: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "n 3"]:
    """Places in the world that a sweep measured, first those of the first return."""
    poses = world_from_vehicle[None, None]
    if sweep.pixel_poses is not None:
        each = sweep.pixel_poses.astype(np.float64)
        poses = np.tile(np.eye(4), (*each.shape[:2], 1, 1))
        poses[..., :3, :3], poses[..., :3, 3] = rotations(*np.moveaxis(each[..., :3], -1, 0)), each[..., 3:]
    mounted, way, points = poses @ lidar.vehicle_from_lidar, beams(lidar), []
    for image in sweep.returns:
        local = image[..., :1].astype(np.float64) * way
        world = np.einsum("...ij,...j->...i", mounted[..., :3, :3], local) + mounted[..., :3, 3]
        points.append(world[image[..., 0] > 0])
    return np.concatenate(points)


def _rays(camera: RigCamera, offset: Float[np.ndarray, "2"]) -> Float[np.ndarray, "n 3"]:
    v, u = np.meshgrid(np.arange(camera.height) + offset[1], np.arange(camera.width) + offset[0], indexing="ij")
    return from_pixels(camera, np.stack([u, v], axis=-1).reshape(-1, 2)).astype(np.float32)


def _range_image(distance, bright, nothing, rows: int) -> Float[np.ndarray, "h w 4"]:
    image = np.stack([distance, bright, np.zeros_like(distance), np.full_like(distance, -1)], axis=-1)
    image[nothing | ~np.isfinite(distance)] = -1
    return image.reshape(rows, -1, 4).astype(np.float32)


def _pixel_poses(poses: Float[np.ndarray, "w 4 4"], rows: int) -> Float[np.ndarray, "h w 6"]:
    each = np.stack([*angles(poses[:, :3, :3]), *poses[:, :3, 3].T], axis=-1).astype(np.float32)
    return np.repeat(each[None], rows, axis=0)
