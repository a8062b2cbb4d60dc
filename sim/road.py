"""A street's course: places along and beside a lane of constant bend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FRAME_RATE = 10.0
"""Photos a second of a drive."""


@dataclass(frozen=True)
class Road:
    """Two lanes between parking bays and pavements; traffic keeps to the right.

    `bend` is the curvature of the middle line in 1/m, positive to the left; the middle line passes the origin along +x.
    Widths in metres, `first` and `last` the lengths along it where the street begins and ends.
    """

    bend: float = 0.0
    lane: float = 3.2
    bay: float = 2.2
    pavement: float = 2.6
    first: float = -25.0
    last: float = 115.0

    @property
    def kerb(self) -> float:
        """Metres from the middle line to the kerb."""
        return self.lane + self.bay

    @property
    def frontage(self) -> float:
        """Metres from the middle line to the buildings."""
        return self.kerb + self.pavement

    def place(self, along, aside) -> Float[np.ndarray, "*n 3"]:
        """x, y and heading (radians) at `along` metres of the middle line and `aside` metres to its left."""
        along, aside = np.broadcast_arrays(np.asarray(along, float), np.asarray(aside, float))
        heading = self.bend * along
        # sin(h)/bend and (1 − cos(h))/bend, also where the street is straight.
        forward = along * np.sinc(heading / np.pi)
        left = along * np.sinc(heading / 2 / np.pi) * np.sin(heading / 2)
        return np.stack([forward - aside * np.sin(heading), left + aside * np.cos(heading), heading], axis=-1)

    def line(self, along: Float[np.ndarray, "n"], aside: float, height: float) -> Float[np.ndarray, "n 3"]:
        """Points beside the middle line."""
        points = self.place(along, aside)
        points[..., 2] = height
        return points


@dataclass(frozen=True)
class Track:
    """A vehicle's way: `start` metres along at frame 0, `aside` metres to the left, `speed` in m/s along the street,
    negative for those that come toward us; `turned` where it faces backward.
    """

    start: float
    aside: float
    speed: float = 0.0
    turned: bool = False

    def along(self, frames: int) -> Float[np.ndarray, "t"]:
        """Metres along the middle line in each frame."""
        return self.along_at(np.arange(frames) / FRAME_RATE)

    def along_at(self, times: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Metres along the middle line at any seconds."""
        return self.start + self.speed * times

    def poses(self, road: Road, frames: int, height: float) -> Float[np.ndarray, "t 4 4"]:
        """World from vehicle in each frame, its centre at `height` metres."""
        return self.poses_at(road, np.arange(frames) / FRAME_RATE, height)

    def poses_at(self, road: Road, times: Float[np.ndarray, "n"], height: float) -> Float[np.ndarray, "n 4 4"]:
        """World from vehicle at any seconds, its centre at `height` metres."""
        x, y, heading = road.place(self.along_at(times), self.aside).T
        yaw = heading + np.pi * self.turned
        poses = np.tile(np.eye(4), (len(times), 1, 1))
        poses[:, 0, 0], poses[:, 0, 1] = np.cos(yaw), -np.sin(yaw)
        poses[:, 1, 0], poses[:, 1, 1] = np.sin(yaw), np.cos(yaw)
        poses[:, 0, 3], poses[:, 1, 3], poses[:, 2, 3] = x, y, height
        return poses
