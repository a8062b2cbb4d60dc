"""How a camera moves through a sample world: as a person walks, or as a car drives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline

from chopgrad_ns.sim.road import FRAME_RATE, Road

Eyes = Float[np.ndarray, "t 3"]


class Walk(Protocol):
    """Where the camera is and looks; `longest` is the number of frames that there is way for."""

    longest: int

    def at(self, frames: int) -> tuple[Eyes, Eyes]:
        """Eyes in metres, and directions of any length that they look in, [T, 3] both."""


@dataclass
class Stroll:
    """What all walks on foot share.

    The gaze moves from one place to another, `look`; the walker swings aside by `sway` metres, bobs by `bob` around a
    height that goes from one to another, and slows down `pauses` times, to a tenth of the usual speed.
    """

    height: tuple[float, float]
    look: tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]
    sway: float = 0.06
    bob: float = 0.02
    phase: float = 0.0
    pauses: int = 0
    longest: ClassVar[int] = 10**6

    def at(self, frames: int) -> tuple[Eyes, Eyes]:
        t = np.linspace(0, 1, frames)
        if self.pauses:
            t = t + 0.9 * np.sin(2 * np.pi * self.pauses * t) / (2 * np.pi * self.pauses)
        height = self.height[0] + (self.height[1] - self.height[0]) * t + self.bob * np.sin(31 * t + self.phase)
        eyes = np.append(self._ground(t, self.sway * np.sin(9 * t + self.phase)), height[:, None], axis=1)
        first, last = self.look
        return eyes, first + (last - first) * t[:, None] - eyes

    def _ground(self, t: np.ndarray, swing: np.ndarray) -> Float[np.ndarray, "t 2"]:
        raise NotImplementedError


@dataclass
class Arc(Stroll):
    """Round `center`, on a radius that goes from one to another; angles in radians."""

    center: tuple[float, float] = (0.0, 0.0)
    radius: tuple[float, float] = (2.0, 2.0)
    start: float = 0.0
    sweep: float = 1.5

    def _ground(self, t, swing):
        angle = self.start + self.sweep * t
        radius = self.radius[0] + (self.radius[1] - self.radius[0]) * t + swing
        return np.stack([self.center[0] + radius * np.cos(angle), self.center[1] + radius * np.sin(angle)], axis=1)


@dataclass
class HandHeld:
    """Smoothly and steadily from each of K `eyes` [K, 3] to the next, looking from each of K `looks` to the next, metres both;
    the hand trembles by `shake` metres.
    """

    eyes: Float[np.ndarray, "k 3"]
    looks: Float[np.ndarray, "k 3"]
    shake: float = 0.0
    phase: float = 0.0
    longest: ClassVar[int] = 10**6

    def at(self, frames: int) -> tuple[Eyes, Eyes]:
        knots, fine = np.linspace(0, 1, len(self.eyes)), np.linspace(0, 1, 500)
        path = CubicSpline(knots, np.concatenate([self.eyes, self.looks], axis=1), bc_type="natural")
        way = np.append(0, np.cumsum(np.linalg.norm(np.diff(path(fine)[:, :3], axis=0), axis=1)))
        t = np.linspace(0, 1, frames)
        eyes, looks = np.split(path(np.interp(t * way[-1], way, fine)), 2, axis=1)
        eyes = eyes + self.shake * np.sin(np.outer(t, [43, 37, 53]) + self.phase)
        return eyes, looks - eyes


@dataclass
class Line(Stroll):
    """Straight from `begin` to `end`."""

    begin: tuple[float, float] = (-1.0, 0.0)
    end: tuple[float, float] = (1.0, 0.0)

    def _ground(self, t, swing):
        begin, end = np.array(self.begin), np.array(self.end)
        aside = np.array([begin[1] - end[1], end[0] - begin[0]]) / np.linalg.norm(end - begin)
        return begin + (end - begin) * t[:, None] + aside * swing[:, None]


@dataclass
class Drive:
    """In a lane, `aside` metres left of the middle line, at `speed` m/s: 10 photos a second however many there are."""

    road: Road
    aside: float
    speed: float
    height: float = 1.5
    phase: float = 0.0
    pitch: float = -0.03

    @property
    def longest(self) -> int:
        """Frames until the street ends."""
        return int((self.road.last - 15) / self.speed * FRAME_RATE)

    def at(self, frames: int) -> tuple[Eyes, Eyes]:
        place, yaw, nod = self.course(np.arange(frames) / FRAME_RATE)
        pitch = self.pitch + nod
        x, y, rise = place.T
        return (np.stack([x, y, self.height + rise], axis=1),
                np.stack([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)], axis=1))

    def course(self, time: Float[np.ndarray, "n"]) -> tuple[Float[np.ndarray, "n 3"], ...]:
        """The vehicle's place on the ground [N, 3], its yaw [N] and how far it nods up [N], radians, at any seconds."""
        drift = 0.12 * np.sin(1.1 * time + self.phase)
        x, y, heading = self.road.place(self.speed * time, self.aside + drift).T
        yaw = heading + 0.02 * np.sin(1.7 * time + self.phase) + 0.15 * self.road.bend * self.speed
        rise = 0.015 * np.sin(7 * time + self.phase)
        return np.stack([x, y, rise], axis=1), yaw, 0.006 * np.sin(5 * time + 2 * self.phase)
