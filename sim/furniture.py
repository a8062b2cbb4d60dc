"""Things that stand in the sample worlds, each built at the origin of the builder's frame, on z = 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chopgrad_ns.sim.shapes import Builder


@dataclass(frozen=True)
class Palette:
    """Numbers of the materials that furniture is made of."""

    wood: int
    metal: int
    fabric: int
    leaf: int
    page: int
    picture: int
    poster: int
    stone: int
    paint: int


def colorful(rng: np.random.Generator) -> np.ndarray:
    """A tint of any hue, from pale to vivid."""
    return 0.45 + rng.uniform(0.2, 1.0) * rng.dirichlet([0.9, 0.9, 0.9]) + rng.uniform(-0.2, 0.15)


def table(b: Builder, p: Palette, length: float, width: float, height: float = 0.75) -> None:
    tint = b.rng.uniform(0.6, 1.1, 3)
    b.box((0, 0, height - 0.02), (length, width, 0.04), p.wood, tint)
    b.box((0, 0, height - 0.09), (length - 0.12, width - 0.12, 0.08), p.wood, tint * 0.8)
    for x in (-1, 1):
        for y in (-1, 1):
            at = np.array([x * (length / 2 - 0.08), y * (width / 2 - 0.08), 0])
            b.rod(at, at + [0, 0, height - 0.05], 0.022, p.wood, tint * 0.8, end_radius=0.035)


def chair(b: Builder, p: Palette) -> None:
    """Seat toward −y of its backrest; thin legs and slats."""
    tint = colorful(b.rng) if b.rng.random() < 0.5 else b.rng.uniform(0.5, 1.1, 3)
    b.box((0, 0, 0.45), (0.44, 0.44, 0.035), p.wood, tint)
    b.box((0, 0, 0.485), (0.4, 0.4, 0.04), p.fabric, colorful(b.rng))
    for x in (-0.2, 0.2):
        b.rod((x, -0.2, 0), (x, -0.2, 0.45), 0.016, p.wood, tint)
        b.rod((x, 0.2, 0), (x, 0.23, 0.98), 0.018, p.wood, tint)
        b.rod((x, -0.2, 0.2), (x, 0.2, 0.2), 0.01, p.wood, tint)
    b.box((0, 0.23, 0.94), (0.44, 0.025, 0.08), p.wood, tint)
    for x in np.linspace(-0.13, 0.13, 4):
        b.rod((x, 0.205, 0.46), (x, 0.228, 0.92), 0.009, p.wood, tint)


def bookshelf(b: Builder, p: Palette, length: float, height: float, shelves: int = 4) -> None:
    """Open toward −y, filled with books of all sizes, some leaning on gaps."""
    tint, depth = b.rng.uniform(0.5, 1.0, 3), 0.3
    b.box((0, depth / 2, height / 2), (length, 0.02, height), p.wood, tint * 0.6)
    for x in (-length / 2, length / 2):
        b.box((x, 0, height / 2), (0.03, depth, height), p.wood, tint)
    for level in np.linspace(0.06, height, shelves + 1):
        b.box((0, 0, level), (length, depth, 0.025), p.wood, tint)
    room = height / shelves - 0.08
    for level in np.linspace(0.06, height, shelves + 1)[:-1]:
        x = -length / 2 + 0.04
        while x < length / 2 - 0.1:
            thick, tall = b.rng.uniform(0.02, 0.07), room * b.rng.uniform(0.55, 0.95)
            if b.rng.random() < 0.85:
                material = p.page if b.rng.random() < 0.4 else p.paint
                b.box((x + thick / 2, b.rng.uniform(-0.05, 0.02), level + 0.013 + tall / 2),
                      (thick * 0.94, 0.2, tall), material, colorful(b.rng))
            x += thick


def floor_lamp(b: Builder, p: Palette) -> None:
    b.rod((0, 0, 0), (0, 0, 0.03), 0.15, p.metal)
    b.rod((0, 0, 0), (0, 0, 1.6), 0.013, p.metal, (0.4, 0.4, 0.4))
    b.rod((0, 0, 1.45), (0, 0, 1.75), 0.2, p.fabric, (1.3, 1.2, 0.9), end_radius=0.12)


def rod_stand(b: Builder, p: Palette) -> None:
    """Sticks of all colours in a bucket."""
    b.rod((0, 0, 0), (0, 0, 0.4), 0.14, p.paint, colorful(b.rng), end_radius=0.17)
    for _ in range(7):
        b.rod((*b.rng.normal(0, 0.04, 2), 0.1), (*b.rng.normal(0, 0.12, 2), b.rng.uniform(0.8, 1.3)), 0.012,
              p.paint, colorful(b.rng))


def crates(b: Builder, p: Palette, count: int) -> None:
    """A leaning pile, each crate turned a little from the one below, with slats round it."""
    z = 0.0
    for _ in range(count):
        size = b.rng.uniform(0.3, 0.5)
        with b.frame(*b.rng.uniform(-0.05, 0.05, 2), z, b.rng.uniform(-0.5, 0.5)):
            tint = b.rng.uniform(0.6, 1.1, 3)
            b.box((0, 0, size / 2), (size, size, size), p.wood, tint)
            for level in (0.04, size - 0.04):
                b.box((0, 0, level), (size + 0.03, size + 0.03, 0.05), p.wood, tint * 0.7)
            b.sheet((-size * 0.3, -size / 2 - 0.018, size * 0.3), (size * 0.6, 0, 0), (0, 0, size * 0.4),
                    p.page, whole=True)
        z += size


def plant(b: Builder, p: Palette, height: float = 1.2) -> None:
    b.rod((0, 0, 0), (0, 0, 0.35), 0.14, p.stone, colorful(b.rng), end_radius=0.2)
    for _ in range(int(b.rng.integers(5, 9))):
        lean = np.append(b.rng.normal(0, 0.22, 2), height * b.rng.uniform(0.6, 1.0))
        b.rod((0, 0, 0.3), lean, 0.008, p.leaf, end_radius=0.006, sides=6)
        for _ in range(3):
            b.ball(lean * b.rng.uniform(0.75, 1.05) + b.rng.normal(0, 0.05, 3), b.rng.uniform(0.04, 0.13, 3),
                   p.leaf, bumps=0.1, rings=6)


def tree(b: Builder, p: Palette, height: float) -> None:
    b.rod((0, 0, 0), (0, 0, height * 0.6), 0.13, p.wood, (0.5, 0.42, 0.35), end_radius=0.07)
    for _ in range(14):
        tip = np.append(b.rng.normal(0, 0.2 * height, 2), height * b.rng.uniform(0.6, 1.0))
        b.rod((0, 0, height * b.rng.uniform(0.35, 0.6)), tip, 0.04, p.wood, (0.5, 0.42, 0.35),
              end_radius=0.015, sides=8)
        b.ball(tip, b.rng.uniform(0.22, 0.5, 3), p.leaf, bumps=0.08, rings=10)


def railing(b: Builder, p: Palette, length: float, height: float = 0.9) -> None:
    """Along x, from 0 to `length`: two rails on thin bars."""
    tint = b.rng.uniform(0.25, 0.7, 3)
    for level in (0.12, height):
        b.rod((0, 0, level), (length, 0, level), 0.02, p.metal, tint)
    for x in np.arange(0, length + 0.01, 0.14):
        thick = x / 0.14 % 6 < 0.5
        b.rod((x, 0, 0), (x, 0, height + 0.08 * thick), 0.024 if thick else 0.009, p.metal, tint)


def bench(b: Builder, p: Palette) -> None:
    tint = colorful(b.rng)
    for y in (-0.18, -0.06, 0.06, 0.18):
        b.box((0, y, 0.45), (1.5, 0.09, 0.035), p.wood, tint)
    for z in (0.62, 0.76):
        b.box((0, 0.25, z), (1.5, 0.03, 0.09), p.wood, tint)
    for x in (-0.6, 0.6):
        b.box((x, -0.15, 0.22), (0.05, 0.05, 0.44), p.metal)
        b.box((x, 0.24, 0.4), (0.05, 0.05, 0.8), p.metal)


def lamp_post(b: Builder, p: Palette, height: float = 3.0) -> None:
    b.rod((0, 0, 0), (0, 0, 0.25), 0.12, p.metal, (0.4, 0.4, 0.42), end_radius=0.06)
    b.rod((0, 0, 0), (0, 0, height), 0.035, p.metal, (0.35, 0.37, 0.4))
    b.rod((0, 0, height - 0.25), (0.5, 0, height), 0.02, p.metal, (0.35, 0.37, 0.4))
    b.ball((0.5, 0, height - 0.1), (0.13, 0.13, 0.13), p.paint, (1.3, 1.3, 1.2))


def pillar(b: Builder, p: Palette, height: float, radius: float) -> None:
    b.box((0, 0, 0.1), (radius * 2.8, radius * 2.8, 0.2), p.stone)
    b.rod((0, 0, 0.2), (0, 0, height - 0.2), radius, p.stone, end_radius=radius * 0.85, sides=24)
    b.box((0, 0, height - 0.1), (radius * 2.6, radius * 2.6, 0.2), p.stone)


def window(b: Builder, p: Palette, width: float, height: float) -> None:
    """In a wall that faces −y, around (0, 0, 0): dark pane, thick frame, cross bars, sill."""
    b.box((0, -0.01, 0), (width, 0.02, height), p.paint, b.rng.uniform(0.1, 0.3) * np.array([0.8, 0.95, 1.2]))
    frame = b.rng.uniform(0.6, 1.2, 3)
    for x in (-width / 2, 0, width / 2):
        b.box((x, -0.04, 0), (0.06, 0.09, height), p.wood, frame)
    for z in (-height / 2, height * 0.1, height / 2):
        b.box((0, -0.04, z), (width + 0.06, 0.09, 0.06), p.wood, frame)
    b.box((0, -0.1, -height / 2 - 0.05), (width + 0.25, 0.22, 0.06), p.stone)


def small_thing(b: Builder, p: Palette, size: float) -> None:
    """One of a cup, a ball, a box, a book pile, a vase, a cone, a candlestick; about `size` wide."""
    choice, tint = int(b.rng.integers(7)), colorful(b.rng)
    material = int(b.rng.choice([p.paint, p.picture, p.fabric, p.stone, p.wood, p.page]))
    if choice == 0:
        b.rod((0, 0, 0), (0, 0, size), size * 0.35, material, tint, end_radius=size * 0.45)
    elif choice == 1:
        b.ball((0, 0, size * 0.5), (size * 0.5,) * 3, material, tint, rings=20)
    elif choice == 2:
        b.box((0, 0, size * 0.4), (size * 0.9, size * 0.7, size * 0.8), material, tint)
    elif choice == 3:
        for level in range(4):
            with b.frame(0, 0, level * size * 0.2, b.rng.uniform(-0.4, 0.4)):
                b.box((0, 0, size * 0.1), (size, size * 0.7, size * 0.19), p.page, colorful(b.rng))
    elif choice == 4:
        b.ball((0, 0, size * 0.45), (size * 0.4, size * 0.4, size * 0.45), material, tint, rings=18)
        b.rod((0, 0, size * 0.75), (0, 0, size * 1.3), size * 0.16, material, tint, end_radius=size * 0.28)
    elif choice == 5:
        b.rod((0, 0, 0), (0, 0, size * 1.4), size * 0.5, material, tint, end_radius=size * 0.04, sides=28)
    else:
        b.rod((0, 0, 0), (0, 0, size * 0.08), size * 0.3, p.metal, tint)
        b.rod((0, 0, 0), (0, 0, size * 1.6), size * 0.035, p.metal, tint)
        b.ball((0, 0, size * 1.65), (size * 0.14,) * 3, p.paint, tint)
