"""A world that tests record in the layouts of data sets: a vehicle that turns and speeds up, posts, and a car that passes.

All in closed form, in float64, in a map with large coordinates.
"""

import io

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

POSTS = np.array([[655.0, 1312, 3], [670, 1325, 1], [660, 1345, 6], [630, 1340, 2], [690, 1330, 4], [615, 1290, 0.5]])


def pose(rotation: Rotation, place) -> np.ndarray:
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = rotation.as_matrix(), place
    return made


def vehicle(time: float) -> np.ndarray:
    """map_from_vehicle"""
    rotation = Rotation.from_euler("ZYX", [0.4 + 0.15 * time, 0.02 * np.sin(time), 0.01 * time])
    return pose(rotation, [630 + 9 * time + 0.4 * time ** 2, 1300 + 4 * time - 0.3 * time ** 2, 1.5 + 0.1 * time])


def car(time: float) -> np.ndarray:
    """map_from_actor; at a constant velocity and turn, so that what lies between two boxes is known."""
    return pose(Rotation.from_euler("Z", 1.1 + 0.2 * time), [650 + 6 * time, 1315 + 3 * time, 2.0])


def walker(time: float) -> np.ndarray:
    return pose(Rotation.from_euler("Z", -0.3), [645 - time, 1320 + 0.5 * time, 1.9])


def wxyz(matrix: np.ndarray) -> list[float]:
    return Rotation.from_matrix(matrix[:3, :3]).as_quat()[[3, 0, 1, 2]].tolist()


def looking(yaw: float, place) -> np.ndarray:
    """vehicle_from_camera of a camera (OpenCV axes) that looks `yaw` degrees to the left of ahead."""
    ahead = Rotation.from_matrix(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]))
    return pose(Rotation.from_euler("ZY", [yaw, 1.5], degrees=True) * ahead, place)


def seen(target_from_source: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ target_from_source[:3, :3].T + target_from_source[:3, 3]


def by_hand(K, vehicle_from_camera, map_from_vehicle, points) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and depths of places in the map, one by one; calibrations have pixel centres at whole numbers, drives do not."""
    pixels, depths = [], []
    for point in points:
        local = vehicle_from_camera[:3, :3].T @ (
            map_from_vehicle[:3, :3].T @ (point - map_from_vehicle[:3, 3]) - vehicle_from_camera[:3, 3])
        u, v, w = np.asarray(K) @ local
        pixels.append([u / w + 0.5, v / w + 0.5])
        depths.append(local[2])
    return np.array(pixels), np.array(depths)


def jpeg(width: int, height: int, seed: int) -> bytes:
    picture = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    kept = io.BytesIO()
    Image.fromarray(picture).resize((width, height)).save(kept, "JPEG")
    return kept.getvalue()


def one_sentence(caught, *parts) -> None:
    """What was raised is one sentence that names all `parts`."""
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message.replace("...", ""), message
    for part in parts:
        assert str(part) in message, message
