"""A drive made up in memory: a chequered road, cars as solid boxes, and what cameras and a lidar see of them, ray by ray."""

import io
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.drives import tracks
from chopgrad_ns.data.drives.drive import Drive, Photo, Points, RigCamera, Shutter
from chopgrad_ns.data.drives.projection import camera_at, from_pixels, line_times

RED = np.array([230, 20, 20])
SPEED, FRAMES, LATE = 10.0, 5, 0.04
"""m/s of the vehicle; frames, 0.1 s apart; seconds that photos are later than the lidar."""
AXES = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""Vehicle from a camera that looks ahead."""


def pose(x=0.0, y=0.0, z=0.0, yaw=0.0):
    made = np.eye(4)
    made[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    made[:3, 3] = x, y, z
    return made


def road(x, y):
    """Colours without red, uint8."""
    even = (np.floor(x / 2) + np.floor(y / 2)) % 2 == 0
    return np.where(even[..., None], [20, 200, 60], [20, 60, 200]).astype(np.uint8)


def made_drive(rolling=True, distorted=True, frames=FRAMES):
    """Cars: one comes, one stands, one drives beside the camera and reaches behind it."""
    times = np.arange(frames) * 0.1
    vehicle = np.stack([pose(SPEED * t, yaw=0.02 * t) for t in times])
    K = np.array([[60.0, 0, 48], [0, 60, 32], [0, 0, 1]])
    distortion = np.array([-0.2, 0.03, 0.001, -0.002, 0.0]) if distorted else np.zeros(5)
    cameras = {"FRONT": RigCamera("FRONT", 96, 64, K, distortion, pose(1.5, 0, 1.6) @ AXES, "top"),
               "LEFT": RigCamera("LEFT", 96, 64, K, distortion, pose(1.2, 0.5, 1.6, 1.0) @ AXES, "left")}
    photos = []
    for name in cameras:
        for frame, time in enumerate(times):
            middle = time + LATE
            shutter = Shutter(middle - 0.02, middle + 0.02) if rolling else None
            photos.append(Photo(name, frame, middle, pose(SPEED * middle, yaw=0.02 * middle), f"{name} {frame}",
                                np.array([SPEED, 0, 0]), np.array([0, 0, 0.02]), shutter))
    cars = {"coming": [pose(22 - 15 * t, 2.5, 0.8, np.pi) for t in times],
            "parked": [pose(14, -3.5, 0.8, 0.1) for t in times],
            "beside": [pose(2.5 + 10 * t, 3.2, 0.8) for t in times]}
    actors = [Actor(name, "vehicle", torch.tensor([4.2, 1.8, 1.6]), torch.from_numpy(np.stack(poses)).float(),
                    torch.ones(frames, dtype=torch.bool)) for name, poses in cars.items()]
    drive = Drive("made", times, vehicle, np.eye(4), cameras, photos, ["TOP"], actors, None, f"made{rolling}{distorted}{frames}")
    drive.source = Made(drive)
    return drive


def cast(drive, origins, rays, times):
    """Which actor (k + 1) or road (0; −1 for the sky) rays meet first, and at how many of their lengths."""
    hit, distance = np.full(len(rays), -1), np.full(len(rays), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        down = -origins[:, 2] / rays[:, 2]
        hit[down > 0], distance[down > 0] = 0, down[down > 0]
        for index, actor in enumerate(drive.actors):
            poses, there = tracks.at_times(actor, torch.from_numpy(drive.times), torch.from_numpy(times))
            actor_from_world = np.linalg.inv(poses.double().numpy())
            start = np.einsum("nij,nj->ni", actor_from_world[:, :3, :3], origins) + actor_from_world[:, :3, 3]
            ray = np.einsum("nij,nj->ni", actor_from_world[:, :3, :3], rays)
            half = actor.size.double().numpy() / 2
            ends = np.stack([(-half - start) / ray, (half - start) / ray])
            enters, leaves = ends.min(axis=0).max(axis=1), ends.max(axis=0).min(axis=1)
            met = (enters < leaves) & (leaves > 0) & (enters < distance) & there.numpy()
            hit[met], distance[met] = index + 1, np.maximum(enters[met], 0)
    return hit, distance


def seen_by(drive, photo):
    """Ids (−1 for the sky) and colours [H, W, 3] of a photo, each pixel at its own time."""
    camera = drive.cameras[photo.camera]
    v, u = np.mgrid[:camera.height, :camera.width] + 0.5
    uv = np.stack([u.ravel(), v.ravel()], axis=1)
    times = line_times(camera, photo, uv)
    poses = camera_at(drive, photo, times)
    rays = np.einsum("nij,nj->ni", poses[:, :3, :3], from_pixels(camera, uv))
    hit, distance = cast(drive, poses[:, :3, 3], rays, times)
    with np.errstate(invalid="ignore"):
        places = poses[:, :3, 3] + distance[:, None] * rays
        colours = np.where((hit > 0)[:, None], RED, np.where((hit < 0)[:, None], [90, 90, 90], road(*places[:, :2].T)))
    return hit.reshape(v.shape), colours.reshape(*v.shape, 3).astype(np.uint8)


@dataclass
class Made:
    """`Source`: PNG and points of all that is made."""

    drive: Drive
    rows: int = 40
    asked: list = field(default_factory=list)
    made: dict = field(default_factory=dict)

    def picture(self, photo):
        self.asked.append((photo.camera, photo.frame))
        if self.asked[-1] not in self.made:
            content = io.BytesIO()
            Image.fromarray(seen_by(self.drive, photo)[1]).save(content, "PNG")
            self.made[self.asked[-1]] = content.getvalue()
        return self.made[self.asked[-1]]

    def points(self, frame):
        azimuth, height = np.meshgrid(np.linspace(-np.pi, np.pi, 720, endpoint=False), np.linspace(-0.5, 0.02, self.rows))
        local = np.stack([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)], axis=-1)
        world_from_lidar = self.drive.world_from_vehicle[frame] @ pose(0.5, 0, 2.0)
        rays = local.reshape(-1, 3) @ world_from_lidar[:3, :3].T
        origins = np.broadcast_to(world_from_lidar[:3, 3], rays.shape)
        hit, distance = cast(self.drive, origins, rays, np.full(len(rays), self.drive.times[frame]))
        near = (hit >= 0) & (distance < 70)
        xyz = (origins[near] + distance[near, None] * rays[near]).astype(np.float32)
        return Points(xyz, np.ones(len(xyz), np.float32), np.ones(len(xyz), np.uint8), np.zeros(len(xyz), np.uint8))
