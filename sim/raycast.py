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
        self._scene.add_triangles(self._open3d.core.Tensor(np.ascontiguousarray(corners)), self._open3d.core.Tensor(faces))

    def frame(self, camera: Cameras) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
        """Colour in 0…1 and z depth in metres, 0 where there is only sky, of the first camera."""
        pose = camera.world_from_camera[0].numpy().astype(np.float32)
        height, width = camera.height, camera.width
        picture = np.zeros((height * width, 3), np.float32)
        for corner, offset in enumerate(SUBPIXELS):
            picture += self._colors(pose, self._directions(camera, pose, offset), float(camera.K[0, 0, 0]), corner) / len(SUBPIXELS)
        middle = self._directions(camera, pose, np.array([0.5, 0.5], np.float32))
        depth = self._cast(pose[:3, 3], middle)["t_hit"].numpy()
        depth = np.where(np.isfinite(depth), depth, 0)
        return picture.reshape(height, width, 3), depth.reshape(height, width)

    @staticmethod
    def _directions(camera: Cameras, pose: np.ndarray, offset: np.ndarray) -> Float[np.ndarray, "n 3"]:
        """In the world, of length 1 along the optical axis, so that a ray's parameter is the depth."""
        K = camera.K[0].numpy()
        v, u = np.meshgrid(np.arange(camera.height, dtype=np.float32) + offset[1],
                           np.arange(camera.width, dtype=np.float32) + offset[0], indexing="ij")
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1).reshape(-1, 3)
        return (rays @ pose[:3, :3].T).astype(np.float32)

    def _cast(self, origin: np.ndarray, directions: np.ndarray) -> dict:
        rays = np.concatenate([np.broadcast_to(origin, directions.shape), directions], axis=1)
        return self._scene.cast_rays(self._open3d.core.Tensor(np.ascontiguousarray(rays, np.float32)))

    def _colors(self, pose: np.ndarray, directions: np.ndarray, focal: float, corner: int) -> Float[np.ndarray, "n 3"]:
        hits = self._cast(pose[:3, 3], directions)
        distance = hits["t_hit"].numpy()
        seen = np.isfinite(distance)
        colors = self._sky(directions)
        directions, distance = directions[seen], distance[seen]
        points = pose[:3, 3] + distance[:, None] * directions
        colors[seen] = self._shade(points, directions, distance / focal, hits["primitive_ids"].numpy()[seen],
                                   hits["primitive_uvs"].numpy()[seen], corner)
        return np.sqrt(np.clip(colors, 0, 1))

    def _sky(self, directions: np.ndarray) -> Float[np.ndarray, "n 3"]:
        up = directions[:, 2] / np.linalg.norm(directions, axis=1)
        low, high = self.world.sky.astype(np.float32)
        return low + (high - low) * np.clip(up * 1.5, 0, 1)[:, None]

    def _shade(self, points, directions, pixel, faces: Int[np.ndarray, "n"], at, corner: int) -> Float[np.ndarray, "n 3"]:
        """Linear RGB of surface points seen along `directions`; `pixel` is the size in metres of a pixel there."""
        mesh, light = self.world.mesh, self.world.light
        weights = np.stack([1 - at.sum(axis=1), at[:, 0], at[:, 1]], axis=1)[:, :, None]
        uv = (weights * mesh.uv[faces]).sum(axis=1)
        normals = (weights * mesh.normals[faces]).sum(axis=1)
        toward_eye = -directions / np.linalg.norm(directions, axis=1, keepdims=True)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        facing = (normals * toward_eye).sum(axis=1)
        normals *= np.where(facing < 0, -1, 1)[:, None]
        # Half a pixel, wider on slanting surfaces: what one subpixel covers.
        footprint = 0.5 * pixel / np.sqrt(np.clip(np.abs(facing), 0.1, 1))
        surface = self.world.atlas.look_up(mesh.material[faces], uv, footprint) * mesh.tint[faces]
        to_light = self._light_place(corner) - points
        distance = np.linalg.norm(to_light, axis=1, keepdims=True)
        to_light /= distance
        lit = self._lit(points + 2e-3 * normals, to_light, distance)
        strength = light.strength.astype(np.float32) * lit[:, None] / (1 + (distance / light.reach) ** 2)
        diffuse = np.clip((normals * to_light).sum(axis=1, keepdims=True), 0, None)
        halfway = to_light + toward_eye
        halfway /= np.linalg.norm(halfway, axis=1, keepdims=True)
        shine = np.clip((normals * halfway).sum(axis=1), 0, 1) ** SHININESS * self.world.atlas.gloss[mesh.material[faces]]
        ambient = light.ambient.astype(np.float32) * (0.75 + 0.25 * normals[:, 2:])
        return surface**2 * (ambient + strength * diffuse) + strength * (diffuse > 0) * shine[:, None] * 0.5

    def _light_place(self, corner: int) -> Float[np.ndarray, "3"]:
        """Each subpixel looks at another place of the lamp, which softens the edges of shadows."""
        return (self.world.light.position + self.world.light.size * (np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])[corner])
                ).astype(np.float32)

    def _lit(self, points, to_light, distance) -> Float[np.ndarray, "n"]:
        rays = np.concatenate([points, to_light * distance], axis=1).astype(np.float32)
        hidden = self._scene.test_occlusions(self._open3d.core.Tensor(rays), tnear=0.0, tfar=0.999)
        return 1.0 - hidden.numpy().astype(np.float32)


def render_world(world: World, cameras: Cameras) -> tuple[Float[Tensor, "t 3 h w"], Float[Tensor, "t 1 h w"]]:
    """Photos in 0…1 and true z depth in metres, 0 where there is only sky. Same world and cameras, same pictures."""
    caster = Raycaster(world)
    stops = world.exposure_change * np.random.default_rng(world.seed).normal(size=len(cameras))
    frames, depths = [], []
    for index in range(len(cameras)):
        picture, depth = caster.frame(cameras[index])
        # Pictures are square roots of light, so a stop is a factor of √2.
        frames.append(torch.from_numpy(np.clip(picture * np.float32(2 ** (stops[index] / 2)), 0, 1)).permute(2, 0, 1))
        depths.append(torch.from_numpy(depth)[None])
    return torch.stack(frames).contiguous(), torch.stack(depths).float()
