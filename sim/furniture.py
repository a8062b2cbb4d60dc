"""Things that stand in the sample worlds, each built at the origin of the builder's frame, on z = 0."""

from __future__ import annotations

import numpy as np

from chopgrad_ns.sim.palette import Palette, colorful
from chopgrad_ns.sim.shapes import Builder


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


def tree(b: Builder, p: Palette, height: float, rings: int = 10, crown: float = 0.6) -> None:
    """Its branches end at the share `crown` of its height, or higher."""
    thick = 0.04 * height
    b.rod((0, 0, 0), (0, 0, height * 0.6), thick, p.wood, (0.5, 0.42, 0.35), end_radius=thick / 2)
    for _ in range(14):
        tip = np.append(b.rng.normal(0, 0.2 * height, 2), height * b.rng.uniform(crown, 1.0))
        b.rod((0, 0, height * b.rng.uniform(crown - 0.25, 0.6)), tip, thick / 3, p.wood, (0.5, 0.42, 0.35),
              end_radius=0.015, sides=8)
        b.ball(tip, b.rng.uniform(0.08, 0.16, 3) * height, p.leaf, bumps=0.08, rings=rings)


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


def lamp_post(b: Builder, p: Palette, height: float = 3.0, arm: float = 0.5) -> None:
    """Its arm points toward +x."""
    b.rod((0, 0, 0), (0, 0, 0.25), 0.12, p.metal, (0.4, 0.4, 0.42), end_radius=0.06)
    b.rod((0, 0, 0), (0, 0, height), 0.035, p.metal, (0.35, 0.37, 0.4))
    b.rod((0, 0, height - 0.25), (arm, 0, height), 0.02, p.metal, (0.35, 0.37, 0.4))
    b.ball((arm, 0, height - 0.1), (0.13, 0.13, 0.13), p.paint, (1.3, 1.3, 1.2))


def pillar(b: Builder, p: Palette, height: float, radius: float) -> None:
    b.box((0, 0, 0.1), (radius * 2.8, radius * 2.8, 0.2), p.stone)
    b.rod((0, 0, 0.2), (0, 0, height - 0.2), radius, p.stone, end_radius=radius * 0.85, sides=24)
    b.box((0, 0, height - 0.1), (radius * 2.6, radius * 2.6, 0.2), p.stone)


def window(b: Builder, p: Palette, width: float, height: float) -> None:
    """In a wall that faces −y, around (0, 0, 0): dark pane, thick frame, cross bars, sill."""
    b.box((0, -0.01, 0), (width, 0.02, height), p.glass, b.rng.uniform(0.6, 1.5) * np.array([0.8, 0.95, 1.2]))
    frame = b.rng.uniform(0.6, 1.2, 3)
    for x in (-width / 2, 0, width / 2):
        b.box((x, -0.04, 0), (0.06, 0.09, height), p.wood, frame)
    for z in (-height / 2, height * 0.1, height / 2):
        b.box((0, -0.04, z), (width + 0.06, 0.09, 0.06), p.wood, frame)
    b.box((0, -0.1, -height / 2 - 0.05), (width + 0.25, 0.22, 0.06), p.stone)


def small_thing(b: Builder, p: Palette, size: float) -> None:
    """A cup, ball, box, book pile, vase, cone, candlestick, bottle, wire cube or mirror ball, about `size` wide."""
    material = int(b.rng.choice([p.paint, p.picture, p.fabric, p.stone, p.wood, p.page, p.dark, p.coat]))
    make = [_cup, _ball, _box, _books, _vase, _cone, _candlestick, _bottle, _wire_cube, _mirror_ball]
    make[int(b.rng.integers(len(make)))](b, p, size, material, colorful(b.rng))


def _cup(b: Builder, p: Palette, size: float, material: int, tint: np.ndarray) -> None:
    b.rod((0, 0, 0), (0, 0, size), size * 0.35, material, tint, end_radius=size * 0.45)


def _ball(b: Builder, p: Palette, size: float, material: int, tint: np.ndarray) -> None:
    b.ball((0, 0, size * 0.5), (size * 0.5,) * 3, material, tint, rings=20)


def _box(b: Builder, p: Palette, size: float, material: int, tint: np.ndarray) -> None:
    b.box((0, 0, size * 0.4), (size * 0.9, size * 0.7, size * 0.8), material, tint)


def _books(b: Builder, p: Palette, size: float, material: int, tint: np.ndarray) -> None:
    for level in range(int(b.rng.integers(2, 6))):
        with b.frame(0, 0, level * size * 0.2, b.rng.uniform(-0.4, 0.4)):
            b.box((0, 0, size * 0.1), (size, size * 0.7, size * 0.19), p.page, colorful(b.rng))


def _vase(b: Builder, p: Palette, size: float, material: int, tint: np.ndarray) -> None:
    b.ball((0, 0, size * 0.45), (size * 0.4, size * 0.4, size * 0.45), material, tint, rings=18)
    b.rod((0, 0, size * 0.75), (0, 0, size * 1.3), size * 0.16, material, tint, end_radius=size * 0.28)


def _cone(b: Builder, p: Palette, size: float, material: int, tint: np.ndarray) -> None:
    b.rod((0, 0, 0), (0, 0, size * 1.4), size * 0.5, material, tint, end_radius=size * 0.04, sides=28)


def _candlestick(b: Builder, p: Palette, size: float, material: int, tint: np.ndarray) -> None:
    b.rod((0, 0, 0), (0, 0, size * 0.08), size * 0.3, p.metal, tint)
    b.rod((0, 0, 0), (0, 0, size * 1.6), size * 0.035, p.metal, tint)
    b.ball((0, 0, size * 1.65), (size * 0.14,) * 3, p.paint, tint)


def _bottle(b: Builder, p: Palette, size: float, material: int, tint: np.ndarray) -> None:
    b.rod((0, 0, 0), (0, 0, size), size * 0.22, p.glass, tint * 1.5, sides=24)
    b.rod((0, 0, size), (0, 0, size * 1.25), size * 0.22, p.glass, tint * 1.5, end_radius=size * 0.08, sides=24)
    b.rod((0, 0, size * 1.25), (0, 0, size * 1.6), size * 0.08, p.glass, tint * 1.5)
    b.rod((0, 0, size * 0.3), (0, 0, size * 0.75), size * 0.225, p.page, (1, 1, 0.95), sides=24)


def _wire_cube(b: Builder, p: Palette, size: float, material: int, tint: np.ndarray) -> None:
    corners = size * (np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0.02, 1.02)]))
    for i, one in enumerate(corners):
        for other in corners[i + 1:]:
            if np.sum(np.abs(one - other) > 1e-6) == 1:
                b.rod(one, other, size * 0.02, p.metal, tint * 0.8, sides=6)


def _mirror_ball(b: Builder, p: Palette, size: float, material: int, tint: np.ndarray) -> None:
    b.rod((0, 0, 0), (0, 0, size * 0.12), size * 0.3, p.rubber, (1, 1, 1))
    b.ball((0, 0, size * 0.55), (size * 0.45,) * 3, p.chrome, (1, 1, 1), rings=22)


def sofa(b: Builder, p: Palette, length: float, cloth: int) -> None:
    """Along x, its back toward +y."""
    tint, feet = colorful(b.rng), 0.12
    b.box((0, 0, feet + 0.14), (length, 0.85, 0.28), cloth, tint * 0.9)
    b.box((0, 0.34, 0.55), (length, 0.2, 0.55), cloth, tint)
    for x in (-1, 1):
        b.box((x * (length / 2 - 0.09), 0, 0.42), (0.18, 0.85, 0.36), cloth, tint * 0.95)
        for y in (-0.35, 0.35):
            b.rod((x * (length / 2 - 0.1), y, 0), (x * (length / 2 - 0.1), y, feet), 0.02, p.metal, sides=8)
    count = max(int(length / 0.7), 1)
    for x in (np.arange(count) - (count - 1) / 2) * (length - 0.4) / count:
        b.box((x, -0.06, 0.46), ((length - 0.42) / count, 0.66, 0.13), cloth, tint * b.rng.uniform(0.85, 1.1))
    with b.frame(b.rng.uniform(-0.3, 0.3) * length, 0.15, 0.55, b.rng.uniform(-0.5, 0.5)):
        b.taper((0, 0, 0), (0.42, 0.1), (0.36, 0.08), 0.38, p.fabric, colorful(b.rng), (0, 0.12), bend=0.5)


def screen(b: Builder, p: Palette, width: float) -> None:
    """A switched-off screen that faces −y, on a foot."""
    height = width * 0.57
    b.box((0, 0, 0.01), (0.4 * width, 0.2, 0.02), p.rubber, (1, 1, 1))
    b.rod((0, 0.02, 0), (0, 0.02, 0.12), 0.02, p.rubber, (1, 1, 1))
    b.box((0, 0, 0.1 + height / 2), (width, 0.04, height), p.rubber, (1, 1, 1))
    b.sheet((-width / 2 + 0.015, -0.022, 0.115), (width - 0.03, 0, 0), (0, 0, height - 0.03), p.glass, (0.5, 0.5, 0.5))


def bed(b: Builder, p: Palette, cloth: int) -> None:
    """Its head toward +y."""
    width, tint = b.rng.uniform(1.0, 1.5), colorful(b.rng)
    b.box((0, 0, 0.2), (width, 2.0, 0.25), p.wood, b.rng.uniform(0.5, 1.0, 3))
    b.box((0, 0, 0.42), (width - 0.05, 1.95, 0.2), p.paint, (1, 1, 0.97))
    b.taper((0, -0.3, 0.5), (width + 0.04, 1.4), (width - 0.1, 1.3), 0.08, cloth, tint, bend=0.3)
    b.taper((0, 0.72, 0.52), (0.7, 0.4), (0.55, 0.3), 0.13, p.paint, (1.05, 1.05, 1.05), bend=0.5)
    b.box((0, 1.0, 0.5), (width, 0.05, 1.0), p.wood, b.rng.uniform(0.5, 1.0, 3))


def radiator(b: Builder, p: Palette, length: float) -> None:
    """Along x, in front of a wall that faces −y."""
    for x in np.arange(-length / 2, length / 2, 0.07):
        b.box((x, -0.1, 0.4), (0.035, 0.1, 0.55), p.paint, (1, 1, 1))
    b.rod((-length / 2, -0.1, 0.14), (length / 2, -0.1, 0.14), 0.015, p.paint, (1, 1, 1), sides=8)


def pendant(b: Builder, p: Palette, x: float, y: float, z: float, ceiling: float, tint) -> None:
    """A bulb over z, on a wire from the ceiling."""
    b.rod((x, y, z + 0.15), (x, y, ceiling), 0.006, p.rubber, (1, 1, 1), sides=5)
    b.ball((x, y, z + 0.1), (0.06, 0.06, 0.08), p.paint, tint, rings=8)


def curtain(b: Builder, p: Palette, width: float, height: float, cloth: int) -> None:
    """Folds around x = 0, hanging from z = 0 in front of a wall that faces −y."""
    tint, x = colorful(b.rng) + 0.15, np.linspace(-width / 2, width / 2, 13)
    folds = np.stack([x, -0.1 + 0.03 * np.cos(np.arange(13) * np.pi), 0 * x], axis=1)
    b.strip(folds, folds - [0, 0, height], cloth, tint)
