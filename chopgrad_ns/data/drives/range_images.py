"""Range images of spinning lidars, as Waymo has them, to points.

A row is a beam (the highest first), a column a direction: the first looks back along the vehicle, and they go round clockwise
seen from above. Float64 throughout: a recording's world is kilometres wide.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32

from chopgrad_ns.data.drives.drive import Pose


def uniform_inclinations(lowest: float, highest: float, rows: int) -> Float[np.ndarray, "h"]:
    """Radians, the highest first: the middles of as many equal parts of what the beams span."""
    return lowest + (highest - lowest) * (rows - 0.5 - np.arange(rows)) / rows


def range_image_points(image: Float32[np.ndarray, "h w c"], inclinations: Float[np.ndarray, "h"], vehicle_from_lidar: Pose,
                       world_from_vehicle: Pose, pixel_poses: Float32[np.ndarray, "h w 6"] | None = None
                       ) -> tuple[Float[np.ndarray, "n 3"], Bool[np.ndarray, "h w"]]:
    """Places in the world of the pixels that something came back from, row by row, and which these are.

    `image`: the range in metres first, ≤ 0 where nothing came back; `inclinations` in radians, of the rows from the top.
    `world_from_vehicle` holds for a pixel, unless `pixel_poses` say where the vehicle was when each was measured: roll,
    pitch and yaw in radians and place; then it leads from the world that these are in.
    """
    hit = image[..., 0] > 0
    row, column = hit.nonzero()
    ranges, width = image[row, column, 0].astype(np.float64), image.shape[1]
    turned = np.arctan2(vehicle_from_lidar[1, 0], vehicle_from_lidar[0, 0])
    azimuth = (2 * (width - column - 0.5) / width - 1) * np.pi - turned
    inclination = inclinations[row]
    flat = ranges * np.cos(inclination)
    xyz = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), ranges * np.sin(inclination)], axis=1)
    xyz = _move(vehicle_from_lidar, xyz)
    if pixel_poses is not None:
        poses = pixel_poses[row, column].astype(np.float64)
        xyz = _turned(xyz, *poses[:, :3].T) + poses[:, 3:]
    return _move(world_from_vehicle, xyz), hit


def _move(pose: Pose, xyz: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    return xyz @ pose[:3, :3].T + pose[:3, 3]


def _turned(xyz: Float[np.ndarray, "n 3"], roll: Float[np.ndarray, "n"], pitch: Float[np.ndarray, "n"],
            yaw: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 3"]:
    """About x by roll, then about y by pitch, then about z by yaw: axes that stay."""
    x, y, z = xyz.T
    y, z = np.cos(roll) * y - np.sin(roll) * z, np.sin(roll) * y + np.cos(roll) * z
    x, z = np.cos(pitch) * x + np.sin(pitch) * z, np.cos(pitch) * z - np.sin(pitch) * x
    x, y = np.cos(yaw) * x - np.sin(yaw) * y, np.sin(yaw) * x + np.cos(yaw) * y
    return np.stack([x, y, z], axis=1)
