"""Vehicles built of a few solids: cars, vans and trucks, each a model in the frame of its box."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from chopgrad_ns.sim.palette import Palette
from chopgrad_ns.sim.road import Track
from chopgrad_ns.sim.shapes import Builder, Mesh

KINDS = ("car", "van", "truck")


@dataclass
class Vehicle:
    """`mesh` in the frame of its box: x forward, y left, z up, origin at the centre; `size` [3] in metres."""

    name: str
    kind: str
    size: Float[np.ndarray, "3"]
    mesh: Mesh
    track: Track


def build_vehicle(b: Builder, p: Palette, kind: str) -> tuple[Mesh, Float[np.ndarray, "3"]]:
    """A vehicle's mesh around the centre of its box, and the box's size; size, shape and colour are drawn."""
    with b.apart() as made:
        {"car": _car, "van": _van, "truck": _truck}[kind](b, p)
    mesh = made[0]
    low, high = mesh.corners.min(axis=(0, 1)), mesh.corners.max(axis=(0, 1))
    pose = np.eye(4)
    pose[:3, 3] = -(low + high) / 2
    return mesh.posed(pose), (high - low).astype(np.float64)


def _color(rng: np.random.Generator) -> np.ndarray:
    """Mostly white, grey and black as on streets; the others are vivid."""
    if rng.random() < 0.5:
        return np.full(3, rng.choice([0.95, 0.75, 0.5, 0.3, 0.16])) * rng.uniform(0.95, 1.05, 3)
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.55, 0.95), rng.uniform(0.45, 0.95)))


def _car(b: Builder, p: Palette) -> None:
    """A hatchback, a saloon, an estate or something higher."""
    rng = b.rng
    length, width, height = rng.uniform(3.7, 4.8), rng.uniform(1.68, 1.86), rng.uniform(1.42, 1.72)
    belt, clear, color = 0.58 * height, 0.2 + 0.1 * (height - 1.42), _color(rng)
    hood, boot = rng.uniform(0.22, 0.3) * length, rng.choice([0.02, 0.05, 0.18]) * length
    front, rear = length / 2, -length / 2
    profile = [(rear, clear + 0.08), (rear, belt - 0.06), (rear + 0.12, belt), (front - hood, belt),
               (front - 0.18, belt - 0.17), (front, belt - 0.34), (front, clear + 0.1), (front - 0.12, clear),
               (rear + 0.12, clear)]
    b.prism(profile, width, p.coat, color, bend=0.25, top_width=width - 0.1)
    begin, end = front - hood + 0.1, rear + boot
    slope_front, slope_rear = rng.uniform(0.45, 0.7), rng.uniform(0.15, 0.55)
    middle, long = (begin + end) / 2, begin - end
    top, shift = long - slope_front - slope_rear, (slope_rear - slope_front) / 2
    _cabin(b, p, (middle, belt), (long, width - 0.12), (top, width - 0.4), height - belt, shift, color)
    for x in (0.31 * length, -0.29 * length):
        _axle(b, p, x, width, rng.uniform(0.3, 0.34) + 0.15 * (height - 1.42))
    _lights(b, p, front, rear, width, belt - 0.27, belt - 0.16)
    for side in (-1, 1):
        b.box((begin - 0.3, side * (width / 2 + 0.06), belt + 0.06), (0.12, 0.16, 0.12), p.coat, color)
        b.box((0, side * (width / 2 + 0.002), clear + 0.05), (0.5 * length, 0.03, 0.09), p.rubber, (1, 1, 1))
    if rng.random() < 0.2:
        b.rod((middle - 0.3, 0.2, height), (middle - 0.6, 0.2, height + 0.35), 0.006, p.rubber, sides=5)


def _cabin(b: Builder, p: Palette, foot, bottom, top, height: float, shift: float, color) -> None:
    """Dark windows all round under a roof, with pillars at the corners and between the doors."""
    x, z = foot
    roof = 0.07
    b.taper((x, 0, z), bottom, top, height - roof, p.glass, (0.6, 0.65, 0.7), (shift, 0), bend=0.2)
    b.taper((x + shift, 0, z + height - roof), (top[0] + 0.06, top[1] + 0.06), (top[0] - 0.3, top[1] - 0.25), roof,
            p.coat, color, bend=0.6)
    for along in (-1, 0.05, 1):
        for side in (-1, 1):
            low = np.array([x + along * bottom[0] / 2, side * bottom[1] / 2, z])
            high = np.array([x + shift + along * top[0] / 2, side * top[1] / 2, z + height - roof + 0.02])
            b.rod(low, high, 0.035, p.coat, color, sides=6)


def _axle(b: Builder, p: Palette, x: float, width: float, radius: float) -> None:
    """Two wheels in dark arches."""
    rim = b.rng.uniform(0.5, 1.3)
    for side in (-1, 1):
        outer, inner = side * (width / 2 + 0.01), side * (width / 2 - 0.2)
        b.rod((x, inner, radius + 0.03), (x, outer - 0.005 * side, radius + 0.03), radius + 0.06, p.rubber, (0.5,) * 3,
              sides=16)
        b.rod((x, inner, radius), (x, outer + 0.02 * side, radius), radius, p.rubber, (1.2,) * 3, sides=18)
        b.rod((x, inner, radius), (x, outer + 0.03 * side, radius), 0.62 * radius, p.chrome, (rim,) * 3, sides=12)
        for angle in np.arange(5) * 2 * np.pi / 5:
            at = [x + 0.38 * radius * np.cos(angle), outer + 0.032 * side, radius * (1 + 0.38 * np.sin(angle))]
            b.rod(at, np.add(at, [0, 0.004 * side, 0]), 0.11 * radius, p.rubber, (0.6,) * 3, sides=6)


def _lights(b: Builder, p: Palette, front: float, rear: float, width: float, low: float, high: float) -> None:
    """Headlights, tail lights, number plates and a grille."""
    for side in (-1, 1):
        y = side * (width / 2 - 0.22)
        b.box((front - 0.02, y, low), (0.1, 0.3, 0.13), p.coat, (1.25, 1.25, 1.2))
        b.box((rear + 0.02, y + 0.06 * side, high), (0.08, 0.2, 0.2), p.coat, (0.8, 0.06, 0.05))
    b.box((front - 0.01, 0, low - 0.04), (0.05, width - 1.05, 0.14), p.rubber, (0.8,) * 3)
    for x, turn in ((front + 0.012, 1), (rear - 0.012, -1)):
        z = low - 0.22 if turn > 0 else low - 0.1
        b.box((x, 0, z), (0.02, 0.5, 0.11), p.paint, (1, 1, 0.9))
        b.sheet((x + 0.012 * turn, -0.24 * turn, z - 0.05), (0, 0.48 * turn, 0), (0, 0, 0.1), p.page, (1, 1, 0.9),
                whole=True)


def _van(b: Builder, p: Palette) -> None:
    """One volume with a short nose; the load bay without windows, or all round."""
    rng = b.rng
    length, width, height = rng.uniform(4.8, 5.9), rng.uniform(1.9, 2.05), rng.uniform(1.95, 2.5)
    front, rear, color, clear = length / 2, -length / 2, _color(rng), 0.25
    profile = [(rear, clear), (rear, height - 0.15), (rear + 0.15, height), (front - 1.55, height),
               (front - 0.85, 1.15), (front - 0.1, 0.98), (front, 0.75), (front, clear)]
    b.prism(profile, width, p.coat, color, bend=0.2, top_width=width - 0.16)
    slope = np.arctan2(0.7, height - 1.15)
    low, high = np.array([front - 0.86, 0, 1.2]), np.array([front - 1.5, 0, height - 0.12])
    off = 0.03 * np.array([np.cos(slope), 0, np.sin(slope)])
    wide = np.array([0, width - 0.3, 0])
    b.sheet(low + off - wide / 2, wide, high - low, p.glass, (0.6, 0.65, 0.7))
    windows = [(front - 2.35, 0.85)]
    if rng.random() < 0.4:
        windows += [(x, 1.0) for x in np.arange(front - 3.5, rear + 0.4, -1.15)]
    for x, long in windows:
        b.box((x, 0, 1.45), (long, width - 0.03, 0.5), p.glass, (0.6, 0.65, 0.7))
    b.box((rear, 0, 1.5), (0.03, width - 0.5, 0.5), p.glass, (0.6, 0.65, 0.7))
    for x in (front - 0.95, rear + 1.05):
        _axle(b, p, x, width, 0.35)
    _lights(b, p, front, rear, width, 0.78, 1.0)
    for side in (-1, 1):
        b.box((front - 1.5, side * (width / 2 + 0.1), 1.35), (0.12, 0.2, 0.3), p.rubber, (1, 1, 1))
        if rng.random() < 0.5:
            b.sheet((rear + 0.5 if side < 0 else rear + 2.3, side * (width / 2 + 0.012), 0.75), (-1.8 * side, 0, 0),
                    (0, 0, 0.55), p.poster, whole=True)


def _truck(b: Builder, p: Palette) -> None:
    """A cab with a box or a flat bed with crates behind."""
    rng = b.rng
    length, width, height = rng.uniform(6.2, 7.5), rng.uniform(2.0, 2.2), rng.uniform(2.7, 3.2)
    front, rear, color = length / 2, -length / 2, _color(rng)
    b.box((0, 0, 0.62), (length - 0.3, 0.9, 0.22), p.rubber, (1.2,) * 3)
    b.prism([(front - 1.9, 0.45), (front - 1.9, 2.3), (front - 1.75, 2.4), (front - 0.6, 2.4), (front - 0.1, 1.35),
             (front, 1.2), (front, 0.45)], width - 0.1, p.coat, color, bend=0.2, top_width=width - 0.25)
    low, high = np.array([front - 0.09, 0, 1.4]), np.array([front - 0.54, 0, 2.3])
    b.sheet(low - [0, width / 2 - 0.2, 0] + [0.03, 0, 0.02], (0, width - 0.4, 0), high - low, p.glass, (0.6, 0.65, 0.7))
    b.box((front - 1.15, 0, 1.75), (0.75, width - 0.15, 0.6), p.glass, (0.6, 0.65, 0.7))
    bay, middle = length - 2.1, rear + (length - 2.1) / 2
    if rng.random() < 0.65:
        b.box((middle, 0, (height + 0.8) / 2), (bay, width, height - 0.8), p.paint, rng.uniform(0.6, 1.05, 3))
        for side in (-1, 1):
            b.sheet((middle - side * -bay * 0.35, side * (width / 2 + 0.012), 1.2), (-side * bay * 0.7, 0, 0),
                    (0, 0, height - 1.7), p.poster, whole=True)
    else:
        b.box((middle, 0, 0.85), (bay, width, 0.15), p.wood, rng.uniform(0.5, 1.0, 3))
        for side in (-1, 1):
            b.box((middle, side * width / 2, 1.15), (bay, 0.05, 0.5), p.metal, color)
        for x in np.arange(rear + 0.6, rear + bay - 0.5, 1.05):
            size = rng.uniform(0.5, 0.95)
            b.box((x, rng.uniform(-0.4, 0.4), 0.93 + size / 2), (size,) * 3, int(rng.choice([p.wood, p.dark, p.page])))
    for x in (front - 1.05, rear + 1.0):
        _axle(b, p, x, width, 0.42)
    _lights(b, p, front, rear, width - 0.1, 0.8, 0.75)
    for side in (-1, 1):
        mirror = side * (width / 2 + 0.02)
        b.rod((front - 0.5, mirror - 0.12 * side, 1.9), (front - 0.4, mirror, 1.95), 0.02, p.rubber)
        b.box((front - 0.4, mirror, 1.75), (0.06, 0.16, 0.4), p.rubber, (1, 1, 1))
