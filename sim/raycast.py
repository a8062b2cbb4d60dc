"""Pictures, true depth and actor ids of a sample world, by ray casting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.open3d_import import import_open3d
from chopgrad_ns.sim.light import Light
from chopgrad_ns.sim.shapes import Mesh, casting_scene, unit
from chopgrad_ns.sim.world import World
from chopgrad_ns.splat.cameras import Cameras

SUBPIXELS = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]], np.float32)
"""Where in a pixel colour is sampled; depth and ids are those of its centre."""
ASIDE = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
"""Each subpixel looks at another place of a lamp, and for cover in another direction: soft shadows."""
SHININESS = 40
"""Exponent of highlights."""
COVERED = 0.45
"""Share of the ambient light that reaches what is covered."""
FAINTEST = 0.02
"""Reflections of a smaller share of the light are left out."""
OFF = np.float32(2e-3)
"""Metres off a surface at which rays from it begin."""


class Shot(NamedTuple):
    """One frame: `picture` in 0…1, z `depth` in metres (0: sky) and `actor_ids`, k + 1 where that is actor k."""

    picture: Float[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]
    actor_ids: UInt8[np.ndarray, "h w"]


class Rendering(NamedTuple):
    """`frames` in 0…1; z `depth` in metres, 0 where there is only sky, of the surface hit first (not of what it
    mirrors); `actor_ids`, k + 1 where that is actor k, 0 elsewhere.
    """

    frames: Float[Tensor, "t 3 h w"]
    depth: Float[Tensor, "t 1 h w"]
    actor_ids: UInt8[Tensor, "t 1 h w"]


class Raycaster:
    """A world and some actors made ready for casting rays at them; keep one for many frames and cameras.

    What stands still is one scene of triangles; moving actors are another, made anew for each frame. Every ray, those
    for shadows and reflections included, meets both.
    """

    def __init__(self, world: World, actors: Sequence[Actor] = ()):
        """Actors are drawn as `world.models[actor.name]`. Raises ValueError for an unknown name or more than 255."""
        unknown = [actor.name for actor in actors if actor.name not in world.models]
        if unknown or len(actors) > 255:
            raise ValueError(f"{len(actors)} actors, no models of {unknown}; at most 255 with models are possible")
        self.world, self.actors = world, list(actors)
        self._moving = [k for k, actor in enumerate(actors) if _changes(actor)]
        self._build({k: self._posed_mesh(k, 0) for k in range(len(actors)) if k not in self._moving},
                    {k: world.models[actors[k].name] for k in self._moving})
        self._moving_scene, self._moving_faces, self._posed = None, np.zeros(0, np.int64), None

    def _build(self, still: dict[int, Mesh], moving: dict[int, Mesh]) -> None:
        """What stands still as one scene, and all triangles in one row: the world's, those of `still` actors, which are
        in the world's frame, and those of `moving` ones.
        """
        self._open3d = import_open3d()
        self._threads = torch.get_num_threads()
        meshes = [self.world.mesh, *still.values()]
        self._scene = casting_scene(Mesh.cat(meshes).corners, self._threads)
        self._still_faces = sum(map(len, meshes))
        meshes += moving.values()
        self._mesh = Mesh.cat(meshes)
        self._actor = np.concatenate([np.full(len(mesh), k, np.uint8) for mesh, k in
                                      zip(meshes, [0, *(k + 1 for k in [*still, *moving])])])

    def frame(self, camera: Cameras, index: int = 0, gain: Float[np.ndarray, "3"] | float = 1.0) -> Shot:
        """What the first camera sees when the actors are where they are in frame `index`; `gain` is on linear RGB."""
        self.pose(index)
        return self.look(camera, gain)

    def look(self, camera: Cameras, gain: Float[np.ndarray, "3"] | float = 1.0) -> Shot:
        """What the first camera sees with the actors as they stand."""
        pose = camera.world_from_camera[0].numpy().astype(np.float32)
        height, width = camera.height, camera.width
        origins = np.broadcast_to(pose[:3, 3], (height * width, 3))
        when = np.zeros(height * width, np.uint16)
        return self.shoot(lambda offset: (origins, self._directions(camera, pose, offset)), when, (height, width),
                          float(camera.K[0, 0, 0]), gain)

    def shoot(self, rays: Callable[[Float[np.ndarray, "2"]], tuple[np.ndarray, np.ndarray]], when: Int[np.ndarray, "n"],
              size: tuple[int, int], focal: float, gain: Float[np.ndarray, "3"] | float) -> Shot:
        """A picture of `size` (height, width). `rays` gives origins and directions [N, 3] of its pixels, row after row, for
        a place in them, (0.5, 0.5) their middle; `when` [N] is handed on to all that asks where moving actors are, and
        `focal` is in pixels.
        """
        picture = np.zeros((len(when), 3), np.float32)
        for corner, offset in enumerate(SUBPIXELS):
            light = self._radiance(*rays(offset), when, 0, focal, corner)
            picture += np.sqrt(np.clip(light * np.float32(gain), 0, 1)) / len(SUBPIXELS)
        middle = self._cast(*rays(np.array([0.5, 0.5], np.float32)), when)
        depth = middle["t_hit"].numpy()
        seen = np.isfinite(depth)
        ids = np.where(seen, self._actor[np.where(seen, middle["face"].numpy(), 0)], 0).astype(np.uint8)
        return Shot(picture.reshape(*size, 3), np.where(seen, depth, 0).reshape(size), ids.reshape(size))

    def pose(self, index: int) -> None:
        """Put the moving actors where they are in frame `index`."""
        if not self._moving or self._posed == index:
            return
        self._posed, start, corners, faces = index, self._still_faces, [], []
        for k in self._moving:
            actor, model = self.actors[k], self.world.models[self.actors[k].name]
            if actor.present[index]:
                posed = self._posed_mesh(k, index)
                self._mesh.normals[start:start + len(model)] = posed.normals
                corners.append(posed.corners)
                faces.append(np.arange(start, start + len(model)))
            start += len(model)
        self._moving_scene = casting_scene(np.concatenate(corners), self._threads) if corners else None
        self._moving_faces = np.concatenate(faces) if faces else np.zeros(0, np.int64)

    def _posed_mesh(self, k: int, index: int) -> Mesh:
        actor = self.actors[k]
        return self.world.models[actor.name].posed(actor.world_from_actor[index].numpy())

    def cast(self, origins: Float[np.ndarray, "*n 3"], directions: Float[np.ndarray, "n 3"],
             when: Int[np.ndarray, "n"] | None = None) -> dict[str, Tensor]:
        """Where rays, from one place or each from its own, go: `t_hit` [N] in lengths of `directions`, inf in the sky;
        `face` [N] and `at` [N, 2], the triangle hit and where on it. `when` as in `shoot`.
        """
        when = np.zeros(len(directions), np.uint16) if when is None else when
        return self._cast(np.broadcast_to(origins, directions.shape), directions, when)

    @staticmethod
    def _directions(camera: Cameras, pose: np.ndarray, offset: np.ndarray) -> Float[np.ndarray, "n 3"]:
        """In the world, of length 1 along the optical axis, so that a ray's parameter is the depth."""
        K = camera.K[0].numpy()
        v, u = np.meshgrid(np.arange(camera.height, dtype=np.float32) + offset[1],
                           np.arange(camera.width, dtype=np.float32) + offset[0], indexing="ij")
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
        return (rays.reshape(-1, 3) @ pose[:3, :3].T).astype(np.float32)

    def _cast(self, origins: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "n 3"],
              when: Int[np.ndarray, "n"]) -> dict[str, Tensor]:
        rays = np.concatenate([origins, directions], axis=1, dtype=np.float32)
        distance, face, at = self._hits(self._scene, rays)
        face = face.astype(np.int64)
        for some, others, faces, places in self._moving_hits(rays, when):
            nearer = others < distance[some]
            rows = some[nearer]
            distance[rows], face[rows], at[rows] = others[nearer], faces[nearer], places[nearer]
        return {"t_hit": torch.from_numpy(distance), "face": torch.from_numpy(face), "at": torch.from_numpy(at)}

    def _hits(self, scene, rays: Float[np.ndarray, "n 6"]) -> list[np.ndarray]:
        hits = scene.cast_rays(self._open3d.core.Tensor(rays), self._threads)
        return [hits[name].numpy() for name in ("t_hit", "primitive_ids", "primitive_uvs")]

    def _moving_hits(self, rays: Float[np.ndarray, "n 6"], when: Int[np.ndarray, "n"]) -> Iterator[tuple[np.ndarray, ...]]:
        """Rows of rays that meet moving actors, how far along, and the triangles met and where on them."""
        if self._moving_scene is not None:
            distance, face, at = self._hits(self._moving_scene, rays)
            some = np.flatnonzero(np.isfinite(distance))
            yield some, distance[some], self._moving_faces[face[some]], at[some]

    def _free(self, points: Float[np.ndarray, "n 3"], way: Float[np.ndarray, "n 3"],
              when: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """1 where nothing stands on the way, which ends at its length, else 0."""
        rays = np.concatenate([points, way], axis=1, dtype=np.float32)
        hidden = self._occluded(self._scene, rays)
        for some, covered in self._moving_shades(rays, when):
            hidden[some] |= covered
        return 1.0 - hidden.astype(np.float32)

    def _occluded(self, scene, rays: Float[np.ndarray, "n 6"]) -> Bool[np.ndarray, "n"]:
        return scene.test_occlusions(self._open3d.core.Tensor(rays), 0.0, 0.999, self._threads).numpy()

    def _moving_shades(self, rays: Float[np.ndarray, "n 6"], when: Int[np.ndarray, "n"]) -> Iterator[tuple[np.ndarray, ...]]:
        """Rows of rays on whose way moving actors may stand, and whether they do."""
        if self._moving_scene is not None:
            yield np.arange(len(rays)), self._occluded(self._moving_scene, rays)

    def _turn(self, normals: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "n"], when: Int[np.ndarray, "n"]) -> None:
        """Normals of moving actors as they stand then, in place; here those of the mesh are kept up to date."""

    def _radiance(self, origins, directions, when, travelled, focal: float, corner: int,
                  mirrored: bool = False) -> Float[np.ndarray, "n 3"]:
        """Linear RGB that comes back along rays; they have come `travelled` metres already, and are `mirrored` once."""
        hits = self._cast(origins, directions, when)
        distance = hits["t_hit"].numpy()
        seen = np.isfinite(distance)
        colors = np.empty(directions.shape, np.float32)
        colors[~seen] = self._sky(directions[~seen])
        directions, distance, when = directions[seen], distance[seen], when[seen]
        points = origins[seen] + distance[:, None] * directions
        travelled = distance + (travelled[seen] if mirrored else 0)
        colors[seen] = self._shade(points, directions, when, travelled, hits["face"].numpy()[seen],
                                   hits["at"].numpy()[seen], focal, corner, mirrored)
        return colors

    def _sky(self, directions: np.ndarray) -> Float[np.ndarray, "n 3"]:
        directions, sky = unit(directions), self.world.lighting.sky
        up = directions[:, 2]
        clear = sky.horizon + (sky.zenith - sky.horizon) * np.clip(up * 1.5, 0, 1)[:, None]
        plane = directions[:, :2] / np.maximum(up, 0.08)[:, None]
        cloudy = self.world.atlas.look_up(np.full(len(up), sky.clouds), plane, 0.02 / np.maximum(up, 0.08))
        cloudy *= np.clip(up * 6, 0, 1)[:, None]
        return (clear + (sky.cloud - clear) * cloudy).astype(np.float32)

    def surface(self, directions, when, travelled, faces: Int[np.ndarray, "n"], at, focal: float
                 ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Albedo [N, 3] of surface points that are seen along `directions` after `travelled` metres, with `faces` and `at`
        of `cast`; their normals toward the eye, and how far they face it, 0…1.
        """
        mesh, atlas = self._mesh, self.world.atlas
        weights = np.stack([1 - at[:, 0] - at[:, 1], at[:, 0], at[:, 1]], axis=1)
        uv = np.einsum("nk,nkc->nc", weights, mesh.uv[faces])
        normals = unit(np.einsum("nk,nkc->nc", weights, mesh.normals[faces]))
        self._turn(normals, faces, when)
        facing = _dot(normals, unit(-directions))
        normals *= np.where(facing < 0, np.float32(-1), np.float32(1))[:, None]
        facing = np.abs(facing)
        # Half a pixel, wider on slanting surfaces: what one subpixel covers.
        footprint = 0.5 * travelled / focal / np.sqrt(np.clip(facing, 0.1, 1))
        return (atlas.look_up(mesh.material[faces], uv, footprint) * mesh.tint[faces]) ** 2, normals, facing

    def _shade(self, points, directions, when, travelled, faces: Int[np.ndarray, "n"], at, focal: float, corner: int,
               mirrored: bool) -> Float[np.ndarray, "n 3"]:
        """Linear RGB of surface points seen along `directions`."""
        atlas, lighting = self.world.atlas, self.world.lighting
        surface, normals, facing = self.surface(directions, when, travelled, faces, at, focal)
        toward_eye, material = unit(-directions), self._mesh.material[faces]
        start = points + OFF * normals
        cover = np.full(len(points), 0.8, np.float32) if mirrored else self._cover(start, normals, when, corner)
        light = (cover * (0.75 + 0.25 * normals[:, 2]))[:, None] * lighting.ambient.astype(np.float32)
        highlight = np.zeros_like(light)
        for lamp in lighting.lamps:
            diffuse, shine = self._lamp(lamp, start, normals, toward_eye, when, corner)
            light += diffuse[:, None] * lamp.strength.astype(np.float32)
            highlight += shine[:, None] * lamp.strength.astype(np.float32)
        colors = surface * light + 0.5 * atlas.gloss[material][:, None] * highlight
        if not mirrored:
            self._reflect(colors, start, directions, normals, facing, when, travelled, atlas.mirror[material], focal,
                          corner)
        return colors

    def _reflect(self, colors, start, directions, normals, facing, when, travelled, mirror, focal: float,
                 corner: int) -> None:
        """Mix into `colors` what shiny surfaces mirror: a share by Schlick's approximation of Fresnel's law (Schlick,
        An Inexpensive BRDF Model for Physically-based Rendering, 1994).
        """
        share = np.where(mirror > 0, mirror + (1 - mirror) * (1 - facing) ** 5, 0).astype(np.float32)
        some = np.flatnonzero(share > FAINTEST)
        if not len(some):
            return
        way, normals = unit(directions[some]), normals[some]
        way = way - 2 * _dot(way, normals)[:, None] * normals
        seen = self._radiance(start[some], way, when[some], travelled[some], focal, corner, mirrored=True)
        colors[some] += share[some, None] * (seen - colors[some])

    def _lamp(self, lamp: Light, start, normals, toward_eye, when, corner: int) -> tuple[np.ndarray, np.ndarray]:
        """Share of a lamp's light that points scatter, and that they throw back as a highlight."""
        way = (lamp.position + lamp.size * ASIDE[corner]).astype(np.float32) - start
        distance = np.sqrt(_dot(way, way))
        to_lamp = way / distance[:, None]
        diffuse = np.clip(_dot(normals, to_lamp), 0, None)
        lit = np.flatnonzero(diffuse > 0)
        strength = np.zeros_like(diffuse)
        strength[lit] = self._free(start[lit], way[lit], when[lit]) / (1 + (distance[lit] / lamp.reach) ** 2)
        shine = np.clip(_dot(normals, unit(to_lamp + toward_eye)), 0, 1) ** SHININESS
        return strength * diffuse, strength * shine

    def _cover(self, start, normals, when, corner: int) -> Float[np.ndarray, "n"]:
        """Less than 1 under and beside things: one ray a subpixel, always in the same direction of the world, so that
        frames agree.
        """
        way = np.float32(0.6) * ASIDE[corner].astype(np.float32) + np.array([0, 0, 0.8], np.float32)
        toward = np.minimum(normals @ way, 0)
        way = (way - 2 * toward[:, None] * normals) * np.float32(self.world.lighting.shelter)
        return COVERED + (1 - COVERED) * self._free(start, way, when)


def _changes(actor: Actor) -> bool:
    return not bool(actor.present.all()) or bool((actor.world_from_actor != actor.world_from_actor[:1]).any())


def _dot(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    return np.einsum("nc,nc->n", a, b)


def render(world: World, cameras: Cameras, actors: Sequence[Actor],
           gains: Float[np.ndarray, "t 3"] | None = None) -> Rendering:
    """Photograph a world with any actors from any cameras; the same every time.

    Actors (of T frames each) are drawn as `world.models[actor.name]`: leave some out, add others or move them, and
    their shadows and reflections follow. `gains` are factors on linear RGB; none by default. Raises ValueError where
    an actor does not have as many frames as there are cameras.
    """
    wrong = [f"{actor.name}: {len(actor)}" for actor in actors if len(actor) != len(cameras)]
    if wrong:
        raise ValueError(f"{len(cameras)} cameras, but actors of other numbers of frames ({', '.join(wrong)})")
    caster = Raycaster(world, actors)
    gains = np.ones((len(cameras), 3)) if gains is None else gains
    shots = [caster.frame(cameras[index], index, gains[index]) for index in range(len(cameras))]
    pictures, depths, ids = (torch.from_numpy(np.stack(part)) for part in zip(*shots))
    return Rendering(pictures.permute(0, 3, 1, 2).contiguous(), depths[:, None].float(), ids[:, None])
