"""Three kinds of sample world; every seed has another layout, other materials, light and walk."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from chopgrad_ns.sim import furniture
from chopgrad_ns.sim.furniture import Palette
from chopgrad_ns.sim.shapes import Builder, Mesh
from chopgrad_ns.sim.textures import Atlas, paint

Kind = Literal["room", "courtyard", "objects"]
KINDS: tuple[Kind, ...] = ("room", "courtyard", "objects")


@dataclass
class Light:
    """A lamp that casts shadows, and light from everywhere.

    `position` [3] in metres; `strength` and `ambient` [3], linear RGB; `reach`, the distance in metres at
    which the lamp has half its strength (infinite for a sun); `size`, the radius in metres that softens its
    shadows.
    """

    position: Float[np.ndarray, "3"]
    strength: Float[np.ndarray, "3"]
    ambient: Float[np.ndarray, "3"]
    reach: float
    size: float


@dataclass
class Walk:
    """A person's way: an arc round `center` while the gaze moves from one place to another.

    Angles in radians, lengths in metres. The walker swings in and out by `sway`, and bobs by `bob` around
    `height`.
    """

    center: Float[np.ndarray, "2"]
    radius: tuple[float, float]
    start: float
    sweep: float
    height: tuple[float, float]
    look: tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]
    sway: float = 0.06
    bob: float = 0.02
    phase: float = 0.0


@dataclass
class World:
    """Geometry, surfaces, light, and the walk that its pictures are taken on.

    `sky` holds linear RGB at the horizon and overhead, [2, 3]. `exposure_change` is the standard deviation,
    in stops, of the brightness of single photos.
    """

    kind: Kind
    seed: int
    mesh: Mesh
    atlas: Atlas
    light: Light
    walk: Walk
    sky: Float[np.ndarray, "2 3"]
    exposure_change: float = 0.0


def make_world(kind: Kind, seed: int, exposure_change: float = 0.0) -> World:
    """Build a world; the same kind and seed give the same world. Raises ValueError for another kind."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, not one of {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    builder = Builder(rng)
    palette = _palette(builder)
    light, walk = {"room": _room, "courtyard": _courtyard, "objects": _objects}[kind](builder, palette)
    sky = np.array([[0.75, 0.8, 0.85], [0.2, 0.38, 0.75]]) * rng.uniform(0.6, 1.0)
    return World(kind, seed, builder.mesh(), Atlas(builder.materials), light, walk, sky, exposure_change)


def _shades(rng: np.random.Generator, saturation: float, dark: float, bright: float) -> tuple:
    """Two colours of neighbouring hues, a dark and a bright one; more often earthy than not."""
    hue = rng.random()
    if rng.random() < 0.6:
        hue, saturation = rng.uniform(0.02, 0.14), saturation * 1.2
    else:
        saturation *= 0.7
    low = colorsys.hsv_to_rgb(hue, saturation * rng.uniform(0.7, 1.3), dark * rng.uniform(0.8, 1.2))
    high = colorsys.hsv_to_rgb((hue + rng.uniform(-0.12, 0.12)) % 1, saturation * rng.uniform(0.4, 1.0),
                               bright)
    return low, high


def _material(b: Builder, kind: str, shades: tuple, period: float, gloss: float = 0.0) -> int:
    return b.material(paint(kind, int(b.rng.integers(2**31)), *shades, period=period, gloss=gloss))


def _palette(b: Builder) -> Palette:
    brown = b.rng.uniform(0.6, 1.1)
    wood = ((0.42 * brown, 0.24 * brown, 0.12 * brown), (0.85 * brown, 0.6 * brown, 0.36 * brown))
    return Palette(
        wood=_material(b, "wood", wood, 1.6, gloss=0.1),
        metal=_material(b, "metal", ((0.3,) * 3, (0.8,) * 3), 0.8, gloss=0.5),
        fabric=_material(b, "fabric", _shades(b.rng, 0.5, 0.3, 0.9), 0.5),
        leaf=_material(b, "grass", ((0.05, 0.18, 0.04), (0.45, 0.7, 0.22)), 0.7),
        page=_material(b, "print", ((0.12, 0.1, 0.14), (0.95, 0.93, 0.86)), 0.4),
        picture=_material(b, "painting", _shades(b.rng, 0.6, 0.3, 0.8), 0.5, gloss=0.25),
        poster=_material(b, "painting", _shades(b.rng, 0.6, 0.5, 0.9), 1.0),
        stone=_material(b, "plaster", ((0.45, 0.43, 0.4), (0.85, 0.82, 0.76)), 1.0),
        paint=_material(b, "plaster", ((0.7, 0.7, 0.7), (1.0, 1.0, 1.0)), 0.6, gloss=0.35))


def _walls(b: Builder, width: float, depth: float, height: float, materials: list[int]) -> None:
    """Four walls facing inwards around the origin: north (+y), east (+x), south, west."""
    x, y = width / 2, depth / 2
    corners = [((-x, y, 0), (width, 0, 0)), ((x, y, 0), (0, -depth, 0)), ((x, -y, 0), (-width, 0, 0)),
               ((-x, -y, 0), (0, depth, 0))]
    for (corner, along), material in zip(corners, materials):
        b.sheet(corner, along, (0, 0, height), material)
        if b.rng.random() < 0.7:  # a skirting board
            inward = np.cross([0, 0, 1], along) / np.linalg.norm(along)
            b.sheet(np.asarray(corner) - 0.02 * inward, along, (0, 0, 0.12), 0, (0.7, 0.7, 0.7))


def _against_walls(width: float, depth: float) -> list[tuple[float, float, float, float]]:
    """x, y, yaw and length of the four walls; things facing −y are turned to face the middle."""
    return [(0, depth / 2, 0, width), (width / 2, 0, -np.pi / 2, depth), (0, -depth / 2, np.pi, width),
            (-width / 2, 0, np.pi / 2, depth)]


def _pictures(b: Builder, p: Palette, length: float, low: float, high: float, occupied: float) -> None:
    """Framed pictures and posters along a wall that faces −y, apart from its middle `occupied` metres."""
    for side in (-1, 1):
        room = (length - occupied) / 2 - 0.5
        if room < 0.5:
            continue
        wide, tall = min(b.rng.uniform(0.5, 1.1), room), b.rng.uniform(0.5, high - low)
        x = side * (occupied / 2 + 0.2 + b.rng.uniform(wide / 2, room - wide / 2))
        z = b.rng.uniform(low + tall / 2, high - tall / 2) if high - low > tall else (low + high) / 2
        b.box((x, -0.015, z), (wide + 0.08, 0.03, tall + 0.08), p.wood, b.rng.uniform(0.3, 1.0, 3))
        b.sheet((x - wide / 2, -0.032, z - tall / 2), (wide, 0, 0), (0, 0, tall),
                int(b.rng.choice([p.picture, p.page, p.poster])), b.rng.uniform(0.6, 1.15, 3), whole=True)


def _room(b: Builder, p: Palette) -> tuple[Light, Walk]:
    """A furnished room seen while walking round its table."""
    rng = b.rng
    width, depth, height = rng.uniform(5.6, 7.0), rng.uniform(5.2, 6.2), rng.uniform(2.5, 3.0)
    surfaces = [_material(b, str(rng.choice(["wallpaper", "plaster", "bricks"])),
                          _shades(rng, 0.4, 0.45, 0.9), rng.uniform(1.2, 2.2)) for _ in range(2)]
    floor = _material(b, str(rng.choice(["wood", "tiles"])), _shades(rng, 0.35, 0.35, 0.8),
                      rng.uniform(1.4, 2.4), gloss=0.15)
    _walls(b, width, depth, height, [surfaces[i] for i in rng.integers(0, 2, 4)])
    b.sheet((-width / 2, -depth / 2, 0), (width, 0, 0), (0, depth, 0), floor)
    b.sheet((-width / 2, -depth / 2, height), (0, depth, 0), (width, 0, 0), p.stone)
    rug = _material(b, "fabric", _shades(rng, 0.7, 0.3, 0.85), 1.6)
    with b.frame(*rng.uniform(-0.2, 0.2, 2), 0.012, rng.uniform(-0.5, 0.5)):
        b.sheet((-1.1, -0.8, 0), (2.2, 0, 0), (0, 1.6, 0), rug, whole=True)
    with b.frame(*rng.uniform(-0.15, 0.15, 2), 0.0, rng.uniform(0, np.pi)):
        _dining(b, p)
    for x, y, yaw, length in _against_walls(width, depth):
        with b.frame(x, y, 0, yaw):
            _wall_furniture(b, p, length, height)
    for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        with b.frame(x * (width / 2 - 0.35), y * (depth / 2 - 0.35), 0, rng.uniform(0, 6)):
            [lambda: furniture.plant(b, p), lambda: furniture.floor_lamp(b, p),
             lambda: furniture.crates(b, p, 3), lambda: furniture.rod_stand(b, p)][int(rng.integers(4))]()
    lamp = Light(np.array([*rng.uniform(-1.3, 1.3, 2), height - 0.25]),
                 np.array([2.9, 2.65, 2.25]) * rng.uniform(0.9, 1.2),
                 np.array([0.27, 0.28, 0.32]) * rng.uniform(0.7, 1.3), reach=3.0, size=0.08)
    away = rng.uniform(0, 2 * np.pi)
    radius = min(width, depth) / 2 - rng.uniform(0.65, 0.8)
    look = tuple(np.array([*rng.uniform(-0.4, 0.4, 2), z]) for z in rng.uniform(0.7, 1.0, 2))
    walk = Walk(np.zeros(2), (radius, radius * rng.uniform(0.9, 1.0)), away,
                rng.choice([-1, 1]) * rng.uniform(1.2, 1.8), tuple(rng.uniform(1.35, 1.7, 2)), look,
                phase=rng.uniform(0, 6))
    return lamp, walk


def _dining(b: Builder, p: Palette) -> None:
    """A table with chairs and things on it."""
    length, width = b.rng.uniform(1.2, 1.6), b.rng.uniform(0.75, 0.95)
    furniture.table(b, p, length, width)
    for x, y, yaw in ((-0.35, width / 2 + 0.1, 0.0), (0.35, -width / 2 - 0.1, np.pi),
                      (length / 2 + 0.15, 0, -np.pi / 2)):
        with b.frame(x, y, 0, yaw + b.rng.uniform(-0.3, 0.3)):
            furniture.chair(b, p)
    for x in np.linspace(-length / 2 + 0.15, length / 2 - 0.15, int(b.rng.integers(4, 6))):
        with b.frame(x, b.rng.uniform(-0.25, 0.25), 0.75, b.rng.uniform(0, 6)):
            furniture.small_thing(b, p, b.rng.uniform(0.12, 0.24))


def _wall_furniture(b: Builder, p: Palette, length: float, height: float) -> None:
    """At a wall that faces −y: a shelf, a window with a bench, or a sideboard; pictures beside it."""
    choice, wide = int(b.rng.integers(3)), b.rng.uniform(1.0, 1.8)
    with b.frame(b.rng.uniform(-0.4, 0.4), -0.18):
        if choice == 0:
            furniture.bookshelf(b, p, wide, b.rng.uniform(1.5, 2.1))
        elif choice == 1:
            with b.frame(0, 0.18, 1.55):
                furniture.window(b, p, wide, 1.1)
            with b.frame(0, -0.05):
                furniture.bench(b, p)
        else:
            b.box((0, 0, 0.4), (wide, 0.36, 0.8), p.wood, b.rng.uniform(0.4, 1.1, 3))
            for x in np.linspace(-wide / 2 + 0.2, wide / 2 - 0.2, 3):
                with b.frame(x, 0, 0.8, b.rng.uniform(0, 6)):
                    furniture.small_thing(b, p, b.rng.uniform(0.15, 0.3))
    _pictures(b, p, length, 0.9, min(height - 0.3, 2.2), wide + 0.8)


def _courtyard(b: Builder, p: Palette) -> tuple[Light, Walk]:
    """Facades round a paved yard under a sun, seen while walking past."""
    rng = b.rng
    width, depth, height = rng.uniform(10, 13), rng.uniform(9, 11), rng.uniform(4.5, 6.5)
    ground = _material(b, str(rng.choice(["cobbles", "tiles"])), _shades(rng, 0.15, 0.35, 0.75),
                       rng.uniform(1.8, 2.6))
    facades = [_material(b, kind, _shades(rng, 0.45, 0.4, 0.8), rng.uniform(1.6, 2.6))
               for kind in ("bricks", "plaster")]
    b.sheet((-width / 2, -depth / 2, 0), (width, 0, 0), (0, depth, 0), ground)
    _walls(b, width, depth, height, [facades[i] for i in rng.permutation([0, 1, 0, 1])])
    for x, y, yaw, length in _against_walls(width, depth):
        with b.frame(x, y, 0, yaw):
            _facade(b, p, length, height)
    _monument(b, p)
    spots = [(-2.1, 1.4), (2.0, 1.6), (-2.1, -1.5), (2.1, -1.5), (0.2, 2.4), (-0.3, -2.4)]
    for x, y in spots:
        with b.frame(x + rng.uniform(-0.3, 0.3), y + rng.uniform(-0.3, 0.3), 0, rng.uniform(0, 6)):
            [lambda: furniture.bench(b, p), lambda: furniture.crates(b, p, 2),
             lambda: furniture.lamp_post(b, p), lambda: furniture.railing(b, p, 1.7),
             lambda: furniture.plant(b, p, 1.1)][int(rng.integers(5))]()
    sun = np.array([np.cos(turn := rng.uniform(0, 2 * np.pi)), np.sin(turn), rng.uniform(1.0, 1.9)]) * 60
    light = Light(sun, np.array([1.9, 1.75, 1.5]) * rng.uniform(0.9, 1.15),
                  np.array([0.36, 0.41, 0.5]) * rng.uniform(0.8, 1.2), reach=np.inf, size=0.8)
    radius = rng.uniform(3.6, 3.9)
    look = tuple(np.array([*rng.uniform(-0.8, 0.8, 2), z]) for z in rng.uniform(0.7, 1.2, 2))
    walk = Walk(np.zeros(2), (radius, radius * rng.uniform(0.92, 1.0)), rng.uniform(0, 2 * np.pi),
                rng.choice([-1, 1]) * rng.uniform(1.1, 1.6), tuple(rng.uniform(1.6, 2.1, 2)), look,
                phase=rng.uniform(0, 6))
    return light, walk


def _monument(b: Builder, p: Palette) -> None:
    """What stands in the middle of the yard: a tree in a round bed, a fountain, or a sculpture."""
    lawn = _material(b, "grass", ((0.1, 0.25, 0.05), (0.5, 0.65, 0.25)), 1.5)
    choice, radius = int(b.rng.integers(3)), b.rng.uniform(0.9, 1.3)
    b.rod((0, 0, 0), (0, 0, 0.3), radius, p.stone, sides=40)
    if choice == 0:
        b.rod((0, 0, 0.3), (0, 0, 0.33), radius - 0.15, lawn, (1, 1, 1), sides=40)
        with b.frame(*b.rng.uniform(-0.2, 0.2, 2), 0.3):
            furniture.tree(b, p, b.rng.uniform(2.2, 3.2))
    elif choice == 1:
        b.rod((0, 0, 0.3), (0, 0, 0.33), radius - 0.12, p.paint, (0.25, 0.45, 0.55), sides=40)
        with b.frame(0, 0, 0.3):
            furniture.pillar(b, p, 1.0, 0.16)
        b.rod((0, 0, 1.3), (0, 0, 1.5), 0.2, p.stone, end_radius=0.6, sides=30)
        b.ball((0, 0, 1.7), (0.22, 0.22, 0.25), p.metal, furniture.colorful(b.rng))
    else:
        b.box((0, 0, 0.55), (0.8, 0.8, 0.5), p.stone)
        z = 0.8
        for size in b.rng.uniform(0.4, 0.8, 3):
            with b.frame(*b.rng.uniform(-0.1, 0.1, 2), z, b.rng.uniform(0, 6)):
                furniture.small_thing(b, p, size)
            z += 0.8 * size


def _facade(b: Builder, p: Palette, length: float, height: float) -> None:
    """Windows in rows, a door, and in front of some a colonnade; the wall faces −y."""
    count = int(length / 2.2)
    door = int(b.rng.integers(count))
    for column, x in enumerate((np.arange(count) - (count - 1) / 2) * 2.2):
        if column == door:
            b.box((x, -0.03, 1.05), (1.1, 0.06, 2.1), p.wood, furniture.colorful(b.rng) * 0.8)
            b.box((x, -0.08, 2.2), (1.5, 0.3, 0.12), p.stone)
            b.ball((x + 0.4, -0.09, 1.05), (0.05, 0.05, 0.05), p.metal)
        for z in np.arange(1.6, height - 0.8, 1.9):
            if column != door or z > 2.9:
                with b.frame(x, 0, z):
                    furniture.window(b, p, 1.0, 1.1)
    if b.rng.random() < 0.5:
        for x in np.linspace(-length / 2 + 1, length / 2 - 1, 5):
            with b.frame(x, -0.5):
                furniture.pillar(b, p, 2.9, 0.14)
        b.box((0, -0.35, 3.0), (length - 1, 0.7, 0.2), p.stone)


def _objects(b: Builder, p: Palette) -> tuple[Light, Walk]:
    """Many small things on the floor of a small gallery, round a low fence."""
    rng = b.rng
    ground = _material(b, str(rng.choice(["wood", "tiles", "fabric", "painting"])),
                       _shades(rng, 0.5, 0.35, 0.85), rng.uniform(0.7, 1.2))
    walls = _material(b, str(rng.choice(["wallpaper", "bricks", "painting"])), _shades(rng, 0.4, 0.35, 0.8),
                      rng.uniform(1.0, 1.6))
    b.sheet((-2.4, -2.4, 0), (4.8, 0, 0), (0, 4.8, 0), ground)
    _walls(b, 4.8, 4.8, 2.6, [walls] * 4)
    b.sheet((-2.4, -2.4, 2.6), (0, 4.8, 0), (4.8, 0, 0), p.stone)
    for x, y, yaw, length in _against_walls(4.8, 4.8):
        with b.frame(x, y, 0, yaw):
            _pictures(b, p, length, 0.2, 1.6, 0.3)
    for ring, count in ((0.0, 1), (0.36, 5), (0.72, 8)):
        for index in range(count):
            angle = 2 * np.pi * (index + rng.uniform(-0.2, 0.2)) / count
            with b.frame(ring * np.cos(angle), ring * np.sin(angle), 0, rng.uniform(0, 6)):
                furniture.small_thing(b, p, rng.uniform(0.16, 0.3) * (1.5 if ring == 0 else 1))
    with b.frame(-0.6, 0.0, 0.0, rng.uniform(0, np.pi)):
        furniture.railing(b, p, 1.2, 0.4)
    lamp = Light(np.array([*rng.uniform(-1.2, 1.2, 2), rng.uniform(1.8, 2.4)]),
                 np.array([2.7, 2.55, 2.3]) * rng.uniform(0.9, 1.2),
                 np.array([0.32, 0.32, 0.36]) * rng.uniform(0.7, 1.3), reach=2.2, size=0.06)
    radius = rng.uniform(1.5, 1.75)
    look = tuple(np.array([*rng.uniform(-0.12, 0.12, 2), z]) for z in rng.uniform(0.1, 0.25, 2))
    walk = Walk(np.zeros(2), (radius, radius * rng.uniform(0.85, 1.0)), rng.uniform(0, 2 * np.pi),
                rng.choice([-1, 1]) * rng.uniform(1.3, 2.2), tuple(rng.uniform(0.6, 1.1, 2)), look,
                sway=0.04, bob=0.015, phase=rng.uniform(0, 6))
    return lamp, walk
