"""A street with parked and moving vehicles, seen from a car."""

from __future__ import annotations

import numpy as np

from chopgrad_ns.sim import cars, furniture, outdoors
from chopgrad_ns.sim.cars import Vehicle, build_vehicle
from chopgrad_ns.sim.light import Lighting, daylight
from chopgrad_ns.sim.palette import Palette, material, shades
from chopgrad_ns.sim.road import Road, Track
from chopgrad_ns.sim.shapes import Builder
from chopgrad_ns.sim.walks import Drive

KERB = 0.13
"""Metres that pavements lie above the road."""
MARK = 0.008
"""Metres that road markings lie above it."""


def build_street(b: Builder, p: Palette) -> tuple[Lighting, str, Drive, list[Vehicle]]:
    """A street into `b`; its light, weather, the drive through it, and its vehicles, which `b` does not hold."""
    rng = b.rng
    bend = 0.0 if rng.random() < 0.35 else rng.choice([-1, 1]) / rng.uniform(130, 400)
    road = Road(bend, rng.uniform(3.2, 3.6), rng.uniform(2.2, 2.5), rng.uniform(1.9, 3.2))
    crossing = rng.uniform(18, 40)
    _ground(b, p, road)
    _markings(b, p, road, crossing)
    for side in (-1, 1):
        _buildings(b, p, road, side)
        _pavement_things(b, p, road, side, crossing)
    _wires(b, p, road)
    lighting, weather = daylight(rng, p.clouds, shelter=2.5, azimuth=_sun(rng), lowest=38)
    drive = Drive(road, -road.lane / 2, rng.uniform(5, 12), rng.uniform(1.4, 1.65), rng.uniform(0, 6),
                  rng.uniform(-0.05, -0.01))
    return lighting, weather, drive, _vehicles(b, p, road, drive, crossing)


def _sun(rng: np.random.Generator) -> float:
    """From in front or behind and a little aside, so that it gets between the houses and shadows show."""
    return rng.choice([0, np.pi]) + rng.choice([-1, 1]) * rng.uniform(0.25, 0.85)


def _stations(road: Road, step: float = 4.0) -> np.ndarray:
    return np.arange(road.first, road.last + step / 2, step)


def _ground(b: Builder, p: Palette, road: Road) -> None:
    """Road, kerbs and pavements, and a lawn below everything."""
    rng, along = b.rng, _stations(road)
    gray = rng.uniform(0.75, 1.15)
    asphalt = material(b, "asphalt", ((0.27 * gray,) * 3, (0.52 * gray,) * 3), 3.0)
    paving = material(b, str(rng.choice(["tiles", "cobbles", "bricks"])), shades(rng, 0.12, 0.45, 0.75),
                      rng.uniform(1.6, 2.4))
    b.strip(road.line(along, road.kerb, 0.0), road.line(along, -road.kerb, 0.0), asphalt, (1, 1, 1))
    for side in (-1, 1):
        edge, top = road.line(along, side * road.kerb, 0.0), road.line(along, side * road.kerb, KERB)
        stone = road.line(along, side * (road.kerb + 0.18), KERB)
        b.strip(edge, top, p.stone, (0.85, 0.85, 0.87))
        b.strip(top, stone, p.stone, (0.95, 0.95, 0.97))
        b.strip(stone, road.line(along, side * (road.frontage + 9), KERB), paving, (1, 1, 1))
    lawn = material(b, "grass", ((0.1, 0.25, 0.05), (0.5, 0.65, 0.25)), 3.0)
    b.sheet((-80, -160, -0.05), (320, 0, 0), (0, 320, 0), lawn, (0.9, 0.9, 0.9))


def _markings(b: Builder, p: Palette, road: Road, crossing: float) -> None:
    """Dashes between the lanes, lines at the bays, a zebra crossing, and an arrow before it."""
    worn = np.full(3, b.rng.uniform(0.85, 1.0))

    def bar(start: float, end: float, left: float, right: float) -> None:
        along = np.linspace(start, end, max(int((end - start) / 4), 1) + 1)
        b.strip(road.line(along, left, MARK), road.line(along, right, MARK), p.paint, worn)

    for start in np.arange(road.first, road.last - 3, 6.0):
        if abs(start + 1.5 - crossing) > 4.5:
            bar(start, start + 3, 0.07, -0.07)
    for side in (-1, 1):
        bar(road.first, road.last, side * road.lane + 0.06, side * road.lane - 0.06)
    for left in np.arange(-road.lane + 0.5, road.lane - 0.2, 1.0):
        bar(crossing - 1.6, crossing + 1.6, left + 0.25, left - 0.25)
    for side in (-1, 1):  # stop lines
        lane = (0.15, road.lane - 0.15) if side > 0 else (-road.lane + 0.15, -0.15)
        bar(crossing + side * 2.8 - 0.2, crossing + side * 2.8 + 0.2, max(lane), min(lane))
    middle = -road.lane / 2
    for start in (crossing - 10, crossing + 25):
        bar(start, start + 2.4, middle + 0.09, middle - 0.09)
        along, wide = np.array([start + 2.4, start + 3.4]), np.array([0.35, 0.02])
        b.strip(road.line(along, middle + wide, MARK), road.line(along, middle - wide, MARK), p.paint, worn)


def _buildings(b: Builder, p: Palette, road: Road, side: int) -> None:
    """One after the other along a side, some apart; one across at the far end."""
    rng = b.rng
    walls = [material(b, str(rng.choice(["bricks", "plaster"])), shades(rng, 0.45, 0.4, 0.85), rng.uniform(1.6, 2.6))
             for _ in range(2)]
    roof = material(b, "tiles", shades(rng, 0.4, 0.25, 0.5), 1.5)
    at = road.first
    while at < road.last - 5:
        length = rng.uniform(8, 15)
        x, y, heading = road.place(at + length / 2, side * (road.frontage + rng.uniform(0, 0.3)))
        with b.frame(x, y, KERB, heading + (0 if side > 0 else np.pi)):
            _building(b, p, length, rng.uniform(5, 13), walls[int(rng.integers(2))], roof)
        at += length
        if rng.random() < 0.35:
            gap = rng.uniform(2.5, 6)
            x, y, heading = road.place(at + gap / 2, side * (road.frontage + 0.3))
            with b.frame(x, y, KERB, heading + (0 if side > 0 else np.pi)):
                _gap(b, p, gap)
            at += gap
    if side > 0:
        x, y, heading = road.place(road.last + 6, 0)
        with b.frame(x, y, 0, heading - np.pi / 2):
            _building(b, p, 46, rng.uniform(7, 12), walls[0], roof)


def _building(b: Builder, p: Palette, length: float, height: float, wall: int, roof: int) -> None:
    """Its front is y = 0 and faces −y."""
    rng, depth, tint = b.rng, 8.0, b.rng.uniform(0.75, 1.05, 3)
    b.box((0, depth / 2, height / 2), (length, depth, height), wall, tint)
    shop = rng.random() < 0.4
    if shop:
        outdoors.shop_front(b, p, length - rng.uniform(1, 3))
        with b.frame(0, 0, 2.8):
            _rows(b, p, length, height - 2.8)
    else:
        outdoors.facade(b, p, length, height, arcade=False)
    b.box((0, -0.08, height - 0.1), (length + 0.05, 0.3, 0.22), p.stone)
    if not shop and rng.random() < 0.4:
        b.box((0, -0.04, 0.3), (length, 0.08, 0.6), p.stone)
    if rng.random() < 0.6:
        rise = rng.uniform(1.5, 3)
        with b.frame(0, depth / 2, height, np.pi / 2):
            gable = [(-depth / 2 - 0.3, 0), (0, rise), (depth / 2 + 0.3, 0)]
            b.prism(gable, length + 0.1, roof, rng.uniform(0.8, 1.1, 3))
        b.box((rng.uniform(-0.3, 0.3) * length, depth / 2 - 1, height + rise * 0.7), (0.6, 0.6, 1.6), wall, tint * 0.8)
    x = length / 2 - 0.15  # a drainpipe
    b.rod((x, -0.09, 0), (x, -0.09, height - 0.2), 0.05, p.metal, (0.5, 0.5, 0.52), sides=6)


def _rows(b: Builder, p: Palette, length: float, height: float) -> None:
    spacing, tall = b.rng.uniform(1.9, 2.5), b.rng.uniform(1.0, 1.5)
    count = max(int(length / spacing), 1)
    for x in (np.arange(count) - (count - 1) / 2) * spacing:
        for z in np.arange(1.2, height - 0.7, 2.8):
            with b.frame(x, 0, z):
                furniture.window(b, p, 1.0, tall)


def _gap(b: Builder, p: Palette, length: float) -> None:
    """A garden between houses behind a fence."""
    with b.frame(-length / 2):
        furniture.railing(b, p, length, 1.1)
    with b.frame(0, 1.0):
        outdoors.hedge(b, p, length * 0.8)
    if b.rng.random() < 0.6:
        with b.frame(0, 3.0):
            furniture.tree(b, p, b.rng.uniform(3.5, 6))


def _pavement_things(b: Builder, p: Palette, road: Road, side: int, crossing: float) -> None:
    rng, spacing = b.rng, b.rng.uniform(9, 14)
    trees, tall = rng.random() < 0.6, rng.uniform(3.8, 5.0)
    for number, along in enumerate(np.arange(road.first + rng.uniform(0, 5), road.last, spacing)):
        x, y, heading = road.place(along, side * (road.kerb + 0.45))
        with b.frame(x, y, KERB, heading + (np.pi / 2 if side < 0 else -np.pi / 2)):
            if trees and number % 2 and abs(along - crossing) > 5:
                furniture.tree(b, p, rng.uniform(5.2, 6.5), rings=8, crown=0.75)
            else:
                furniture.lamp_post(b, p, tall, arm=0.9)
        x, y, heading = road.place(along + rng.uniform(2, spacing - 2), side * (road.kerb + 0.5))
        with b.frame(x, y, KERB, heading):
            outdoors.scatter(b, [lambda: outdoors.sign(b, p), lambda: outdoors.bin_and_box(b, p),
                                 lambda: outdoors.bollards(b, p, 4.2), lambda: outdoors.bicycle(b, p),
                                 lambda: furniture.railing(b, p, 3.0), lambda: outdoors.sign(b, p)], 0, 0, 0)
        x, y, heading = road.place(along + rng.uniform(0, spacing), side * (road.frontage - 0.45))
        with b.frame(x, y, KERB, heading + (0 if side > 0 else np.pi)):
            outdoors.scatter(b, [lambda: furniture.plant(b, p, 1.1), lambda: furniture.bench(b, p), lambda: None,
                                 lambda: furniture.crates(b, p, 2), lambda: outdoors.bicycle(b, p)], 0, 0, 0)
    x, y, heading = road.place(crossing + 2.4 * side, side * (road.kerb + 0.4))
    with b.frame(x, y, KERB, heading + (0 if side < 0 else np.pi)):
        outdoors.scatter(b, [lambda: outdoors.traffic_light(b, p), lambda: outdoors.sign(b, p)], 0, 0, 0)


def _wires(b: Builder, p: Palette, road: Road) -> None:
    """Across the street between houses, or along it on wooden poles."""
    rng, height = b.rng, b.rng.uniform(5.0, 6.5)
    if rng.random() < 0.5:
        for along in np.arange(road.first + rng.uniform(5, 15), road.last, rng.uniform(14, 24)):
            ends = [road.line(along + rng.uniform(-3, 3), side * road.frontage, height - 0.8) for side in (-1, 1)]
            outdoors.wire(b, p, *ends, rng.uniform(0.2, 0.6), 0.02)
            middle = (ends[0] + ends[1]) / 2 - [0, 0, 0.75]
            b.rod(middle + [0, 0, 0.4], middle, 0.1, p.paint, (1.1, 1.1, 1.0), end_radius=0.22, sides=10)
        return
    side = rng.choice([-1, 1])
    places = [road.line(along, side * (road.kerb + 0.9), height) for along in np.arange(road.first, road.last, 22.0)]
    for place in places:
        b.rod([*place[:2], 0], place, 0.11, p.wood, (0.5, 0.42, 0.35), end_radius=0.08, sides=10)
        b.box(place - [0, 0, 0.3], (0.1, 1.3, 0.1), p.wood, (0.5, 0.42, 0.35))
    for one, other in zip(places, places[1:]):
        for aside in (-0.6, 0.0, 0.6):
            outdoors.wire(b, p, one + [0, aside, -0.2], other + [0, aside, -0.2], rng.uniform(0.2, 0.5), 0.015)


def _vehicles(b: Builder, p: Palette, road: Road, drive: Drive, crossing: float) -> list[Vehicle]:
    """Parked ones at both sides, and one or two that move: one ahead in our lane, one that comes toward us."""
    rng, vehicles = b.rng, []

    def add(start: float, aside: float | None, speed: float = 0.0, turned: bool = False, side: int = 0) -> None:
        """At `aside`, or parked at the kerb of a side."""
        kind = _kind(rng)
        mesh, size = build_vehicle(b, p, kind)
        if aside is None:
            aside = side * (road.kerb - size[1] / 2 - rng.uniform(0.04, 0.15))
        vehicles.append(Vehicle(f"{kind}-{len(vehicles)}", kind, size, mesh, Track(start, aside, speed, turned)))

    which = str(rng.choice(["ahead", "oncoming", "both"], p=[0.25, 0.35, 0.4]))
    if which != "oncoming":
        add(rng.uniform(13, 26), drive.aside + rng.uniform(-0.1, 0.1), drive.speed * rng.uniform(0.95, 1.15))
    if which != "ahead":
        add(rng.uniform(40, 75), road.lane / 2, -rng.uniform(5, 11), turned=True)
    full = rng.uniform(0.35, 0.8)
    for side in (-1, 1):
        for along in np.arange(road.first + 4, road.last - 4, 8.0):
            if rng.random() < full and abs(along - crossing) > 6.8:
                backward = (side > 0) != (rng.random() < 0.1)
                add(along + rng.uniform(-0.1, 0.1), None, turned=bool(backward), side=side)
    return vehicles


def _kind(rng: np.random.Generator) -> str:
    return str(rng.choice(cars.KINDS, p=[0.74, 0.17, 0.09]))
