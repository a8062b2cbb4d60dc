"""A paved yard between facades, under a sky."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from chopgrad_ns.sim import furniture, outdoors
from chopgrad_ns.sim.indoors import strolls, wall, wall_frames
from chopgrad_ns.sim.light import Lighting, daylight
from chopgrad_ns.sim.palette import Palette, material, shades
from chopgrad_ns.sim.shapes import Builder
from chopgrad_ns.sim.walks import Stroll


def build_courtyard(b: Builder, p: Palette) -> tuple[Lighting, str, Iterator[Stroll]]:
    """A courtyard into `b`; its light, the weather, and ways through it."""
    rng = b.rng
    width, depth, height = rng.uniform(10, 13.5), rng.uniform(9, 11.5), rng.uniform(4.2, 7)
    ground = material(b, str(rng.choice(["cobbles", "tiles", "bricks", "asphalt"])), shades(rng, 0.15, 0.35, 0.75),
                      rng.uniform(1.8, 2.6))
    lawn = material(b, "grass", ((0.1, 0.25, 0.05), (0.5, 0.65, 0.25)), 1.5)
    facades = [material(b, kind, shades(rng, 0.45, 0.4, 0.8), rng.uniform(1.6, 2.6)) for kind in ("bricks", "plaster")]
    b.sheet((-width / 2, -depth / 2, 0), (width, 0, 0), (0, depth, 0), ground)
    if rng.random() < 0.5:
        with b.frame(*rng.uniform(-1.5, 1.5, 2), 0.01, rng.uniform(0, np.pi)):
            b.sheet((-3, -1, 0), (6, 0, 0), (0, 2, 0), lawn)
    b.sheet((-60, -60, -0.1), (120, 0, 0), (0, 120, 0), lawn)
    low = int(rng.integers(4)) if rng.random() < 0.45 else -1  # a side that is open to trees
    for side, (x, y, yaw, length) in enumerate(wall_frames(width, depth)):
        with b.frame(x, y, 0, yaw):
            if side == low:
                _open_side(b, p, length, facades[0])
            else:
                tall = height * rng.uniform(0.75, 1.15)
                wall(b, length, tall, facades[int(rng.integers(2))])
                b.box((0, 0, tall), (length, 0.35, 0.2), p.stone)
                outdoors.facade(b, p, length, tall, arcade=rng.random() < 0.35)
    _monument(b, p, lawn)
    for x, y in ((-2.1, 1.4), (2.0, 1.6), (-2.1, -1.5), (2.1, -1.5), (0.2, 2.4), (-0.3, -2.4)):
        outdoors.scatter(b, [lambda: furniture.bench(b, p), lambda: furniture.crates(b, p, 2), lambda: None,
                             lambda: furniture.lamp_post(b, p), lambda: furniture.railing(b, p, 1.7),
                             lambda: furniture.plant(b, p, 1.1), lambda: outdoors.bicycle(b, p),
                             lambda: outdoors.clothes_line(b, p, 1.9), lambda: outdoors.hedge(b, p, 1.5),
                             lambda: outdoors.bollards(b, p, 1.4), lambda: outdoors.bin_and_box(b, p)],
                         x + rng.uniform(-0.3, 0.3), y + rng.uniform(-0.3, 0.3), rng.uniform(0, 6))
    for _ in range(int(rng.integers(0, 4))):  # overhead from wall to wall
        x, z = rng.uniform(-width / 3, width / 3, 2), rng.uniform(2.6, 3.4)
        outdoors.wire(b, p, (x[0], -depth / 2, z), (x[1], depth / 2, z), rng.uniform(0.1, 0.4))
    light, weather = daylight(rng, p.clouds, shelter=2.0)
    return light, weather, strolls(rng, (3.3, 3.9), (1.5, 2.1), (0.7, 1.3), 0.9, (1.0, 1.6))


def _open_side(b: Builder, p: Palette, length: float, surface: int) -> None:
    """A low wall with a railing on it; trees and a hedge behind."""
    wall(b, length, 0.9, surface)
    b.box((0, 0.1, 0.9), (length, 0.3, 0.08), p.stone)
    with b.frame(-length / 2, 0.1, 0.94):
        furniture.railing(b, p, length, 0.6)
    with b.frame(0, 1.2):
        outdoors.hedge(b, p, length)
    for x in np.linspace(-length / 2, length / 2, int(b.rng.integers(3, 6))):
        with b.frame(x + b.rng.uniform(-0.8, 0.8), b.rng.uniform(2.5, 6)):
            furniture.tree(b, p, b.rng.uniform(3.5, 6))


def _monument(b: Builder, p: Palette, lawn: int) -> None:
    """What stands in the middle of the yard: a tree in a round bed, a fountain, a pond, or a sculpture."""
    choice, radius = int(b.rng.integers(4)), b.rng.uniform(0.9, 1.3)
    sides = int(b.rng.choice([6, 8, 40]))
    b.rod((0, 0, 0), (0, 0, 0.3), radius, p.stone, sides=sides)
    if choice == 0:
        b.rod((0, 0, 0.3), (0, 0, 0.33), radius - 0.15, lawn, (1, 1, 1), sides=sides)
        with b.frame(*b.rng.uniform(-0.2, 0.2, 2), 0.3):
            furniture.tree(b, p, b.rng.uniform(2.2, 3.2))
    elif choice == 1:
        b.rod((0, 0, 0.3), (0, 0, 0.32), radius - 0.12, p.water, (1, 1, 1), sides=sides)
        with b.frame(0, 0, 0.3):
            furniture.pillar(b, p, 1.0, 0.16)
        b.rod((0, 0, 1.3), (0, 0, 1.5), 0.2, p.stone, end_radius=0.6, sides=30)
        b.ball((0, 0, 1.7), (0.22, 0.22, 0.25), p.chrome, furniture.colorful(b.rng))
    elif choice == 2:
        b.rod((0, 0, 0.3), (0, 0, 0.32), radius - 0.12, p.water, (1, 1, 1), sides=sides)
        for angle in b.rng.uniform(0, 2 * np.pi, 5):
            place = 0.7 * radius * np.array([np.cos(angle), np.sin(angle), 0])
            for lean in b.rng.normal(0, 0.15, (4, 2)):
                tip = place + [*lean, b.rng.uniform(0.6, 1.2)]
                b.rod(place + [0, 0, 0.3], tip, 0.012, p.leaf, end_radius=0.004, sides=5)
    else:
        b.box((0, 0, 0.55), (0.8, 0.8, 0.5), p.stone)
        z = 0.8
        for size in b.rng.uniform(0.4, 0.8, 3):
            with b.frame(*b.rng.uniform(-0.1, 0.1, 2), z, b.rng.uniform(0, 6)):
                furniture.small_thing(b, p, size)
            z += 0.8 * size
