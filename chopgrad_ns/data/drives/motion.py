"""Rigid motion as recordings have it: poses at certain times, as quaternions; what lies in between, and how fast it is."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float

from chopgrad_ns.data.drives.drive import Pose, turns
from chopgrad_ns.errors import UserError

SPAN = 0.1
"""Seconds over which velocities are measured: poses of recordings come a few milliseconds apart, or twice, and jitter."""
SAME = 1e-4
"""Seconds that are no difference."""


def pose_of(wxyz: Float[np.ndarray, "4"], place: Float[np.ndarray, "3"], what: str) -> Pose:
    """target_from_source of a quaternion, scalar first, and the source's origin. `what` has the pose, for the message.

    Raises UserError for what is no unit quaternion and place.
    """
    try:
        q, place = np.asarray(wxyz, np.float64), np.asarray(place, np.float64)
        good = q.shape == (4,) and place.shape == (3,) and abs(np.linalg.norm(q) - 1) < 0.01 and np.isfinite(place).all()
    except (TypeError, ValueError):
        good = False
    if not good:
        raise UserError(f"The pose of {what} is no unit quaternion and place in metres; fetch the recording again.")
    w, x, y, z = q / np.linalg.norm(q)
    pose = np.eye(4)
    pose[:3, :3] = [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]]
    pose[:3, 3] = place
    return pose


@dataclass(frozen=True)
class Motion:
    """Poses [N, 4, 4] at times [N], seconds, each later than the one before; one at least."""

    times: Float[np.ndarray, "n"]
    poses: Float[np.ndarray, "n 4 4"]

    @staticmethod
    def through(times: Float[np.ndarray, "n"], poses: Float[np.ndarray, "n 4 4"]) -> Motion:
        """From poses in any order; of several at one time, the first counts."""
        times, first = np.unique(np.asarray(times, np.float64), return_index=True)
        return Motion(times, np.asarray(poses, np.float64)[first])

    def known(self, times: Float[np.ndarray, "m"], longest: float) -> Bool[np.ndarray, "m"]:
        """Which times are those of a pose, or lie between two that are at most `longest` seconds apart."""
        left, right, _ = self._around(times)
        between = (self.times[left] <= times) & (times <= self.times[right]) & (self.times[right] - self.times[left] <= longest)
        return between | (np.minimum(abs(times - self.times[left]), abs(times - self.times[right])) <= SAME)

    def at(self, times: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m 4 4"]:
        """Poses at any times: at a constant velocity between two, those of the ends beyond."""
        left, right, share = self._around(np.asarray(times, np.float64))
        a, b = self.poses[left], self.poses[right]
        way = np.array([_turn_between(*pair) for pair in zip(a, b)]).reshape(-1, 3)
        poses = a.copy()
        poses[:, :3, :3] = turns(share[:, None] * way) @ a[:, :3, :3]
        poses[:, :3, 3] += share[:, None] * (b - a)[:, :3, 3]
        return poses

    def velocities(self, time: float) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]] | tuple[None, None]:
        """Linear in m/s and angular in rad/s around a time, both along the axes that the poses lead to; None for one pose."""
        ends = np.clip([time - SPAN / 2, time + SPAN / 2], self.times[0], self.times[-1])
        seconds = ends[1] - ends[0]
        if seconds < SPAN / 10:
            return None, None
        before, after = self.at(ends)
        return (after - before)[:3, 3] / seconds, _turn_between(before, after) / seconds

    def _around(self, times: Float[np.ndarray, "m"]) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, "m"]]:
        """The poses on both sides of each time, and how far from one to the other it is, 0…1."""
        last = len(self.times) - 1
        right = np.searchsorted(self.times, times).clip(min(1, last), last)
        left = np.maximum(right - 1, 0)
        seconds = np.maximum(self.times[right] - self.times[left], 1e-9)
        return left, right, ((times - self.times[left]) / seconds).clip(0, 1)


def _turn_between(before: Pose, after: Pose) -> Float[np.ndarray, "3"]:
    """Rotation vector, along the outer axes, that takes the one pose's rotation to the other's."""
    return cv2.Rodrigues(after[:3, :3] @ before[:3, :3].T)[0][:, 0]
