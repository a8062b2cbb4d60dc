"""Rooms to live in, and galleries of small objects."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from chopgrad_ns.sim import furniture, outdoors
from chopgrad_ns.sim.light import Light, Lighting, daylight
from chopgrad_ns.sim.palette import Palette, material, shades
from chopgrad_ns.sim.shapes import Builder, Vector
from chopgrad_ns.sim.walks import Arc, Line, Stroll

Opening = tuple[float, float, float, float]
"""x of the middle, z of the sill, width and height of a hole in a wall."""


def wall_frames(width: float, depth: float) -> list[tuple[float, float, float, float]]:
    """x, y, yaw and length of the four walls round the origin; what faces −y there faces the middle."""
    return [(0, depth / 2, 0, width), (width / 2, 0, -np.pi / 2, depth), (0, -depth / 2, np.pi, width),
            (-width / 2, 0, np.pi / 2, depth)]


def wall(b: Builder, length: float, height: float, surface: int, opening: Opening | None = None) -> None:
    """At y = 0, facing −y, with a skirting board or not; an opening has reveals as deep as the wall."""
    half, tint, deep = length / 2, b.rng.uniform(0.9, 1.05, 3), np.array([0, 0.18, 0])

    def part(left: float, right: float, low: float, high: float) -> None:
        b.sheet((left, 0, low), (right - left, 0, 0), (0, 0, high - low), surface, tint)

    if b.rng.random() < 0.7:
        b.sheet((-half, -0.02, 0), (length, 0, 0), (0, 0, 0.12), 0, (0.7, 0.7, 0.7))
    if opening is None:
        part(-half, half, 0, height)
        return
    x, sill, wide, tall = opening
    left, right, top = x - wide / 2, x + wide / 2, sill + tall
    part(-half, left, 0, height)
    part(right, half, 0, height)
    part(left, right, 0, sill)
    part(left, right, top, height)
    for corner, edge in (((left, 0, sill), (0, 0, tall)), ((right, 0, sill), (0, 0, tall)),
                         ((left, 0, top), (wide, 0, 0)), ((left, 0, sill), (wide, 0, 0))):
        b.sheet(corner, edge, deep, surface, tint * 0.9)


def open_window(b: Builder, p: Palette, opening: Opening, cloth: int | None) -> None:
    """Frame and bars in an opening, a sill below, and curtains beside it where there is cloth."""
    x, sill, wide, tall = opening
    tint = b.rng.uniform(0.7, 1.2, 3)
    with b.frame(x, 0.1, sill):
        for at in np.linspace(-wide / 2, wide / 2, 3 if wide < 1.5 else 4):
            b.box((at, 0, tall / 2), (0.05, 0.06, tall), p.wood, tint)
        for z in (0.025, tall * 0.62, tall - 0.025):
            b.box((0, 0, z), (wide, 0.06, 0.05), p.wood, tint)
        b.box((0, -0.16, -0.03), (wide + 0.2, 0.3, 0.05), p.stone)
    if cloth is not None:
        rail = sill + tall + 0.12
        b.rod((x - wide / 2 - 0.4, -0.1, rail), (x + wide / 2 + 0.4, -0.1, rail), 0.015, p.metal)
        for side in (-1, 1):
            with b.frame(x + side * (wide / 2 + 0.15), 0, rail):
                furniture.curtain(b, p, 0.45, sill + tall, cloth)


def pictures(b: Builder, p: Palette, length: float, low: float, high: float, occupied: float) -> None:
    """Framed pictures, posters and mirrors along a wall that faces −y, apart from its middle `occupied` metres."""
    for side in (-1, 1):
        room = (length - occupied) / 2 - 0.5
        if room < 0.5 or b.rng.random() < 0.15:
            continue
        wide, tall = min(b.rng.uniform(0.5, 1.1), room), b.rng.uniform(0.5, high - low)
        x = side * (occupied / 2 + 0.2 + b.rng.uniform(wide / 2, room - wide / 2))
        z = b.rng.uniform(low + tall / 2, high - tall / 2) if high - low > tall else (low + high) / 2
        b.box((x, -0.015, z), (wide + 0.08, 0.03, tall + 0.08), p.wood, b.rng.uniform(0.3, 1.0, 3))
        mirror = b.rng.random() < 0.2
        b.sheet((x - wide / 2, -0.032, z - tall / 2), (wide, 0, 0), (0, 0, tall),
                p.chrome if mirror else int(b.rng.choice([p.picture, p.page, p.poster])),
                (0.5, 0.5, 0.5) if mirror else b.rng.uniform(0.6, 1.15, 3), whole=True)


def lamp_color(rng: np.random.Generator) -> np.ndarray:
    """Of a bulb: from candle to daylight."""
    return np.array([1.06, 1.0, 0.92]) * 2 ** (rng.uniform(-0.25, 0.45) * np.array([0.5, 0, -1.0]))


Range = tuple[float, float]


def strolls(rng: np.random.Generator, reach: Range, height: Range, look: Range, spread: float, sweep: Range,
            sway: float = 0.06) -> Iterator[Stroll]:
    """Ways round or past the middle, at a distance within `reach`, one after the other without end.

    Eyes are within `height`; the gaze goes to places within `spread` of the middle and at heights within `look`, all in
    metres; `sweep` is how far round, in radians.
    """
    while True:
        looks = tuple(np.array([*rng.uniform(-spread, spread, 2), z]) for z in rng.uniform(*look, 2))
        heights = tuple(rng.uniform(*height, 2))
        shared = dict(height=heights, look=looks, sway=sway, bob=sway / 3, phase=rng.uniform(0, 6),
                      pauses=int(rng.choice([0, 0, 1, 2])))
        radius, turn = rng.uniform(*reach), rng.uniform(0, 2 * np.pi)
        if rng.random() < 0.6:
            yield Arc(radius=(radius, radius * rng.uniform(0.85, 1.0)), start=turn,
                      sweep=rng.choice([-1, 1]) * rng.uniform(*sweep), **shared)
            continue
        # Past the middle: the gaze swings from what lies ahead to what was passed.
        along, aside = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        ends = [aside * radius * 0.85 * rng.choice([1.0, 1.0, 0.9]) + sign * along * radius * rng.uniform(0.45, 0.75)
                for sign in (-1, 1)]
        for place, sign in zip(looks, (1, -1)):
            place[:2] += sign * along * radius * rng.uniform(0.0, 0.35)
        yield Line(begin=tuple(ends[0]), end=tuple(ends[1]), **shared)


def build_room(b: Builder, p: Palette) -> tuple[Lighting, str, Iterator[Stroll]]:
    """A furnished room into `b`; its light, what lights it, and ways through it."""
    rng = b.rng
    width, depth, height = rng.uniform(5.6, 7.4), rng.uniform(5.2, 6.4), rng.uniform(2.5, 3.1)
    surfaces = [material(b, str(rng.choice(["wallpaper", "plaster", "bricks"])), shades(rng, 0.4, 0.45, 0.9),
                         rng.uniform(1.2, 2.2)) for _ in range(2)]
    polished = rng.random() < 0.5
    floor = material(b, str(rng.choice(["wood", "tiles"])), shades(rng, 0.35, 0.35, 0.8), rng.uniform(1.4, 2.4),
                     gloss=0.3 if polished else 0.1, mirror=0.06 if polished else 0.0)
    cloth = material(b, "fabric", shades(rng, 0.7, 0.3, 0.85), 1.6)
    b.sheet((-width / 2, -depth / 2, 0), (width, 0, 0), (0, depth, 0), floor)
    b.sheet((-width / 2, -depth / 2, height), (0, depth, 0), (width, 0, 0), p.stone)
    lit_by = str(rng.choice(["lamp", "two lamps", "day"], p=[0.35, 0.25, 0.4]))
    bright = int(rng.integers(4))  # the wall with a window
    openings: list[Opening | None] = [None] * 4
    for side in {bright, (bright + 1) % 4 if rng.random() < 0.4 else bright} if lit_by == "day" else ():
        wide = rng.uniform(1.2, 2.2)
        openings[side] = (rng.uniform(-0.6, 0.6), rng.uniform(0.7, 1.0), wide, rng.uniform(1.1, 1.4))
    for (x, y, yaw, length), opening, surface in zip(wall_frames(width, depth), openings, rng.integers(0, 2, 4)):
        with b.frame(x, y, 0, yaw):
            wall(b, length, height, surfaces[surface], opening)
            if opening is None:
                _wall_furniture(b, p, length, height, cloth)
            else:
                open_window(b, p, opening, cloth if rng.random() < 0.6 else None)
                _low_furniture(b, p, opening)
    with b.frame(*rng.uniform(-0.15, 0.15, 2), 0.0, rng.uniform(0, np.pi)):
        [_dining, _lounge, _study, _sleeping][int(rng.choice(4, p=[0.35, 0.3, 0.2, 0.15]))](b, p, cloth)
    for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        outdoors.scatter(b, [lambda: furniture.plant(b, p), lambda: furniture.floor_lamp(b, p), lambda: None,
                             lambda: furniture.crates(b, p, 3), lambda: furniture.rod_stand(b, p)],
                         x * (width / 2 - 0.4), y * (depth / 2 - 0.4), rng.uniform(0, 6))
    light, weather = _room_light(b, p, lit_by, openings, width, depth, height)
    radius = min(width, depth) / 2 - 0.6
    return light, weather, strolls(rng, (radius - 0.35, radius), (1.3, 1.7), (0.6, 1.1), 0.45, (1.1, 1.8))


def _room_light(b: Builder, p: Palette, lit_by: str, openings: list[Opening | None], width: float, depth: float,
                height: float) -> tuple[Lighting, str]:
    rng, dim = b.rng, b.rng.uniform(0.75, 1.3)
    side = next((k for k, opening in enumerate(openings) if opening), 0)
    outward = [np.pi / 2, 0, -np.pi / 2, np.pi][side]
    light, weather = daylight(rng, p.clouds, shelter=0.9, azimuth=outward + rng.uniform(-0.9, 0.9), lowest=28)
    if lit_by == "day":
        lamps = [light.lamps[0]]
        x, sill, _, tall = openings[side]
        at_x, at_y, yaw, _ = wall_frames(width, depth)[side]
        window = np.array([at_x + np.cos(yaw) * x, at_y + np.sin(yaw) * x, sill + tall / 2]) + \
            0.5 * np.array([np.cos(outward), np.sin(outward), 0])
        lamps.append(Light(window, np.array([2.3, 2.45, 2.7]) * rng.uniform(1.0, 1.4), 4.0, 0.4))
        return Lighting(lamps, np.array([0.6, 0.63, 0.68]) * dim, 0.9, light.sky), f"day, {weather}"
    lamps = []
    for strength in (1.0,) if lit_by == "lamp" else (0.75, 0.55):
        x, y, z = *rng.uniform(-1.4, 1.4, 2), height - rng.uniform(0.3, 0.8)
        color = lamp_color(rng)
        furniture.pendant(b, p, x, y, z, height, np.clip(1.2 * color, 0, 1.3))
        lamps.append(Light(np.array([x, y, z]), 2.75 * strength * color * rng.uniform(0.9, 1.2), 3.0, 0.08))
    return Lighting(lamps, np.array([0.3, 0.31, 0.34]) * dim, 0.9, light.sky), lit_by


def _dining(b: Builder, p: Palette, cloth: int) -> None:
    """A table with chairs and things on it, on a rug."""
    rng, length, width = b.rng, b.rng.uniform(1.2, 1.7), b.rng.uniform(0.75, 0.95)
    _rug(b, cloth)
    furniture.table(b, p, length, width)
    seats = [(-0.35, width / 2 + 0.1, 0.0), (0.35, -width / 2 - 0.1, np.pi), (length / 2 + 0.15, 0, -np.pi / 2),
             (0.4, width / 2 + 0.1, 0.0), (-length / 2 - 0.15, 0, np.pi / 2)]
    for x, y, yaw in seats[:int(rng.integers(2, 6))]:
        with b.frame(x, y, 0, yaw + rng.uniform(-0.3, 0.3)):
            furniture.chair(b, p)
    _things(b, p, np.linspace(-length / 2 + 0.15, length / 2 - 0.15, int(rng.integers(3, 7))), 0.25, 0.75)


def _lounge(b: Builder, p: Palette, cloth: int) -> None:
    """Two sofas in an L round a low table of glass or wood; a screen opposite or not."""
    rng = b.rng
    _rug(b, cloth)
    for x, y, yaw in ((0, 1.15, 0), (-1.15, -0.1, np.pi / 2)):
        with b.frame(x, y, 0, yaw):
            furniture.sofa(b, p, rng.uniform(1.4, 1.9), int(rng.choice([cloth, p.fabric, p.dark, p.paint])))
    length, glass = rng.uniform(0.8, 1.1), rng.random() < 0.5
    furniture.table(b, p, length, 0.6, 0.42)
    if glass:
        b.box((0, 0, 0.43), (length + 0.06, 0.66, 0.015), p.glass, (1.3, 1.4, 1.4))
    _things(b, p, np.linspace(-length / 2 + 0.15, length / 2 - 0.15, int(rng.integers(2, 4))), 0.15, 0.44)
    if rng.random() < 0.5:
        b.box((0.2, -1.15, 0.22), (1.2, 0.35, 0.44), p.wood, rng.uniform(0.4, 1.0, 3))
        with b.frame(0.2, -1.15, 0.44, np.pi):
            furniture.screen(b, p, 1.05)


def _study(b: Builder, p: Palette, cloth: int) -> None:
    """A desk with a screen, papers and a chair; a shelf behind its back."""
    rng, length = b.rng, b.rng.uniform(1.3, 1.7)
    furniture.table(b, p, length, 0.75)
    with b.frame(rng.uniform(-0.2, 0.2), 0.15, 0.75, rng.uniform(-0.2, 0.2)):
        furniture.screen(b, p, rng.uniform(0.5, 0.7))
    for _ in range(3):
        with b.frame(*rng.uniform(-0.3, 0.3, 2) * [length, 0.7], 0.753 + 0.002 * rng.random(), rng.uniform(0, 6)):
            b.sheet((-0.1, -0.15, 0), (0.21, 0, 0), (0, 0.3, 0), p.page, (1, 1, 1), whole=True)
    _things(b, p, (-length / 2 + 0.2, length / 2 - 0.2), 0.2, 0.75)
    with b.frame(0, -0.55, 0, np.pi + rng.uniform(-0.6, 0.6)):
        furniture.chair(b, p)
    with b.frame(0, 1.1, 0, 0):
        furniture.bookshelf(b, p, rng.uniform(0.9, 1.5), rng.uniform(0.8, 1.2), 3)
    _rug(b, cloth)


def _sleeping(b: Builder, p: Palette, cloth: int) -> None:
    """A bed with a stool beside, and a chest at its foot."""
    furniture.bed(b, p, cloth)
    with b.frame(b.rng.choice([-1.1, 1.1]), 0.7):
        b.box((0, 0, 0.25), (0.4, 0.4, 0.5), p.wood)
        with b.frame(0, 0, 0.5):
            furniture.small_thing(b, p, 0.2)
    with b.frame(0, -1.35, 0, b.rng.uniform(-0.2, 0.2)):
        b.box((0, 0, 0.2), (1.0, 0.45, 0.4), p.wood, furniture.colorful(b.rng))
        _things(b, p, (-0.25, 0.2), 0.05, 0.4)
    _rug(b, cloth)


def _rug(b: Builder, cloth: int) -> None:
    wide, long = b.rng.uniform(1.2, 1.9), b.rng.uniform(1.9, 2.6)
    with b.frame(*b.rng.uniform(-0.2, 0.2, 2), 0.012, b.rng.uniform(-0.5, 0.5)):
        b.sheet((-long / 2, -wide / 2, 0), (long, 0, 0), (0, wide, 0), cloth, whole=True)


def _things(b: Builder, p: Palette, places: Vector, spread: float, z: float) -> None:
    for x in places:
        with b.frame(x, b.rng.uniform(-spread, spread), z, b.rng.uniform(0, 6)):
            furniture.small_thing(b, p, b.rng.uniform(0.12, 0.26))


def _wall_furniture(b: Builder, p: Palette, length: float, height: float, cloth: int) -> None:
    """At a wall that faces −y: shelf, window at night, sideboard, sofa, clothes line or bicycle; pictures beside."""
    rng, wide = b.rng, b.rng.uniform(1.0, 1.8)
    with b.frame(rng.uniform(-0.4, 0.4), -0.18):
        choice = int(rng.choice(7, p=[0.22, 0.18, 0.2, 0.12, 0.1, 0.1, 0.08]))
        if choice == 0:
            furniture.bookshelf(b, p, wide, rng.uniform(1.2, 2.1), int(rng.integers(3, 6)))
        elif choice == 1:
            with b.frame(0, 0.18, 1.55):
                furniture.window(b, p, wide, 1.1)
            with b.frame(0, 0.18):
                furniture.radiator(b, p, wide * 0.8)
        elif choice == 2:
            b.box((0, 0, 0.4), (wide, 0.36, 0.8), p.wood, rng.uniform(0.4, 1.1, 3))
            _things(b, p, np.linspace(-wide / 2 + 0.2, wide / 2 - 0.2, int(rng.integers(2, 5))), 0.03, 0.8)
        elif choice == 3:
            with b.frame(0, -0.28):
                furniture.sofa(b, p, wide, int(rng.choice([cloth, p.fabric, p.dark])))
        elif choice == 4:
            outdoors.clothes_line(b, p, wide, 1.5)
        elif choice == 5:
            outdoors.bicycle(b, p)
        else:
            furniture.bench(b, p)
    pictures(b, p, length, 0.9, min(height - 0.3, 2.2), wide + 0.8)


def _low_furniture(b: Builder, p: Palette, opening: Opening) -> None:
    """Below a window: a radiator, a bench or things on the sill."""
    with b.frame(opening[0]):
        if b.rng.random() < 0.5:
            furniture.radiator(b, p, opening[2] * 0.8)
        else:
            with b.frame(0, -0.35):
                b.box((0, 0, 0.2), (opening[2], 0.4, 0.4), p.wood)
        _things(b, p, (-opening[2] * 0.3, opening[2] * 0.25), 0.0, opening[1] + 0.0)


def build_objects(b: Builder, p: Palette) -> tuple[Lighting, str, Iterator[Stroll]]:
    """Many small things in a small gallery; its light, what lights it, and ways round them."""
    rng, side, high = b.rng, b.rng.uniform(4.4, 5.4), b.rng.uniform(2.4, 2.9)
    shiny = rng.random() < 0.4
    ground = material(b, str(rng.choice(["wood", "tiles", "fabric", "painting", "plaster"])),
                      shades(rng, 0.5, 0.35, 0.85), rng.uniform(0.7, 1.2), gloss=0.3 * shiny, mirror=0.07 * shiny)
    surface = material(b, str(rng.choice(["wallpaper", "bricks", "painting", "plaster"], p=[0.3, 0.25, 0.2, 0.25])),
                       shades(rng, 0.4, 0.4, 0.85), rng.uniform(1.0, 1.6))
    b.sheet((-side / 2, -side / 2, 0), (side, 0, 0), (0, side, 0), ground)
    b.sheet((-side / 2, -side / 2, high), (0, side, 0), (side, 0, 0), p.stone)
    for x, y, yaw, length in wall_frames(side, side):
        with b.frame(x, y, 0, yaw):
            wall(b, length, high, surface)
            pictures(b, p, length, 0.2, 1.6, 0.3)
    layout = int(rng.integers(3))
    lift = rng.uniform(0.25, 0.5) if rng.random() < 0.35 else 0.0
    if lift:  # on a low round stage
        b.rod((0, 0, 0), (0, 0, lift), 1.0, int(rng.choice([p.wood, p.stone, p.dark])), rng.uniform(0.6, 1.0, 3),
              sides=40)
    places = [_rings, _grid, _heap][layout](rng)
    for x, y, size in places:
        with b.frame(x, y, lift, rng.uniform(0, 6)):
            furniture.small_thing(b, p, size)
    with b.frame(-0.6, 0.0, lift, rng.uniform(0, np.pi)):
        [lambda: furniture.railing(b, p, 1.2, 0.4), lambda: None,
         lambda: outdoors.wire(b, p, (0, 0, 0.7), (1.3, 0, 0.55), 0.2, 0.006)][int(rng.integers(3))]()
    lamps = []
    for strength in (1.0,) if rng.random() < 0.55 else (0.75, 0.5):
        place = np.array([*rng.uniform(-1.4, 1.4, 2), rng.uniform(1.8, high - 0.2)])
        furniture.pendant(b, p, *place, high, (1.2, 1.2, 1.1))
        lamps.append(Light(place, 2.6 * strength * lamp_color(rng) * rng.uniform(0.9, 1.2), 2.2, 0.06))
    sky, _ = daylight(rng, p.clouds, 0.4)
    light = Lighting(lamps, np.array([0.34, 0.34, 0.37]) * rng.uniform(0.75, 1.3), 0.4, sky.sky)
    low, near = lift + 0.55, side / 2 - 0.75
    return light, "lamp" if len(lamps) == 1 else "two lamps", strolls(
        rng, (near - 0.3, near), (low, low + 0.55), (lift + 0.08, lift + 0.25), 0.14, (1.3, 2.2), sway=0.04)


def _rings(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """x, y and size of things on circles."""
    places = []
    for ring, count in ((0.0, 1), (0.36, int(rng.integers(4, 6))), (0.74, int(rng.integers(6, 10)))):
        for index in range(count):
            angle = 2 * np.pi * (index + rng.uniform(-0.2, 0.2)) / count
            size = rng.uniform(0.16, 0.3) * (1.0 if ring else 1.5)
            places.append((ring * np.cos(angle), ring * np.sin(angle), size))
    return places


def _grid(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Rows, with gaps."""
    step = rng.uniform(0.36, 0.44)
    return [(x * step + rng.uniform(-0.04, 0.04), y * step + rng.uniform(-0.04, 0.04), rng.uniform(0.15, 0.28))
            for x in range(-2, 3) for y in range(-1, 2) if rng.random() < 0.85]


def _heap(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """A few large ones close together, small ones strewn about."""
    large = [(*rng.uniform(-0.35, 0.35, 2), rng.uniform(0.3, 0.5)) for _ in range(4)]
    return large + [(*rng.normal(0, 0.5, 2).clip(-0.95, 0.95), rng.uniform(0.1, 0.2)) for _ in range(14)]
