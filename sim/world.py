"""Five kinds of sample world; every seed has another layout, other materials, light, exposure and way through it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.open3d_import import import_open3d
from chopgrad_ns.sim.cars import Vehicle
from chopgrad_ns.sim.closeup import build_closeup
from chopgrad_ns.sim.courtyard import build_courtyard
from chopgrad_ns.sim.indoors import build_objects, build_room
from chopgrad_ns.sim.light import Exposure, Lighting, draw_exposure
from chopgrad_ns.sim.palette import Palette, make_palette
from chopgrad_ns.sim.road import FRAME_RATE, Road
from chopgrad_ns.sim.shapes import Builder, Mesh, casting_scene, unit
from chopgrad_ns.sim.street import build_street
from chopgrad_ns.sim.textures import Atlas
from chopgrad_ns.sim.walks import Walk

Kind = Literal["room", "courtyard", "objects", "street", "closeup"]
KINDS: tuple[Kind, ...] = ("room", "courtyard", "objects", "street", "closeup")
RECIPE = 3
"""Raised whenever worlds come out differently."""
TRIES = 12
"""Ways through a world that are tried before the one with most room is taken."""
FOCAL = 0.85
"""Focal length in picture widths: a field of view of 61°."""


@dataclass
class World:
    """Geometry, surfaces, light, and the way that its pictures are taken on.

    `mesh` holds all but the vehicles; `models` holds a mesh for each actor's name, in the actor's frame, and may be
    given more: `cars.build_vehicle(Builder(rng, world.atlas.period), world.palette, kind)` makes some.
    `lit_by` says in words what the light is. `focal` is the camera's focal length in picture widths.
    """

    kind: Kind
    seed: int
    mesh: Mesh
    atlas: Atlas
    palette: Palette
    lighting: Lighting
    lit_by: str
    walk: Walk
    exposure: Exposure = Exposure()
    road: Road | None = None
    vehicles: list[Vehicle] = field(default_factory=list)
    models: dict[str, Mesh] = field(default_factory=dict)
    focal: float = FOCAL

    def actors(self, frames: int) -> list[Actor]:
        """The world's own vehicles in `frames` frames, ten a second, first those that move; absent past the street's
        ends.
        """
        return [self._actor(vehicle, frames) for vehicle in self.vehicles]

    def _actor(self, vehicle: Vehicle, frames: int) -> Actor:
        poses, present = self.poses_at(vehicle, np.arange(frames) / FRAME_RATE)
        return Actor(vehicle.name, vehicle.kind, torch.from_numpy(vehicle.size).float(), torch.from_numpy(poses).float(),
                     torch.from_numpy(present))

    def poses_at(self, vehicle: Vehicle, times: Float[np.ndarray, "n"]
                 ) -> tuple[Float[np.ndarray, "n 4 4"], Bool[np.ndarray, "n"]]:
        """world_from_actor of a vehicle at any seconds, and whether it is on the street then."""
        along = vehicle.track.along_at(times)
        return (vehicle.track.poses_at(self.road, times, vehicle.size[2] / 2),
                (along > self.road.first) & (along < self.road.last))


def make_world(kind: Kind, seed: int, exposure_change: float | None = None) -> World:
    """Build a world; the same kind and seed give the same world. Raises ValueError for another kind.

    The seed draws how photos' exposure changes too (constant, drift or jumps, see `light.Exposure`); `exposure_change`,
    where given, is the standard deviation, in stops, of single photos instead, 0 for none.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, not one of {', '.join(KINDS)}")
    builder = Builder(np.random.default_rng([seed, KINDS.index(kind)]))
    palette, road, vehicles = make_palette(builder), None, []
    if kind == "street":
        lighting, lit_by, walk, vehicles = build_street(builder, palette)
        road, mesh = walk.road, builder.mesh()
    else:
        build = {"room": build_room, "courtyard": build_courtyard, "objects": build_objects, "closeup": build_closeup}[kind]
        lighting, lit_by, walks = build(builder, palette)
        mesh = builder.mesh()
        walk = _roomiest(walks, mesh, {"room": 0.3, "courtyard": 0.5, "objects": 0.2, "closeup": 0.12}[kind])
    focal = float(builder.rng.uniform(0.9, 1.4)) if kind == "closeup" else FOCAL
    exposure = exposure_of(kind, seed, exposure_change)
    return World(kind, seed, mesh, Atlas(builder.materials), palette, lighting, lit_by, walk, exposure, road, vehicles,
                 {vehicle.name: vehicle.mesh for vehicle in vehicles}, focal)


def exposure_of(kind: Kind, seed: int, exposure_change: float | None = None) -> Exposure:
    """How `make_world` lets photos' exposure change."""
    return draw_exposure(np.random.default_rng([seed, KINDS.index(kind), 1]), exposure_change)


def _roomiest(walks: Iterable[Walk], mesh: Mesh, wanted: float) -> Walk:
    """The first of the ways that keeps `wanted` metres from everything, and three times that where it looks; or the
    one that keeps most.
    """
    tensor, scene = import_open3d().core.Tensor, casting_scene(mesh.corners, threads=1)
    best, room = None, -1.0
    for walk in islice(walks, TRIES):
        eyes, gaze = walk.at(60)
        rays = np.concatenate([eyes, unit(gaze)], axis=1).astype(np.float32)
        kept = float(scene.compute_distance(tensor(rays[:, :3].copy()), 1).numpy().min())
        ahead = float(scene.cast_rays(tensor(rays), 1)["t_hit"].numpy().min())
        kept = min(kept, ahead / 3)
        if kept >= wanted:
            return walk
        if kept > room:
            best, room = walk, kept
    return best
