"""Ray casting in a street at any times: every ray meets the moving vehicles where they are when it is cast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from chopgrad_ns.sim.cars import Vehicle
from chopgrad_ns.sim.raycast import Raycaster
from chopgrad_ns.sim.shapes import casting_scene
from chopgrad_ns.sim.world import World


@dataclass
class _Mover:
    """A moving vehicle: its triangles in its own frame, into which rays are turned; and where it is at each instant."""

    vehicle: Vehicle
    scene: object
    first_face: int
    faces: int
    turns: Float[np.ndarray, "l 3 3"] | None = None
    places: Float[np.ndarray, "l 3"] | None = None
    there: Bool[np.ndarray, "l"] | None = None

    def near(self, rays: Float[np.ndarray, "n 6"], when: Int[np.ndarray, "n"]) -> Int[np.ndarray, "m"]:
        """Rows of rays that pass the ball in which it is at all instants: all that can meet it, and few others."""
        if not self.there.any():
            return np.zeros(0, np.int64)
        low, high = self.places.min(axis=0), self.places.max(axis=0)
        reach = np.linalg.norm(self.vehicle.size) / 2 + np.linalg.norm(high - low) / 2
        toward, way = (low + high) / 2 - rays[:, :3], rays[:, 3:]
        along, length = np.einsum("nc,nc->n", toward, way), np.einsum("nc,nc->n", way, way)
        past = np.maximum(along, 0) / length
        off = np.einsum("nc,nc->n", toward, toward) - (2 * along - past * length) * past
        rows = np.flatnonzero(off <= reach * reach * 1.001)
        return rows if self.there.all() else rows[self.there[when[rows]]]

    def local(self, rays: Float[np.ndarray, "m 6"], when: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m 6"]:
        """Rays in its frame."""
        if len(self.turns) == 1:
            return np.concatenate([(rays[:, :3] - self.places[0]) @ self.turns[0], rays[:, 3:] @ self.turns[0]], axis=1)
        turns = self.turns[when]
        return np.concatenate([np.einsum("nji,nj->ni", turns, rays[:, :3] - self.places[when]),
                               np.einsum("nji,nj->ni", turns, rays[:, 3:])], axis=1)


class DriveCaster(Raycaster):
    """A street whose vehicles follow their tracks, made ready for casting rays at them.

    `at` tells the instants at which rays are cast next; each ray belongs to one of them. Unlike a `Raycaster`'s frames,
    in which all stand still, no triangles are put anywhere: rays are turned into the moving vehicles' frames, so that
    rows of a rolling shutter and columns of a lidar are exact.
    """

    def __init__(self, world: World):
        """Raises ValueError for more than 255 vehicles."""
        if len(world.vehicles) > 255:
            raise ValueError(f"{len(world.vehicles)} vehicles; at most 255 are possible")
        self.world = world
        moving = {k: vehicle for k, vehicle in enumerate(world.vehicles) if vehicle.track.speed}
        self._build({k: vehicle.mesh.posed(world.poses_at(vehicle, np.zeros(1))[0][0])
                     for k, vehicle in enumerate(world.vehicles) if k not in moving},
                    {k: vehicle.mesh for k, vehicle in moving.items()})
        self._movers, first = [], self._still_faces
        for vehicle in moving.values():
            scene = casting_scene(vehicle.mesh.corners, self._threads)
            self._movers.append(_Mover(vehicle, scene, first, len(vehicle.mesh)))
            first += len(vehicle.mesh)

    def at(self, times: Float[np.ndarray, "l"]) -> None:
        """Put the vehicles where they are at some instants, seconds."""
        for mover in self._movers:
            poses, mover.there = self.world.poses_at(mover.vehicle, np.asarray(times, np.float64))
            mover.turns, mover.places = poses[:, :3, :3].astype(np.float32), poses[:, :3, 3].astype(np.float32)

    def _moving_hits(self, rays, when) -> Iterator[tuple[np.ndarray, ...]]:
        for mover in self._movers:
            rows = mover.near(rays, when)
            if len(rows):
                distance, face, at = self._hits(mover.scene, mover.local(rays[rows], when[rows]))
                some = np.isfinite(distance)
                yield rows[some], distance[some], face[some].astype(np.int64) + mover.first_face, at[some]

    def _moving_shades(self, rays, when) -> Iterator[tuple[np.ndarray, ...]]:
        for mover in self._movers:
            rows = mover.near(rays, when)
            if len(rows):
                yield rows, self._occluded(mover.scene, mover.local(rays[rows], when[rows]))

    def _turn(self, normals, faces, when) -> None:
        for mover in self._movers:
            rows = np.flatnonzero((faces >= mover.first_face) & (faces < mover.first_face + mover.faces))
            turns = np.broadcast_to(mover.turns[0], (len(rows), 3, 3)) if len(mover.turns) == 1 else mover.turns[when[rows]]
            normals[rows] = np.einsum("nij,nj->ni", turns, normals[rows])
