"""Things on a wall or a shelf, photographed from near with a hand that goes all round them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from chopgrad_ns.sim import furniture
from chopgrad_ns.sim.indoors import lamp_color, pictures, wall
from chopgrad_ns.sim.light import Light, Lighting, daylight
from chopgrad_ns.sim.palette import Palette, material, shades
from chopgrad_ns.sim.shapes import Builder
from chopgrad_ns.sim.walks import HandHeld

WALL, HEIGHT = 3.4, 2.6
"""Metres, of the wall that is looked at."""


def build_closeup(b: Builder, p: Palette) -> tuple[Lighting, str, Iterator[HandHeld]]:
    """Some things before a wall into `b`; their light, what lights them, and ways to look at them from near."""
    rng = b.rng
    surface, other = (material(b, str(rng.choice(["wallpaper", "painting", "plaster", "bricks", "wood"],
                                                 p=[0.35, 0.25, 0.2, 0.1, 0.1])), shades(rng, 0.4, 0.45, 0.9),
                               rng.uniform(0.8, 2.4)) for _ in range(2))
    middle = np.array([0.0, -rng.uniform(0.1, 0.3), rng.uniform(1.0, 1.5)])
    wall(b, WALL, HEIGHT, surface)
    b.sheet((-4, -8, 0), (8, 0, 0), (0, 8, 0), other)
    if rng.random() < 0.45:  # in a corner
        side = float(rng.choice([-1, 1]))
        with b.frame(side * rng.uniform(0.55, 1.0), -WALL / 2, 0, -side * np.pi / 2):
            wall(b, WALL, HEIGHT, other)
    if rng.random() < 0.6:
        pictures(b, p, rng.uniform(1.7, 2.6), middle[2] - 0.35, middle[2] + 0.6, rng.uniform(0.3, 0.6))
    size = rng.uniform(0.3, 0.6)
    kind = ["trophy", "shelf", "heap"][int(rng.choice(3, p=[0.5, 0.3, 0.2]))]
    {"trophy": _trophy, "shelf": _shelf, "heap": _heap}[kind](b, p, middle, size)
    return *_light(b, p, middle), _ways(rng, middle, size)


def _stuff(b: Builder, p: Palette) -> int:
    return int(b.rng.choice([p.fabric, p.wood, p.stone, p.picture, p.leaf, p.poster, p.paint, p.dark]))


def _trophy(b: Builder, p: Palette, middle: np.ndarray, size: float) -> None:
    """A board on the wall with something round growing out of it, thinner and thicker, with what sticks out of that."""
    rng = b.rng
    depth = -middle[1]
    b.box((0, -0.02, middle[2]), (size * rng.uniform(0.5, 1.0), 0.04, size * rng.uniform(0.7, 1.3)), p.wood,
          rng.uniform(0.25, 0.9, 3))
    count = int(rng.integers(3, 8))
    drift, stuff, tint = rng.normal(0, 0.35, 2) * size, _stuff(b, p), furniture.colorful(rng)
    for step in np.linspace(0, 1, count):
        if rng.random() < 0.3:
            stuff, tint = _stuff(b, p), furniture.colorful(rng)
        at = (drift[0] * step, -0.03 - step * (depth + size * 0.35), middle[2] + drift[1] * step)
        radii = size * rng.uniform(0.16, 0.34, 3) * [1, 1.2, 1]
        b.ball(at, radii, stuff, tint * rng.uniform(0.8, 1.15), bumps=rng.uniform(0, 0.06), rings=20)
        if rng.random() < 0.5:
            toward = rng.normal(size=3) * [1, 0.5, 1]
            end = np.array(at) + toward / np.linalg.norm(toward) * size * rng.uniform(0.35, 0.7)
            b.rod(at, end, size * rng.uniform(0.03, 0.12), _stuff(b, p), end_radius=size * rng.uniform(0.005, 0.06))


def _shelf(b: Builder, p: Palette, middle: np.ndarray, size: float) -> None:
    """A board with small things on it."""
    rng, wide = b.rng, size * b.rng.uniform(1.5, 2.5)
    low = middle[2] - 0.15
    b.box((0, middle[1], low - 0.015), (wide, 0.3, 0.03), p.wood, rng.uniform(0.4, 1.0, 3))
    for x in np.linspace(-wide / 2 + 0.08, wide / 2 - 0.08, int(rng.integers(2, 6))):
        with b.frame(x, middle[1] + rng.uniform(-0.08, 0.08), low, rng.uniform(0, 6)):
            furniture.small_thing(b, p, size * rng.uniform(0.3, 0.7))


def _heap(b: Builder, p: Palette, middle: np.ndarray, size: float) -> None:
    """Cloth and cushions on a box."""
    rng = b.rng
    b.box((0, middle[1] - 0.1, middle[2] / 2 - 0.1), (size * 1.6, 0.45, middle[2] - 0.2), _stuff(b, p))
    for _ in range(int(rng.integers(3, 9))):
        x, y, z = rng.normal(0, 0.25, 3) * size
        b.ball((x, middle[1] - 0.1 + y / 2, middle[2] - 0.1 + abs(z)), size * rng.uniform(0.1, 0.4, 3), _stuff(b, p),
               furniture.colorful(rng), bumps=rng.uniform(0, 0.1), rings=18)


def _light(b: Builder, p: Palette, middle: np.ndarray) -> tuple[Lighting, str]:
    """Large lamps, as windows are, or small ones, and much light from all around."""
    rng = b.rng
    sky, _ = daylight(rng, p.clouds, 0.4)
    lamps = []
    for strength in (1.0,) if rng.random() < 0.5 else (0.7, 0.5):
        turn, up = rng.uniform(-1.3, 1.3), rng.uniform(0.0, 1.2)
        away = rng.uniform(1.2, 2.4)
        place = middle + away * np.array([np.sin(turn), -np.cos(turn), up])
        lamps.append(Light(place, 2.0 * strength * lamp_color(rng) * rng.uniform(0.8, 1.2), away, rng.uniform(0.05, 0.6)))
    light = Lighting(lamps, np.array([0.42, 0.42, 0.44]) * rng.uniform(0.75, 1.4), 0.3, sky.sky)
    return light, "lamp" if len(lamps) == 1 else "two lamps"


def _ways(rng: np.random.Generator, middle: np.ndarray, size: float) -> Iterator[HandHeld]:
    """Paths of a hand on this side of the wall, from near to a little farther, one after the other without end."""
    while True:
        count = int(rng.integers(4, 7))
        azimuth = np.deg2rad(rng.uniform(20, 75)) * rng.uniform(-1, 1, count)
        elevation = np.deg2rad(rng.uniform(-40, 55, count)) * rng.uniform(0.3, 1.0)
        away = size * rng.uniform(1.5, 2.5) * rng.uniform(0.75, 1.3, count)
        level = np.cos(elevation)
        eyes = middle + away[:, None] * np.stack([level * np.sin(azimuth), -level * np.cos(azimuth), np.sin(elevation)], axis=1)
        eyes[:, 2] = eyes[:, 2].clip(0.25, HEIGHT - 0.1)
        eyes[:, 1] = eyes[:, 1].clip(max=-0.3)
        yield HandHeld(eyes, middle + size * rng.uniform(-0.35, 0.35, (count, 3)), shake=rng.uniform(0.0, 0.006),
                       phase=rng.uniform(0, 6))
