"""The surfaces that the things of one sample world are made of."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from chopgrad_ns.sim.shapes import Builder
from chopgrad_ns.sim.textures import paint


@dataclass(frozen=True)
class Palette:
    """Numbers of materials: `chrome`, `glass`, `coat` (car paint) and `water` mirror; `rubber` and `dark` cloth are
    nearly black.
    """

    wood: int
    metal: int
    fabric: int
    leaf: int
    page: int
    picture: int
    poster: int
    stone: int
    paint: int
    chrome: int
    glass: int
    coat: int
    water: int
    rubber: int
    dark: int
    clouds: int


def colorful(rng: np.random.Generator) -> np.ndarray:
    """A tint of any hue, from pale to vivid."""
    return 0.45 + rng.uniform(0.2, 1.0) * rng.dirichlet([0.9, 0.9, 0.9]) + rng.uniform(-0.2, 0.15)


def shades(rng: np.random.Generator, saturation: float, dark: float, bright: float) -> tuple:
    """Two colours of neighbouring hues, a dark and a bright one; more often earthy than not."""
    hue = rng.random()
    if rng.random() < 0.6:
        hue, saturation = rng.uniform(0.02, 0.14), saturation * 1.2
    else:
        saturation *= 0.7
    low = colorsys.hsv_to_rgb(hue, saturation * rng.uniform(0.7, 1.3), dark * rng.uniform(0.8, 1.2))
    high = colorsys.hsv_to_rgb((hue + rng.uniform(-0.12, 0.12)) % 1, saturation * rng.uniform(0.4, 1.0), bright)
    return low, high


def material(b: Builder, kind: str, colors: tuple, period: float, gloss: float = 0.0, mirror: float = 0.0) -> int:
    """Paint a surface and register it."""
    return b.material(paint(kind, int(b.rng.integers(2**31)), *colors, period=period, gloss=gloss, mirror=mirror))


def make_palette(b: Builder) -> Palette:
    brown, gray = b.rng.uniform(0.6, 1.1), lambda low, high: ((low,) * 3, (high,) * 3)
    wood = ((0.42 * brown, 0.24 * brown, 0.12 * brown), (0.85 * brown, 0.6 * brown, 0.36 * brown))
    return Palette(
        wood=material(b, "wood", wood, 1.6, gloss=0.1),
        metal=material(b, "metal", gray(0.3, 0.8), 0.8, gloss=0.5, mirror=0.08),
        fabric=material(b, "fabric", shades(b.rng, 0.5, 0.3, 0.9), 0.5),
        leaf=material(b, "grass", ((0.05, 0.18, 0.04), (0.45, 0.7, 0.22)), 0.7),
        page=material(b, "print", ((0.12, 0.1, 0.14), (0.95, 0.93, 0.86)), 0.4),
        picture=material(b, "painting", shades(b.rng, 0.6, 0.3, 0.8), 0.5, gloss=0.25),
        poster=material(b, "painting", shades(b.rng, 0.6, 0.5, 0.9), 1.0),
        stone=material(b, "plaster", ((0.45, 0.43, 0.4), (0.85, 0.82, 0.76)), 1.0),
        paint=material(b, "plaster", gray(0.7, 1.0), 0.6, gloss=0.35),
        chrome=material(b, "plain", gray(0.35, 0.5), 0.5, gloss=0.8, mirror=0.6),
        glass=material(b, "plain", gray(0.12, 0.22), 0.9, gloss=0.6, mirror=b.rng.uniform(0.1, 0.2)),
        coat=material(b, "plain", gray(0.9, 1.0), 1.5, gloss=0.7, mirror=0.07),
        water=material(b, "clouds", ((0.12, 0.25, 0.28), (0.22, 0.4, 0.42)), 1.2, gloss=0.6, mirror=0.08),
        rubber=material(b, "plain", gray(0.08, 0.16), 0.3),
        dark=material(b, "fabric", gray(0.06, 0.2), 0.4),
        clouds=material(b, "clouds", gray(0.0, b.rng.uniform(0.3, 0.9)), 9.0))
