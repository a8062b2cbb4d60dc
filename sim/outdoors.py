"""Things in courtyards and streets: facades, and much that is thin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chopgrad_ns.sim import furniture
from chopgrad_ns.sim.palette import Palette, colorful
from chopgrad_ns.sim.shapes import Builder, Vector


def facade(b: Builder, p: Palette, length: float, height: float, arcade: bool) -> None:
    """Windows in rows, a door, and perhaps a colonnade in front; the wall faces −y."""
    spacing = b.rng.uniform(1.9, 2.5)
    count = max(int(length / spacing), 1)
    door = int(b.rng.integers(count))
    wide, tall = b.rng.uniform(0.8, 1.2), b.rng.uniform(1.0, 1.45)
    storey = b.rng.uniform(1.9, 2.3) if height < 7 else b.rng.uniform(2.6, 3.1)
    for column, x in enumerate((np.arange(count) - (count - 1) / 2) * spacing):
        if column == door:
            b.box((x, -0.03, 1.05), (1.1, 0.06, 2.1), p.wood, colorful(b.rng) * 0.8)
            b.box((x, -0.08, 2.2), (1.5, 0.3, 0.12), p.stone)
            b.ball((x + 0.4, -0.09, 1.05), (0.05, 0.05, 0.05), p.chrome, rings=6)
        for z in np.arange(1.6, height - 0.8, storey):
            if column != door or z > 2.9:
                with b.frame(x, 0, z):
                    furniture.window(b, p, wide, tall)
    if arcade:
        for x in np.linspace(-length / 2 + 1, length / 2 - 1, 5):
            with b.frame(x, -0.5):
                furniture.pillar(b, p, 2.9, 0.14)
        b.box((0, -0.35, 3.0), (length - 1, 0.7, 0.2), p.stone)


def shop_front(b: Builder, p: Palette, length: float) -> None:
    """A large pane with things behind glass dark as night, a sign above and an awning; in a wall that faces −y."""
    color = colorful(b.rng)
    b.box((0, -0.03, 1.3), (length, 0.06, 1.9), p.glass, b.rng.uniform(0.6, 1.2, 3))
    for x in np.linspace(-length / 2, length / 2, max(int(length / 1.3), 1) + 1):
        b.box((x, -0.06, 1.3), (0.07, 0.1, 1.9), p.metal, color)
    b.box((0, -0.08, 0.2), (length, 0.12, 0.4), p.wood, color)
    b.box((0, -0.1, 2.5), (length, 0.2, 0.5), p.paint, color)
    b.sheet((-length * 0.35, -0.21, 2.3), (length * 0.7, 0, 0), (0, 0, 0.4), p.page, whole=True)
    if b.rng.random() < 0.5:
        b.sheet((-length / 2, -1.1, 2.3), (length, 0, 0), (0, 1.1, 0.45), p.fabric, colorful(b.rng))


def wire(b: Builder, p: Palette, start: Vector, end: Vector, sag: float, radius: float = 0.012) -> None:
    """A cable that hangs through by `sag` metres."""
    t = np.linspace(0, 1, 9)[:, None]
    points = np.asarray(start, float) * (1 - t) + np.asarray(end, float) * t
    points[:, 2] -= 4 * sag * (t * (1 - t))[:, 0]
    for one, other in zip(points, points[1:]):
        b.rod(one, other, radius, p.rubber, (1, 1, 1), sides=5)


def clothes_line(b: Builder, p: Palette, length: float, height: float = 2.0) -> None:
    """Along x, between two posts; cloths hang from it."""
    for x in (-length / 2, length / 2):
        b.rod((x, 0, 0), (x, 0, height + 0.05), 0.03, p.metal, (0.4, 0.4, 0.42))
    wire(b, p, (-length / 2, 0, height), (length / 2, 0, height), 0.05, 0.006)
    x = -length / 2 + 0.3
    while x < length / 2 - 0.7:
        wide, tall = b.rng.uniform(0.3, 0.8), b.rng.uniform(0.4, 1.1)
        cloth = int(b.rng.choice([p.fabric, p.poster, p.paint, p.dark]))
        tint, lean = colorful(b.rng) + 0.2, b.rng.uniform(-0.2, 0.2)
        b.sheet((x, 0.01, height - 0.06), (wide, 0, 0), (0, lean, -tall), cloth, tint)
        x += wide + b.rng.uniform(0.05, 0.3)


def bicycle(b: Builder, p: Palette) -> None:
    """Along x, leaning a little; thin tubes and spokes."""
    color, lean = colorful(b.rng), np.array([0, 0.12, 1])
    at = lambda x, z: np.array([x, 0, 0]) + z * lean  # noqa: E731
    for x in (-0.5, 0.5):
        angle = np.linspace(0, 2 * np.pi, 19)
        rim = [at(x + 0.33 * np.cos(a), 0.34 + 0.33 * np.sin(a)) for a in angle]
        for one, other in zip(rim, rim[1:]):
            b.rod(one, other, 0.016, p.rubber, (1, 1, 1), sides=5)
        for point in rim[:-1:2]:
            b.rod(at(x, 0.34), point, 0.004, p.chrome, sides=4)
    rear, crank, seat, head, front = at(-0.5, 0.34), at(-0.08, 0.3), at(-0.22, 0.85), at(0.33, 0.82), at(0.5, 0.34)
    for one, other in ((rear, crank), (rear, seat), (crank, seat), (crank, head), (seat, head), (head, front)):
        b.rod(one, other, 0.017, p.coat, color, sides=8)
    bar = at(0.3, 0.98)
    b.rod(head, bar, 0.014, p.chrome, sides=6)
    b.rod(bar - [0, 0.27, 0], bar + [0, 0.27, 0], 0.013, p.rubber, (1, 1, 1), sides=6)
    b.box(at(-0.25, 0.93), (0.26, 0.14, 0.05), p.rubber, (1, 1, 1))


def sign(b: Builder, p: Palette) -> None:
    """A traffic sign on a pole, facing −x: a disc, a triangle, or a name plate."""
    tall, choice = b.rng.uniform(2.1, 2.5), int(b.rng.integers(3))
    color = np.array([[0.85, 0.1, 0.1], [0.1, 0.25, 0.8]])
    b.rod((0, 0, 0), (0, 0, tall + 0.3), 0.03, p.metal, (0.7, 0.7, 0.72), sides=8)
    main, inner = color[int(b.rng.integers(2))], (1.0, 1.0, 1.0)
    if choice < 2:
        sides = (20, 3)[choice]
        b.rod((-0.04, 0, tall), (-0.05, 0, tall), 0.34, p.paint, main, sides=sides)
        b.rod((-0.05, 0, tall), (-0.06, 0, tall), 0.25 - 0.03 * choice, p.paint, inner, sides=sides)
        b.box((-0.065, 0, tall), (0.01, 0.28 * (1 - 0.5 * choice), 0.08), p.rubber, (1, 1, 1))
    else:
        b.box((-0.04, 0, tall), (0.02, 1.0, 0.35), p.paint, main)
        b.sheet((-0.052, 0.45, tall - 0.14), (0, -0.9, 0), (0, 0, 0.28), p.page, whole=True)


def traffic_light(b: Builder, p: Palette) -> None:
    """Facing −x."""
    b.rod((0, 0, 0), (0, 0, 3.0), 0.05, p.metal, (0.35, 0.37, 0.4), sides=8)
    b.box((0, 0, 2.9), (0.25, 0.3, 0.85), p.rubber, (1, 1, 1))
    for z, tint in ((3.15, (1.1, 0.15, 0.1)), (2.9, (0.5, 0.35, 0.05)), (2.65, (0.05, 0.4, 0.15))):
        b.ball((-0.12, 0, z), (0.04, 0.1, 0.1), p.coat, tint, rings=6)


def bollards(b: Builder, p: Palette, length: float) -> None:
    """Along x, joined by a thin chain or not."""
    chain, tint = b.rng.random() < 0.5, b.rng.uniform(0.2, 0.6, 3)
    places = np.arange(0, length + 0.01, 1.4)
    for x in places:
        b.rod((x, 0, 0), (x, 0, 0.85), 0.05, p.metal, tint, sides=8)
        b.ball((x, 0, 0.88), (0.065,) * 3, p.chrome, rings=6)
    if chain:
        for x in places[:-1]:
            wire(b, p, (x, 0, 0.75), (x + 1.4, 0, 0.75), 0.15, 0.01)


def bin_and_box(b: Builder, p: Palette) -> None:
    """A litter bin or a switch box."""
    if b.rng.random() < 0.5:
        b.rod((0, 0, 0.1), (0, 0, 0.8), 0.2, p.metal, colorful(b.rng) * 0.7, end_radius=0.24)
        b.rod((0, 0, 0.8), (0, 0, 0.85), 0.2, p.rubber, (1, 1, 1))
    else:
        b.box((0, 0, 0.6), (0.8, 0.4, 1.2), p.paint, b.rng.uniform(0.4, 0.8, 3))
        b.sheet((-0.3, -0.21, 0.4), (0.6, 0, 0), (0, 0, 0.6), int(b.rng.choice([p.poster, p.page])), whole=True)


def hedge(b: Builder, p: Palette, length: float) -> None:
    """Along x, around the origin."""
    for x in np.arange(-length / 2, length / 2, 0.55):
        b.ball((x, b.rng.uniform(-0.08, 0.08), 0.5), (0.5, 0.4, b.rng.uniform(0.5, 0.8)), p.leaf, bumps=0.08, rings=8)


def scatter(b: Builder, things: Sequence, x: float, y: float, yaw: float) -> None:
    """One of `things`, functions without arguments, at a place of the current frame."""
    with b.frame(x, y, 0, yaw):
        things[int(b.rng.integers(len(things)))]()
