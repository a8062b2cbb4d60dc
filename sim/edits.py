"""Streets as they never were: with a vehicle more, with one less, and with one on another way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from chopgrad_ns.sim.cars import Vehicle, build_vehicle
from chopgrad_ns.sim.road import FRAME_RATE, Track
from chopgrad_ns.sim.shapes import Builder
from chopgrad_ns.sim.world import World

Change = Literal["inserted", "removed", "moved"]
CHANGES: tuple[Change, ...] = ("inserted", "removed", "moved")
ROOM = 1.0
"""Metres between two vehicles in a row, at least."""
OURS = (5.0, 1.9, 1.4)
"""Length and width of the vehicle that records, and how far its middle is ahead of its origin; metres."""


@dataclass(frozen=True)
class Edit:
    """A changed street, the vehicle that is changed, and how in words."""

    change: Change
    world: World
    actor: str
    words: str


def make_edits(world: World, frames: int, pixels: dict[str, int]) -> list[Edit]:
    """One of each kind.

    A vehicle drives ahead of us, where there is room; the moving one that is seen most goes another way; the other that
    is seen most is gone. `pixels` tells how much is seen of each vehicle, by name.
    """
    by_size = sorted(world.vehicles, key=lambda vehicle: -pixels.get(vehicle.name, 0))
    moved = next(vehicle for vehicle in by_size if vehicle.track.speed)
    removed = next(vehicle for vehicle in by_size if vehicle is not moved)
    added = _free(world, frames, _additions(world))
    others = [vehicle for vehicle in world.vehicles if vehicle is not removed]
    elsewhere = _free(replace(world, vehicles=[vehicle for vehicle in world.vehicles if vehicle is not moved]), frames,
                      (replace(moved, track=track) for track in _other_ways(moved.track)))
    return [
        Edit("inserted", replace(world, vehicles=[*world.vehicles, added], models={**world.models, added.name: added.mesh}),
             added.name, f"{added.name} drives {added.track.start:.0f} m ahead at first"),
        Edit("removed", replace(world, vehicles=others), removed.name, f"{removed.name} is not there"),
        Edit("moved", replace(world, vehicles=[elsewhere if vehicle is moved else vehicle for vehicle in world.vehicles]),
             moved.name, f"{moved.name} is {elsewhere.track.start - moved.track.start:+.1f} m along the street, "
             f"{elsewhere.track.aside - moved.track.aside:+.1f} m to the left"),
    ]


def _additions(world: World) -> Iterator[Vehicle]:
    """A new vehicle in many places, the best first: right ahead, then beside that, then farther ahead."""
    rng = np.random.default_rng([world.seed, 21])
    kind = str(rng.choice(["car", "van"], p=[0.7, 0.3]))
    mesh, size = build_vehicle(Builder(rng, world.atlas.period), world.palette, kind)
    walk, left = world.walk, world.road.lane / 2
    near = sorted(np.arange(7.0, 14.0, 0.5), key=lambda start: abs(start - 10))
    for aside, starts in ((walk.aside, near), (left, near), (walk.aside, np.arange(14.0, 60.0, 0.5))):
        for start in starts:
            yield Vehicle(f"{kind}-inserted", kind, size, mesh, Track(float(start), float(aside), 1.02 * walk.speed))


def _other_ways(track: Track) -> Iterator[Track]:
    toward = np.sign(track.speed)
    for along in (5.0, 7.0, -5.0, 9.0, -7.0, 12.0, 3.0, -3.0, 16.0):
        for aside in (0.6, 0.3, 0.0):
            # Toward the middle of the street, where there is more room than beside parked vehicles.
            yield replace(track, start=float(track.start + toward * along),
                          aside=float(track.aside - np.sign(track.aside) * aside))


def _free(world: World, frames: int, candidates: Iterator[Vehicle]) -> Vehicle:
    """The first that never touches another vehicle of the world, nor the one that records; or else the last."""
    for candidate in candidates:
        if all(_apart(candidate, other, frames) for other in world.vehicles) and _ahead(world, candidate, frames):
            break
    return candidate


def _apart(one: Vehicle, other: Vehicle, frames: int) -> bool:
    times = np.arange(-1, frames + 1) / FRAME_RATE
    long, wide = (one.size + other.size)[:2] / 2
    along = np.abs(one.track.along_at(times) - other.track.along_at(times))
    return bool((along > long + ROOM).all()) or abs(one.track.aside - other.track.aside) > wide + 0.2


def _ahead(world: World, vehicle: Vehicle, frames: int) -> bool:
    times, walk = np.arange(-1, frames + 1) / FRAME_RATE, world.walk
    along = np.abs(vehicle.track.along_at(times) - walk.speed * times - OURS[2])
    beside = abs(vehicle.track.aside - walk.aside) > (vehicle.size[1] + OURS[1]) / 2 + 0.3
    return beside or bool((along > (vehicle.size[0] + OURS[0]) / 2 + ROOM).all())
