"""Pictures and true depth of a sample world, by ray casting."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from chopgrad_ns.data.open3d_import import import_open3d
from chopgrad_ns.sim.world import World
from chopgrad_ns.splat.cameras import Cameras

SUBPIXELS = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]], np.float32)
"""Where in a pixel colour is sampled; depth is that of its centre."""
SHININESS = 40
"""Exponent of highlights."""


class Raycaster:
    """A world made ready for casting rays at it; keep one for many frames."""

    def __init__(self, world: World):
        self.world = world
        self._open3d = import_open3d()
        self._scene = self._open3d.t.geometry.RaycastingScene()
        corners = world.mesh.corners.reshape(-1, 3)
        faces = np.arange(len(corners), dtype=np.uint32).reshape(-1, 3)
        self._scene.add_triangles(self._open3d.core.Tensor(np.ascontiguousarray(corners)),
                                  self._open3d.core.Tensor(faces))

    def frame(self, camera: Cameras) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
        """Colour in 0…1 and z depth in metres, 0 where there is only sky, of the first camera."""
        pose = camera.world_from_camera[0].numpy().astype(np.float32)
        height, width = camera.height, camera.width
        picture = np.zeros((height * width, 3), np.float32)
        for corner, offset in enumerate(SUBPIXELS):
            picture += self._colors(pose, self._directions(camera, pose, offset), float(camera.K[0, 0, 0]),
                                    corner) / len(SUBPIXELS)
        middle = self._directions(camera, pose, np.array([0.5, 0.5], np.float32))
        depth = self.cast(pose[:3, 3], middle)["t_hit"].numpy()
        depth = np.where(np.isfinite(depth), depth, 0)
        return picture.reshape(height, width, 3), depth.reshape(height, width)

    @staticmethod
    def _directions(camera: Cameras, pose: np.ndarray, offset: np.ndarray) -> Float[np.ndarray, "n 3"]:
        """In the world, of length 1 along the optical axis, so that a ray's parameter is the depth."""
        K = camera.K[0].numpy()
        v, u = np.meshgrid(np.arange(camera.height, dtype=np.float32) + offset[1],
                           np.arange(camera.width, dtype=np.float32) + offset[0], indexing="ij")
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
        return (rays.reshape(-1, 3) @ pose[:3, :3].T).astype(np.float32)

    def cast(self, origin: Float[np.ndarray, "3"], directions: Float[np.ndarray, "n 3"]) -> dict:
        """open3d's answer for rays from one place; `t_hit` counts lengths of `directions`, inf in the sky."""
        rays = np.concatenate([np.broadcast_to(origin, directions.shape), directions], axis=1)
        return self._scene.cast_rays(self._open3d.core.Tensor(np.ascontiguousarray(rays, np.float32)))

    def _colors(self, pose: np.ndarray, directions: np.ndarray, focal: float,
                corner: int) -> Float[np.ndarray, "n 3"]:
        hits = self.cast(pose[:3, 3], directions)
        distance = hits["t_hit"].numpy()
        seen = np.isfinite(distance)
        colors = np.empty_like(directions)
        colors[~seen] = self._sky(directions[~seen])
        directions, distance = directions[seen], distance[seen]
        points = pose[:3, 3] + distance[:, None] * directions
        colors[seen] = self._shade(points, directions, distance / focal, hits["primitive_ids"].numpy()[seen],
                                   hits["primitive_uvs"].numpy()[seen], corner)
        return np.sqrt(np.clip(colors, 0, 1))

    def _sky(self, directions: np.ndarray) -> Float[np.ndarray, "n 3"]:
        up = _unit(directions)[:, 2]
        low, high = self.world.sky.astype(np.float32)
        return low + (high - low) * np.clip(up * 1.5, 0, 1)[:, None]

    def _shade(self, points, directions, pixel, faces: Int[np.ndarray, "n"], at,
               corner: int) -> Float[np.ndarray, "n 3"]:
        """Linear RGB of surface points seen along `directions`; `pixel` is a pixel's size there in metres."""
        mesh, light, atlas = self.world.mesh, self.world.light, self.world.atlas
        weights = np.stack([1 - at[:, 0] - at[:, 1], at[:, 0], at[:, 1]], axis=1)
        uv = np.einsum("nk,nkc->nc", weights, mesh.uv[faces])
        normals = _unit(np.einsum("nk,nkc->nc", weights, mesh.normals[faces]))
        toward_eye = _unit(-directions)
        facing = _dot(normals, toward_eye)
        normals *= np.where(facing < 0, np.float32(-1), np.float32(1))[:, None]
        # Half a pixel, wider on slanting surfaces: what one subpixel covers.
        footprint = 0.5 * pixel / np.sqrt(np.clip(np.abs(facing), 0.1, 1))
        material = mesh.material[faces]
        surface = atlas.look_up(material, uv, footprint) * mesh.tint[faces]
        to_light = self._light_place(corner) - points
        distance = np.sqrt(_dot(to_light, to_light))
        to_light /= distance[:, None]
        strength = self._lit(points + 2e-3 * normals, to_light * distance[:, None])
        strength /= 1 + (distance / light.reach) ** 2
        diffuse = np.clip(_dot(normals, to_light), 0, None)
        mirrored = np.clip(_dot(normals, _unit(to_light + toward_eye)), 0, 1) * (diffuse > 0)
        highlight = 0.5 * atlas.gloss[material] * mirrored**SHININESS
        ambient = (0.75 + 0.25 * normals[:, 2:]) * light.ambient.astype(np.float32)
        lamp = light.strength.astype(np.float32)
        matt = surface**2 * (ambient + (strength * diffuse)[:, None] * lamp)
        return matt + (strength * highlight)[:, None] * lamp

    def _light_place(self, corner: int) -> Float[np.ndarray, "3"]:
        """Each subpixel looks at another place of the lamp, which softens the edges of shadows."""
        aside = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])[corner]
        return (self.world.light.position + self.world.light.size * aside).astype(np.float32)

    def _lit(self, points: Float[np.ndarray, "n 3"],
             to_lamp: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """1 where nothing stands between a point and the lamp, else 0."""
        rays = np.concatenate([points, to_lamp], axis=1)
        hidden = self._scene.test_occlusions(self._open3d.core.Tensor(rays), tnear=0.0, tfar=0.999)
        return 1.0 - hidden.numpy().astype(np.float32)


def _dot(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    return np.einsum("nc,nc->n", a, b)


def _unit(a: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    return a / np.sqrt(_dot(a, a))[:, None]


def render_world(world: World, cameras: Cameras) -> tuple[Float[Tensor, "t 3 h w"], Float[Tensor, "t 1 h w"]]:
    """Photos in 0…1 and true z depth in metres, 0 where there is only sky; the same every time."""
    caster = Raycaster(world)
    stops = world.exposure_change * np.random.default_rng(world.seed).normal(size=len(cameras))
    frames, depths = [], []
    for index in range(len(cameras)):
        picture, depth = caster.frame(cameras[index])
        # Pictures are square roots of light, so a stop is a factor of √2.
        exposed = np.clip(picture * np.float32(2 ** (stops[index] / 2)), 0, 1)
        frames.append(torch.from_numpy(exposed).permute(2, 0, 1))
        depths.append(torch.from_numpy(depth)[None])
    return torch.stack(frames).contiguous(), torch.stack(depths).float()
