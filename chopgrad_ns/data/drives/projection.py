"""Where places in the world are in a drive's pictures: with lens distortion and rolling shutter, and without."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float

from chopgrad_ns.data.drives.drive import Drive, Photo, RigCamera, inverse
from chopgrad_ns.splat.cameras import Cameras

ROUNDS = 10
"""Of finding which line saw a place, by secants, at most: places move almost evenly through the picture while it is exposed."""
ENOUGH = 1e-7
"""Seconds: a line takes 20 µs and more."""
SLOWEST = -0.2
"""How fast, in seconds of exposure a second, a place's line comes at least: some move along with the lines almost as fast."""
AROUND = 0.25
"""Of the picture's size, how far outside it places may be, when its middle line is exposed, whose lines are looked for."""
CLOSE = 8.0
"""Metres within which all are looked for, in whatever direction: they move past the camera that fast."""
WIDEST = 1.05
"""Of the tangent of the angle to the optical axis at the corners, how much more is looked at: lens distortion is fitted to what
is in the picture, and folds places farther out back into it."""


def camera_at(drive: Drive, photo: Photo, times: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n 4 4"]:
    """world_from_camera at some times around a photo's."""
    return photo.vehicle_at(times) @ drive.cameras[photo.camera].vehicle_from_camera


def line_times(camera: RigCamera, photo: Photo, uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n"]:
    """Seconds at which places in a picture were exposed; outside it, those of the nearest line."""
    if photo.shutter is None or camera.first_line is None:
        return np.full(len(uv), photo.middle)
    share = uv[:, 1] / camera.height if camera.first_line in ("top", "bottom") else uv[:, 0] / camera.width
    share = np.clip(share if camera.first_line in ("top", "left") else 1 - share, 0, 1)
    return photo.shutter.first + share * (photo.shutter.last - photo.shutter.first)


def readout_of(camera: RigCamera, photo: Photo) -> Float[np.ndarray, "2"]:
    """Seconds from the exposure of a picture's left border to that of its right, and from its top to its bottom; zeros where
    all is exposed at once, or it is not known which line is first or how the vehicle moved.
    """
    if photo.shutter is None or camera.first_line is None or photo.linear_velocity is None:
        return np.zeros(2)
    taken = photo.shutter.last - photo.shutter.first
    return np.array({"left": [taken, 0], "right": [-taken, 0], "top": [0, taken], "bottom": [0, -taken]}[camera.first_line])


def motion_of(drive: Drive, photo: Photo) -> Float[np.ndarray, "6"]:
    """The camera's velocity when a photo's middle line is exposed, along its own axes in m/s, and about them in rad/s."""
    if photo.linear_velocity is None:
        return np.zeros(6)
    spin = np.zeros(3) if photo.angular_velocity is None else photo.angular_velocity
    vehicle = photo.vehicle_at(photo.middle)
    camera = drive.cameras[photo.camera].vehicle_from_camera
    turn = vehicle[:3, :3] @ camera[:3, :3]
    place = vehicle[:3, :3] @ camera[:3, 3]
    return np.concatenate([turn.T @ (photo.linear_velocity + np.cross(spin, place)), turn.T @ spin])


def project(drive: Drive, photo: Photo, points: Float[np.ndarray, "n 3"]
            ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Pixels of the distorted picture [N, 2], z depth [N] in metres, and which points are in the picture [N].

    A place is where the line that saw it was when it was exposed (rolling shutter); pixels of points that are not in the
    picture mean nothing.
    """
    camera, points = drive.cameras[photo.camera], np.asarray(points, np.float64)
    local = into_camera(camera, photo, points, np.full(len(points), photo.middle))
    uv, ahead = to_pixels(camera, local)
    if photo.shutter is not None and camera.first_line is not None and photo.linear_velocity is not None:
        size = np.array([camera.width, camera.height])
        near = ahead & (uv > -AROUND * size).all(axis=1) & (uv < (1 + AROUND) * size).all(axis=1)
        near = np.flatnonzero(near | (np.linalg.norm(local, axis=1) < CLOSE))
        local[near], uv[near], ahead[near] = _line_by_line(camera, photo, points[near])
    inside = ahead & (uv >= 0).all(axis=1) & (uv[:, 0] < camera.width) & (uv[:, 1] < camera.height)
    return uv, local[:, 2], inside


def into_camera(camera: RigCamera, photo: Photo, points: Float[np.ndarray, "n 3"], times: Float[np.ndarray, "n"]
                ) -> Float[np.ndarray, "n 3"]:
    """World points in the camera's frame, each at a time of its own: without a matrix for each, of which there are millions."""
    ahead, pose = (times - photo.time)[:, None], photo.world_from_vehicle
    away = points - pose[:3, 3]
    if photo.linear_velocity is not None:
        away = away - ahead * photo.linear_velocity
        if photo.angular_velocity is not None:
            away = _turned(away, -ahead * photo.angular_velocity)
    vehicle_from_camera = camera.vehicle_from_camera
    return (away @ pose[:3, :3] - vehicle_from_camera[:3, 3]) @ vehicle_from_camera[:3, :3]


def _turned(points: Float[np.ndarray, "n 3"], by: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Each turned by a vector: its length in radians, about its direction (Rodrigues)."""
    angle = np.linalg.norm(by, axis=1, keepdims=True)
    across = np.cross(by, points)
    return points + np.sinc(angle / np.pi) * across + 0.5 * np.sinc(angle / 2 / np.pi) ** 2 * np.cross(by, across)


def _line_by_line(camera: RigCamera, photo: Photo, points: Float[np.ndarray, "n 3"]
                  ) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 2"], Bool[np.ndarray, "n"]]:
    """Places in the camera's frame when the line that saw them was exposed, and `to_pixels` of them."""
    count = len(points)
    local, uv, ahead = np.zeros((count, 3)), np.zeros((count, 2)), np.zeros(count, bool)
    open_, times, step, late = np.arange(count), np.full(count, photo.middle), None, None
    for _ in range(ROUNDS):
        local[open_] = into_camera(camera, photo, points[open_], times)
        uv[open_], ahead[open_] = to_pixels(camera, local[open_])
        off = line_times(camera, photo, uv[open_]) - times
        slope = np.full(len(off), -1.0) if late is None else np.minimum((off - late) / step, SLOWEST)
        unsure = np.abs(off) >= ENOUGH
        open_, late, step = open_[unsure], off[unsure], (-off / slope)[unsure]
        times = times[unsure] + step
    return local, uv, ahead


def to_pixels(camera: RigCamera, local: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "n 2"], Bool[np.ndarray, "n"]]:
    """Pixels of places in the camera's frame, with distortion, and whether they are well ahead of it."""
    ahead = local[:, 2] > 1e-6
    plane = local[:, :2] / np.where(ahead, local[:, 2], 1)[:, None]
    out, limit = np.linalg.norm(plane, axis=1), widest(camera)
    ahead &= out < limit
    x, y = (plane * np.minimum(1, limit / np.maximum(out, 1e-9))[:, None]).T
    k1, k2, p1, p2, k3 = camera.distortion
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    bent = np.stack([x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                     y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], axis=1)
    return bent @ camera.K[:2, :2].T + camera.K[:2, 2], ahead


def from_pixels(camera: RigCamera, uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """Directions in the camera's frame, of length 1 along the optical axis, in which places of the picture lie."""
    if not len(uv):
        return np.zeros((0, 3))
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    plane = cv2.undistortPointsIter(np.asarray(uv, np.float64)[:, None], camera.K, camera.distortion, np.eye(3), np.eye(3),
                                    criteria)[:, 0]
    return np.concatenate([plane, np.ones((len(plane), 1))], axis=1)


def widest(camera: RigCamera) -> float:
    """Tangent of the angle to the optical axis beyond which nothing is seen: a little more than at the picture's border, and
    not farther than where the lens distortion folds back.
    """
    return _widest(camera.width, camera.height, camera.K.tobytes(), camera.distortion.tobytes())


@lru_cache(maxsize=64)
def _widest(width: int, height: int, K: bytes, distortion: bytes) -> float:
    camera = RigCamera("", width, height, np.frombuffer(K).reshape(3, 3), np.frombuffer(distortion), np.eye(4))
    border = np.array([[x, y] for x in (0, width / 2, width) for y in (0, height / 2, height)])
    k1, k2, _, _, k3 = camera.distortion
    folds = [root.real for root in np.roots([7 * k3, 5 * k2, 3 * k1, 1]) if root.real > 0 and abs(root.imag) < 1e-9]
    return min(WIDEST * float(np.linalg.norm(from_pixels(camera, border)[:, :2], axis=1).max()),
               float(np.sqrt(min(folds, default=np.inf))))


def undistorted(drive: Drive, photos: list[Photo], width: int, height: int) -> Cameras:
    """Pinhole cameras of photos of one camera, at another picture size, each at its middle line's time; with times."""
    camera = drive.cameras[photos[0].camera]
    poses = np.concatenate([camera_at(drive, photo, np.array([photo.middle])) for photo in photos])
    K = torch.from_numpy(np.tile(camera.K, (len(photos), 1, 1))).float()
    times = torch.tensor([photo.middle for photo in photos], dtype=torch.float32)
    return Cameras(torch.from_numpy(inverse(poses)).float(), K, camera.width, camera.height, times).resized(width, height)
