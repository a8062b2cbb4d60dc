"""A recorded street and its `Drive`, without a file format in between; and distances from true surfaces."""

import numpy as np
import torch

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.drives.drive import Drive
from chopgrad_ns.sim.recording import Recording
from chopgrad_ns.sim.shapes import Mesh
from chopgrad_ns.sim.world import World


class Pictures:
    """Source of the pictures of frames that are in memory."""

    def __init__(self, frames):
        self.frames = frames

    def picture(self, photo):
        frame = self.frames[photo.frame]
        return frame.pictures[frame.photos.index(photo)]


def drive_of(recording: Recording) -> Drive:
    """The drive in the recording's own world."""
    frames, cameras = list(recording.frames), {camera.name: camera for camera in recording.cameras}
    names = sorted({box.name for frame in frames for box in frame.boxes})
    actors = []
    for name in names:
        there = [{box.name: box for box in frame.boxes}.get(name) for frame in frames]
        box = next(box for box in there if box is not None)
        poses = np.stack([np.eye(4) if box is None else box.pose for box in there])
        actors.append(Actor(name, box.kind, torch.from_numpy(box.size), torch.from_numpy(poses),
                            torch.tensor([box is not None for box in there])))
    photos = [photo for name in cameras for frame in frames for photo in frame.photos if photo.camera == name]
    return Drive(recording.name, np.array([frame.time for frame in frames]),
                 np.stack([frame.world_from_vehicle for frame in frames]), np.eye(4), cameras, photos,
                 [lidar.name for lidar in recording.lidars], actors, Pictures(frames), "test")


def off_surfaces(world: World, points: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Metres from each point to the nearest surface of the street as it is at the point's time."""
    still = [vehicle.mesh.posed(world.poses_at(vehicle, np.zeros(1))[0][0]) for vehicle in world.vehicles
             if not vehicle.track.speed]
    nearest = off_mesh(Mesh.cat([world.mesh, *still]), points)
    for vehicle in world.vehicles:
        if vehicle.track.speed:
            poses, there = world.poses_at(vehicle, times)
            local = np.einsum("nji,nj->ni", poses[:, :3, :3], points - poses[:, :3, 3])
            nearest = np.minimum(nearest, np.where(there, off_mesh(vehicle.mesh, local), np.inf))
    return nearest


def off_mesh(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    """Metres from each point to the nearest triangle within 5 mm, inf where there is none: one point after the other, in
    float64 (open3d's distances are millimetres off where triangles are long and thin).
    """
    low, high = mesh.corners.min(axis=1) - 5e-3, mesh.corners.max(axis=1) + 5e-3
    found = np.full(len(points), np.inf)
    for index, point in enumerate(points):
        for corners in mesh.corners[((low <= point) & (point <= high)).all(axis=1)].astype(np.float64):
            found[index] = min(found[index], _off_triangle(corners, point))
    return np.where(found < 5e-3, found, np.inf)


def _off_triangle(corners: np.ndarray, point: np.ndarray) -> float:
    sides = np.roll(corners, -1, axis=0) - corners
    normal = np.cross(sides[0], sides[1])
    if not normal.any():
        return np.inf
    if all(np.cross(side, point - corner) @ normal >= 0 for side, corner in zip(sides, corners)):
        return abs((point - corners[0]) @ normal) / np.linalg.norm(normal)
    share = np.clip(np.einsum("kc,kc->k", point - corners, sides) / (sides**2).sum(axis=1), 0, 1)
    return float(np.linalg.norm(point - corners - share[:, None] * sides, axis=1).min())
