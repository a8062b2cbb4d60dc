"""Triangles with surface coordinates: the few solids that the sample worlds are built of.

World axes: z up, metres. Surface coordinates are metres along the surface, so that a texture keeps its size
on every solid. Each solid starts at a random place of its texture and has a tint of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int

from chopgrad_ns.data.open3d_import import import_open3d
from chopgrad_ns.sim.textures import Material

Vector = Sequence[float]


@dataclass
class Mesh:
    """F triangles: corners, surface coordinates in metres and normals of each corner; per triangle a material
    and a tint.
    """

    corners: Float[np.ndarray, "f 3 3"]
    uv: Float[np.ndarray, "f 3 2"]
    normals: Float[np.ndarray, "f 3 3"]
    material: Int[np.ndarray, "f"]
    tint: Float[np.ndarray, "f 3"]

    def __len__(self) -> int:
        return len(self.material)

    def posed(self, pose: Float[np.ndarray, "4 4"]) -> Mesh:
        """Moved by a rigid motion."""
        rotation = pose[:3, :3].astype(np.float32)
        corners = self.corners @ rotation.T + pose[:3, 3].astype(np.float32)
        return Mesh(corners, self.uv, self.normals @ rotation.T, self.material, self.tint)

    @staticmethod
    def cat(parts: Sequence[Mesh]) -> Mesh:
        return Mesh(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Mesh)))


def _corners_of_faces() -> Float[np.ndarray, "6 4 3"]:
    """Of a cube from −1 to 1; upright faces begin along their first axis: grain and bricks lie as they should."""
    faces = np.empty((6, 4, 3))
    for index, (axis, sign) in enumerate((axis, sign) for axis in range(3) for sign in (-1, 1)):
        along, across = {0: (1, 2), 1: (0, 2), 2: (0, 1)}[axis]
        faces[index, :, axis] = sign
        faces[index, :, along], faces[index, :, across] = (-1, 1, 1, -1), (-1, -1, 1, 1)
    return faces


_FACES = _corners_of_faces()


def _cross(a: Vector, b: Vector) -> Float[np.ndarray, "*n 3"]:
    """As `np.cross`, which takes thrice as long for single vectors."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    ax, ay, az, bx, by, bz = a[..., 0], a[..., 1], a[..., 2], b[..., 0], b[..., 1], b[..., 2]
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)


def unit(vectors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Scaled to length 1."""
    return vectors / np.sqrt(np.einsum("...c,...c->...", vectors, vectors))[..., None]


def casting_scene(corners: Float[np.ndarray, "f 3 3"], threads: int):
    """Triangles as open3d's RaycastingScene."""
    open3d = import_open3d()
    scene = open3d.t.geometry.RaycastingScene(threads)
    points = np.ascontiguousarray(corners.reshape(-1, 3), np.float32)
    faces = np.arange(len(points), dtype=np.uint32).reshape(-1, 3)
    scene.add_triangles(open3d.core.Tensor(points), open3d.core.Tensor(faces))
    return scene


class Builder:
    """Collects solids. Coordinates given to its methods are in the frame set by `frame`, the world's by
    default.
    """

    def __init__(self, rng: np.random.Generator, periods: Sequence[float] = ()):
        """`periods` of materials that exist already, to build more for a finished world: `world.atlas.period`."""
        self.rng = rng
        self.materials: list[Material] = []
        self._periods = list(periods)
        self._parts: list[tuple] = []
        self._rotation, self._origin = np.eye(3), np.zeros(3)

    def material(self, material: Material) -> int:
        """Register a material; its number is what the solids take."""
        self.materials.append(material)
        self._periods.append(material.period)
        return len(self._periods) - 1

    @contextmanager
    def frame(self, x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> Iterator[None]:
        """Place what is built inside at (x, y, z) of the current frame, turned by `yaw` radians about z."""
        outer = self._rotation, self._origin
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        self._rotation, self._origin = outer[0] @ turn, outer[1] + outer[0] @ np.array([x, y, z])
        yield
        self._rotation, self._origin = outer

    def box(self, center: Vector, size: Vector, material: int, tint: Vector | None = None) -> None:
        """Axis-aligned in the current frame."""
        x, y, z = center
        self.taper((x, y, z - size[2] / 2), size[:2], size[:2], size[2], material, tint)

    def taper(self, foot: Vector, bottom: Vector, top: Vector, height: float, material: int,
              tint: Vector | None = None, shift: Vector = (0.0, 0.0), bend: float = 0.0) -> None:
        """A box whose top, `top` wide in x and y and moved by `shift`, differs from its bottom around `foot`.

        `bend` turns the corners' normals outward by that share, so that light runs over the faces as if they bulged.
        """
        low, high = np.append(bottom, 0.0) / 2, np.append(top, 2 * height) / 2
        upper = _FACES[..., 2:] > 0
        points = np.asarray(foot, dtype=float) + np.where(upper, _FACES * high + np.append(shift, 0.0), _FACES * low)
        self._quads(points, material, tint, bend)

    def prism(self, profile: Sequence[Vector], width: float, material: int, tint: Vector | None = None,
              bend: float = 0.0, top_width: float | None = None) -> None:
        """An outline of x and z, counted from the rear bottom over the top, drawn `width` wide along y.

        It need not be convex, but all of it must be seen from its first point, since triangles from there fill the
        sides, and from the mean of its points, since normals point away from that. The width goes over to `top_width`
        at the highest point.
        """
        profile = np.asarray(profile, dtype=float)
        z = profile[:, 1]
        share = (z - z.min()) / (z.max() - z.min())
        half = (width + ((top_width or width) - width) * share) / 2
        left, right = (np.stack([profile[:, 0], sign * half, z], 1) for sign in (1, -1))
        after = np.roll(np.arange(len(profile)), -1)
        tint = self._tint() if tint is None else tint
        self._quads(np.stack([left, left[after], right[after], right], 1), material, tint, bend)
        middle = np.array([profile[:, 0].mean(), 0, z.mean()])
        fan = np.stack([0 * after[1:-1], np.arange(1, len(profile) - 1), after[1:-1]], 1)
        for side, sign in ((left, 1), (right, -1)):
            outward = side - middle
            normals = [0, sign, 0] + bend * outward / np.linalg.norm(outward, axis=1, keepdims=True)
            self._add(side, side[:, [0, 2]] + self._shift(), unit(normals), fan, material, tint)

    def strip(self, left: Float[np.ndarray, "n 3"], right: Float[np.ndarray, "n 3"], material: int,
              tint: Vector | None = None) -> None:
        """A ribbon between two lines of as many points: roads, kerbs, walls along a bend."""
        left, right = np.asarray(left, dtype=float), np.asarray(right, dtype=float)
        middle = (left + right) / 2
        along = np.append(0, np.cumsum(np.linalg.norm(np.diff(middle, axis=0), axis=1)))
        across = np.linalg.norm(left - right, axis=1)
        direction = np.gradient(middle, axis=0)
        normals = unit(_cross(direction, left - right))
        uv = np.concatenate([np.stack([along, across], 1), np.stack([along, 0 * across], 1)])
        i, count = np.arange(len(left) - 1), len(left)
        faces = np.concatenate([np.stack([i + count, i + count + 1, i + 1], 1), np.stack([i + count, i + 1, i], 1)])
        self._add(np.concatenate([left, right]), uv + self._shift(), np.tile(normals, (2, 1)), faces, material, tint)

    def _quads(self, points: Float[np.ndarray, "n 4 3"], material: int, tint: Vector | None, bend: float) -> None:
        """Flat four-cornered faces of a solid, all seen from the mean of their corners; surface coordinates run level with
        their first edge.
        """
        edge_u, side = points[:, 1] - points[:, 0], points[:, 3] - points[:, 0]
        normal = unit(_cross(edge_u, side))
        outward = points - points.mean(axis=(0, 1))
        normal *= np.where(np.einsum("nc,nkc->n", normal, outward) < 0, -1, 1)[:, None]
        u = unit(edge_u)
        v = _cross(normal, u)
        v *= np.where(np.einsum("nc,nc->n", v, side) < 0, -1, 1)[:, None]
        local = points - points[:, :1]
        uv = np.stack([np.einsum("nkc,nc->nk", local, u), np.einsum("nkc,nc->nk", local, v)], -1)
        uv += self.rng.uniform(0, 3, (len(points), 1, 2))
        normals = unit(normal[:, None] + bend * unit(outward)) if bend else np.repeat(normal[:, None], 4, 1)
        first = 4 * np.arange(len(points))[:, None]
        faces = np.concatenate([first + [0, 1, 2], first + [0, 2, 3]])
        self._add(points.reshape(-1, 3), uv.reshape(-1, 2), normals.reshape(-1, 3), faces, material, tint)

    def sheet(self, corner: Vector, edge_u: Vector, edge_v: Vector, material: int, tint: Vector | None = None,
              whole: bool = False) -> None:
        """A parallelogram; `whole` stretches exactly one period of the texture over it (posters, pages)."""
        corner, edge_u, edge_v = (np.asarray(value, dtype=float) for value in (corner, edge_u, edge_v))
        points = np.stack([corner, corner + edge_u, corner + edge_u + edge_v, corner + edge_v])
        size = np.array([np.linalg.norm(edge_u), np.linalg.norm(edge_v)])
        uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size
        if whole:
            uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0]]) * self._periods[material]
        normal = _cross(edge_u, edge_v)
        normals = np.tile(normal / np.linalg.norm(normal), (4, 1))
        self._add(points, uv if whole else uv + self._shift(), normals, np.array([[0, 1, 2], [0, 2, 3]]),
                  material, tint)

    def rod(self, start: Vector, end: Vector, radius: float, material: int, tint: Vector | None = None,
            end_radius: float | None = None, sides: int = 14) -> None:
        """A round solid from `start` to `end` with closed ends; a cone where the radii differ."""
        start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
        end_radius = radius if end_radius is None else end_radius
        tint = self._tint() if tint is None else tint
        length = np.linalg.norm(end - start)
        axis = (end - start) / length
        side = unit(_cross(axis, [0, 0, 1] if abs(axis[2]) < 0.9 else [1, 0, 0]))
        angle = np.linspace(0, 2 * np.pi, sides + 1)
        outward = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * _cross(axis, side)
        points = np.concatenate([start + radius * outward, end + end_radius * outward])
        around = angle * max(radius, end_radius)
        # Along the rod is u: the grain of wood follows it.
        uv = np.concatenate([np.stack([0 * around, around], 1), np.stack([0 * around + length, around], 1)])
        normals = unit(outward + axis * (radius - end_radius) / length)
        i = np.arange(sides)
        faces = np.concatenate([np.stack([i, i + 1, i + sides + 2], 1),
                                np.stack([i, i + sides + 2, i + sides + 1], 1)])
        self._add(points, uv + self._shift(), np.tile(normals, (2, 1)), faces, material, tint)
        for center, size, normal in ((start, radius, -axis), (end, end_radius, axis)):
            disc = np.concatenate([[center], center + size * outward])
            flat = np.concatenate([[[0, 0]], size * np.stack([np.cos(angle), np.sin(angle)], 1)])
            fan = np.stack([0 * i, i + 1, i + 2], 1)
            self._add(disc, flat + self._shift(), np.tile(normal, (len(disc), 1)), fan, material, tint)

    def ball(self, center: Vector, radii: Vector, material: int, tint: Vector | None = None,
             bumps: float = 0.0,
             rings: int = 14) -> None:
        """An ellipsoid; `bumps` moves its points in and out by that share of the radius (bushes, stones)."""
        latitude, longitude = np.meshgrid(np.linspace(-np.pi / 2, np.pi / 2, rings + 1),
                                          np.linspace(0, 2 * np.pi, 2 * rings + 1), indexing="ij")
        unit = np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude),
                         np.sin(latitude)], -1)
        push = 1 + bumps * self.rng.normal(size=latitude.shape)
        push[:, -1] = push[:, 0]
        push[[0, -1]] = 1
        radii = np.asarray(radii, dtype=float)
        points = np.asarray(center) + unit * radii * push[..., None]
        normals = unit / radii
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        uv = np.stack([longitude * radii[:2].mean(), latitude * radii[2]], -1)
        a = (np.arange(rings)[:, None] * (2 * rings + 1) + np.arange(2 * rings)).ravel()
        b = a + 2 * rings + 1
        faces = np.concatenate([np.stack([a, a + 1, b + 1], 1), np.stack([a, b + 1, b], 1)])
        self._add(points.reshape(-1, 3), uv.reshape(-1, 2) + self._shift(), normals.reshape(-1, 3), faces,
                  material, tint)

    def mesh(self) -> Mesh:
        """Everything built so far."""
        return Mesh(*(np.concatenate(part) for part in zip(*self._parts)))

    @contextmanager
    def apart(self) -> Iterator[list[Mesh]]:
        """What is built inside goes into a mesh and a frame of its own; the mesh is put into the list yielded."""
        outer = self._parts, self._rotation, self._origin
        self._parts, self._rotation, self._origin = [], np.eye(3), np.zeros(3)
        made: list[Mesh] = []
        yield made
        made.append(self.mesh())
        self._parts, self._rotation, self._origin = outer

    def _add(self, points, uv, normals, faces, material, tint) -> None:
        points = points @ self._rotation.T + self._origin
        normals = normals @ self._rotation.T
        tint = np.asarray(self._tint() if tint is None else tint, np.float32)
        self._parts.append((points[faces].astype(np.float32), uv[faces].astype(np.float32),
                            normals[faces].astype(np.float32), np.full(len(faces), material, np.int32),
                            np.tile(tint, (len(faces), 1))))

    def _tint(self) -> Vector:
        return self.rng.uniform(0.8, 1.1) * self.rng.uniform(0.9, 1.05, 3)

    def _shift(self) -> np.ndarray:
        return self.rng.uniform(0, 3, 2)
