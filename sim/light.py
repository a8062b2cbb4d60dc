"""What lights a sample world, and how a camera's exposure answers to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Vector3 = Float[np.ndarray, "3"]


@dataclass
class Light:
    """A lamp that casts shadows.

    `position` [3] in metres; `strength` [3], linear RGB; `reach`, the distance in metres at which the lamp has half its
    strength (infinite for a sun); `size`, the radius in metres that softens its shadows.
    """

    position: Vector3
    strength: Vector3
    reach: float
    size: float


@dataclass
class Sky:
    """Linear RGB at the horizon, overhead and of clouds; `clouds` is the material that says where those are."""

    horizon: Vector3
    zenith: Vector3
    cloud: Vector3
    clouds: int


@dataclass
class Lighting:
    """All light of a world: lamps; `ambient` [3], linear RGB from everywhere, of which a surface gets less where
    something within `shelter` metres covers it; and what is seen where there is nothing.
    """

    lamps: list[Light]
    ambient: Vector3
    shelter: float
    sky: Sky


def daylight(rng: np.random.Generator, clouds: int, shelter: float, azimuth: float | None = None,
             lowest: float = 25.0) -> tuple[Lighting, str]:
    """A sky with its sun, and which weather it is: sunny (the sun at `lowest`…65°), low sun, or overcast."""
    weather = str(rng.choice(["sunny", "low sun", "overcast"], p=[0.6, 0.2, 0.2]))
    height = np.deg2rad(rng.uniform(lowest - 10, lowest) if weather == "low sun" else rng.uniform(lowest, 65))
    turn = rng.uniform(0, 2 * np.pi) if azimuth is None else azimuth
    position = 1000 * np.array([np.cos(turn) * np.cos(height), np.sin(turn) * np.cos(height), np.sin(height)])
    horizon, zenith = np.array([0.75, 0.8, 0.85]), np.array([0.2, 0.38, 0.75])
    cloud, ambient = np.array([0.95, 0.94, 0.92]), np.array([0.46, 0.51, 0.6]) * rng.uniform(0.85, 1.2)
    strength, size = np.array([1.9, 1.75, 1.5]) * rng.uniform(0.9, 1.15), 8.0
    if weather == "low sun":
        strength, horizon, ambient = strength * [1.1, 0.86, 0.6], np.array([0.95, 0.72, 0.5]), ambient * 1.15
    elif weather == "overcast":
        strength, size, ambient = strength * 0.22, 95.0, np.array([0.74, 0.76, 0.8]) * rng.uniform(0.85, 1.15)
        horizon, zenith, cloud = (np.full(3, value) for value in (0.72, 0.5, 0.85))
    sky = Sky(horizon, zenith * rng.uniform(0.7, 1.0), cloud, clouds)
    return Lighting([Light(position, strength, np.inf, size)], ambient, shelter, sky), weather


@dataclass(frozen=True)
class Exposure:
    """How the brightness of photos changes along a capture.

    `kind`: constant; drift, smooth as an auto-exposure's; jumps between few levels; scatter, every photo by itself.
    `stops`: at most so many stops up or down (the standard deviation for scatter). `white`: at most so many stops by
    which red and blue drift against each other.

    A splat without an exposure model cannot know how bright a held-out photo came out: 0.25 stops are 9 % of a pixel's
    value (photos are square roots of light), which alone holds PSNR near 27 dB. So compare methods on one and the same
    scene, undo `gains` first, or make worlds with `exposure_change=0`.
    """

    kind: Literal["constant", "drift", "jumps", "scatter"] = "constant"
    stops: float = 0.0
    white: float = 0.0
    seed: int = 0

    def gains(self, frames: int) -> Float[np.ndarray, "t 3"]:
        """Factors on the linear RGB of each photo."""
        rng = np.random.default_rng([self.seed, 77])
        t = np.linspace(0, 1, frames)
        phase, speed, tint_phase = rng.uniform(0, 1), rng.uniform(0.4, 1.0), rng.uniform(0, 1)
        curve = {"constant": lambda: 0 * t, "drift": lambda: np.sin(2 * np.pi * (speed * t + phase)),
                 "jumps": lambda: self._levels(rng, t), "scatter": lambda: rng.normal(size=frames)}[self.kind]()
        tint = self.white * np.sin(2 * np.pi * (0.6 * t + tint_phase))
        stops = self.stops * curve
        return (2 ** np.stack([stops + tint, stops, stops - tint], axis=1)).astype(np.float32)

    @staticmethod
    def _levels(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
        changes = np.sort(rng.uniform(0.1, 0.9, rng.integers(1, 4)))
        levels = rng.uniform(-1, 1, len(changes) + 1)
        levels[np.argmax(np.abs(levels))] = rng.choice([-1.0, 1.0])
        return levels[np.searchsorted(changes, t)]


def draw_exposure(rng: np.random.Generator, change: float | None = None) -> Exposure:
    """A capture's exposure; `change`, where given, is the standard deviation in stops of single photos instead."""
    seed = int(rng.integers(2**31))
    if change is not None:
        return Exposure("scatter", change, 0.0, seed) if change else Exposure()
    kind = str(rng.choice(["constant", "drift", "jumps"], p=[0.35, 0.35, 0.3]))
    if kind == "constant":
        return Exposure()
    return Exposure(kind, float(rng.uniform(0.06, 0.25)), float(rng.uniform(0.02, 0.06) * (rng.random() < 0.4)), seed)
