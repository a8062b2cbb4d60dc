"""What a drive's lidar points tell about its pictures and its scene: depth, and coloured points to start a splat from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from chopgrad_ns.data.depths import HIDDEN, depths_from_points
from chopgrad_ns.data.drives import tracks
from chopgrad_ns.data.drives.boxes import actors_at, depth_from_boxes
from chopgrad_ns.data.drives.drive import Drive, Photo, Pose, RigCamera
from chopgrad_ns.data.drives.projection import project
from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.cameras import Cameras

MARGIN = 0.1
"""Metres around a box in which points may still be of its actor."""
GROUND = 0.1
"""Metres above a box's bottom up to which points are of the road."""
FINEST = 0.05, 0.1
"""Metres: sides of the voxels of which each keeps one point at most, of actors and of what stands still."""
WITHIN = 40
"""Of a picture's width, as how many pixels away those points are looked for that hide others."""
LEAST_WIDTH = 480
"""Pixels: pictures are decoded as small as their format can, but not narrower, to colour points."""


@dataclass(frozen=True)
class Seeds:
    """Coloured points: `xyz` [N, 3] in metres, `rgb` [N, 3] in 0…1."""

    xyz: Float32[np.ndarray, "n 3"]
    rgb: Float32[np.ndarray, "n 3"]


def owned_points(drive: Drive, frame: int) -> tuple[Float32[np.ndarray, "n 3"], Int[np.ndarray, "n"]]:
    """A frame's lidar points, and the index of the actor that each is of; −1 for none."""
    xyz = drive.source.points(frame).xyz
    return xyz, actors_at(drive, frame, xyz, MARGIN)


def points_at(drive: Drive, frame: int, xyz: Float32[np.ndarray, "n 3"], owner: Int[np.ndarray, "n"], time: float
              ) -> Float32[np.ndarray, "m 3"]:
    """A frame's `owned_points` as they are at another time near by: those in the box of an actor move with it.

    Points of actors that are not there any more at `time` are left out.
    """
    poses = tracks.all_at_time(drive.actors, torch.from_numpy(drive.times), time)
    moved, kept = xyz.copy(), np.ones(len(xyz), bool)
    for index, own in _by_owner(owner):
        kept[own] = index in poses
        if index in poses:
            moved[own] = _placed(_in_box(drive, index, frame, xyz[own]), poses[index])
    return moved[kept]


def lidar_depth(drive: Drive, photos: Sequence[Photo], cameras: Cameras, neighbours: int = 0) -> Float[Tensor, "n 1 h w"]:
    """Depth z in metres where lidar points of a photo's own frame fall, 0 elsewhere; hidden points are left out.

    Args:
        cameras: one for each photo, undistorted, in the drive's world (`projection.undistorted`), with rolling shutters or
            without.
        neighbours: so many frames before and after give the points of what stands still as well.
    """
    if len(cameras) != len(photos):
        raise ValueError(f"{len(cameras)} cameras for {len(photos)} photos")
    depths = torch.zeros(len(photos), 1, cameras.height, cameras.width)
    still: dict[int, np.ndarray] = {}
    order = sorted(range(len(photos)), key=lambda index: photos[index].frame)
    for frame, indices in groupby(order, key=lambda index: photos[index].frame):
        around = [f for f in range(frame - neighbours, frame + neighbours + 1) if f != frame and 0 <= f < len(drive)]
        still = {f: still[f] if f in still else _static(drive, f)[0] for f in around}
        xyz, owner = owned_points(drive, frame)
        for index in indices:
            points = np.concatenate([points_at(drive, frame, xyz, owner, photos[index].middle), *still.values()])
            depths[index] = depths_from_points(torch.from_numpy(points), cameras[index], seen_by_lidar)[0]
    return depths


def seen_by_lidar(z: Float[Tensor, "p"], column: Int[Tensor, "p"], row: Int[Tensor, "p"], width: int, height: int
                  ) -> Bool[Tensor, "p"]:
    """Which of a scan's points, given by their pixels in a picture and their depths, no others clearly hide.

    A point is hidden if near by there are nearer ones both above and below it, or both left and right: on a road or a wall,
    however obliquely it is seen, depth grows one way.
    """
    reach = max(2, round(width / WITHIN))
    least = z.new_full((height * width,), torch.inf).scatter_reduce_(0, row * width + column, z, "amin").view(height, width)
    padded = torch.nn.functional.pad(least, (reach,) * 4, value=torch.inf)[None, None]
    up_down = _least(_least(torch.nn.functional.pad(padded, (1, 1), value=torch.inf), (1, 3)), (reach, 1))
    sideways = _least(padded, (1, reach))
    vertical = torch.maximum(up_down[0, 0, row, column + reach], up_down[0, 0, row + reach + 1, column + reach])
    horizontal = torch.maximum(sideways[0, 0, row + reach, column], sideways[0, 0, row + reach, column + reach + 1])
    return z <= (1 + HIDDEN) * torch.minimum(vertical, horizontal)


def _least(depths: Float[Tensor, "1 1 h w"], window: tuple[int, int]) -> Float[Tensor, "1 1 h2 w2"]:
    """The least in each window, by its first row and column."""
    return -torch.nn.functional.max_pool2d(-depths, window, stride=1)


def coloured_points(drive: Drive, count: int = 60_000, report: Callable[[int, int], None] | None = None) -> Seeds:
    """Points of what stands still, at most `count`, evenly spread, coloured by the photos nearest in time that see them.

    Points in boxes of actors, parked ones included, are left out. Raises UserError where a recording has no lidar points.
    What must not be looked at is taken out of the drive by `Drive.of_frames`.

    Args:
        report: called with (step, steps) as photos are looked at.
    """
    xyz, frames = (np.concatenate(parts) for parts in
                   zip(*(_thinned(*_static(drive, frame), FINEST[1]) for frame in range(len(drive)))))
    if not len(xyz):
        raise UserError(f"{drive.name} has no lidar points of what stands still; take frames that have some.")
    side = FINEST[1]
    xyz, frames = _thinned(xyz, frames, side)
    while len(xyz) > count:
        side *= 1.15
        xyz, frames = _thinned(xyz, frames, side)
    rgb, apart = np.full((len(xyz), 3), 0.5, np.float32), np.full(len(xyz), np.inf)
    for step, photo in enumerate(drive.photos):
        nearer = np.abs(drive.times[frames] - photo.middle) < apart
        if nearer.any():
            boxes = depth_from_boxes(drive, photo, *_small(drive.cameras[photo.camera]))
            seen, colours = _colours(drive, photo, xyz, boxes)
            take = nearer & seen
            rgb[take], apart[take] = colours[take], np.abs(drive.times[frames[take]] - photo.middle)
        if report is not None:
            report(step + 1, len(drive.photos))
    return Seeds(xyz, _spread(xyz, rgb, np.isfinite(apart)))


def actor_points(drive: Drive, actors: Sequence[int], count: int = 4000) -> list[Seeds]:
    """For each of some actors the points in its box over all frames, at most `count`, in the box's frame, coloured.

    The road under it is left out. Of several points in 5 cm one that a photo of its frame sees is taken.
    """
    gathered: dict[int, list] = {index: [] for index in actors}
    for frame in range(len(drive)):
        there = [index for index in actors if drive.actors[index].present[frame]]
        if not there:
            continue
        xyz, owner = owned_points(drive, frame)
        xyz, owner = xyz[owner >= 0], owner[owner >= 0]
        local = {index: (own, _in_box(drive, index, frame, xyz[own])) for index, own in _by_owner(owner) if index in there}
        rgb, seen = np.full((len(xyz), 3), 0.5, np.float32), np.zeros(len(xyz), bool)
        for photo in (photo for photo in drive.photos if photo.frame == frame):
            moved = xyz.astype(np.float64)
            poses = tracks.all_at_time(drive.actors, torch.from_numpy(drive.times), photo.middle)
            for index in local.keys() & poses.keys():
                own, places = local[index]
                moved[own] = _placed(places, poses[index])
            visible, colours = _colours(drive, photo, moved, None)
            rgb[visible], seen = colours[visible], seen | visible
        for index, (own, places) in local.items():
            body = places[:, 2] > -float(drive.actors[index].size[2]) / 2 + GROUND
            gathered[index].append((places[body], rgb[own][body], seen[own][body]))
    return [_actor_seeds(gathered[index], count) for index in actors]


def _actor_seeds(parts: list, count: int) -> Seeds:
    if not parts:
        return Seeds(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    xyz, rgb, seen = (np.concatenate(values) for values in zip(*parts))
    first = np.argsort(~seen, kind="stable")
    xyz, rgb, seen = xyz[first].astype(np.float32), rgb[first], seen[first]
    xyz, kept = _thinned(xyz, np.arange(len(xyz)), FINEST[0])
    if len(kept) > count:
        chosen = np.random.default_rng(0).permutation(len(kept))[:count]
        xyz, kept = xyz[chosen], kept[chosen]
    return Seeds(xyz, _spread(xyz, rgb[kept], seen[kept]))


def _by_owner(owner: Int[np.ndarray, "n"]) -> list[tuple[int, Int[np.ndarray, "m"]]]:
    """Each actor that points are of, and which these are."""
    order = np.argsort(owner, kind="stable")[np.count_nonzero(owner < 0):]
    return [(int(owner[own[0]]), own) for own in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1) if len(own)]


def _placed(local: Float[np.ndarray, "n 3"], pose: Pose) -> Float[np.ndarray, "n 3"]:
    return local @ pose[:3, :3].T + pose[:3, 3]


def _in_box(drive: Drive, index: int, frame: int, xyz: Float32[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    pose = drive.actors[index].world_from_actor[frame].double().numpy()
    return (xyz.astype(np.float64) - pose[:3, 3]) @ pose[:3, :3]


def _static(drive: Drive, frame: int) -> tuple[Float32[np.ndarray, "n 3"], Int[np.ndarray, "n"]]:
    """A frame's points that are in no actor's box, and the frame for each."""
    xyz, owner = owned_points(drive, frame)
    xyz = xyz[owner < 0]
    return xyz, np.full(len(xyz), frame)


def _thinned(xyz: Float32[np.ndarray, "n 3"], values: Int[np.ndarray, "n"], side: float
             ) -> tuple[Float32[np.ndarray, "m 3"], Int[np.ndarray, "m"]]:
    """The first point of each voxel."""
    keys = np.zeros(len(xyz), np.int64)
    for places in xyz.T:
        keys = keys << 21 | np.floor(places / side).astype(np.int64) + (1 << 20)
    first = np.sort(np.unique(keys, return_index=True)[1])
    return xyz[first], values[first]


def _colours(drive: Drive, photo: Photo, xyz: Float[np.ndarray, "n 3"], front: Float[np.ndarray, "h w"] | None
             ) -> tuple[Bool[np.ndarray, "n"], Float32[np.ndarray, "n 3"]]:
    """Which points a photo sees, neither the others nor what begins at the depth `front` before them, and their colours."""
    camera = drive.cameras[photo.camera]
    uv, z, inside = project(drive, photo, xyz)
    picture = decoded(drive, photo, _shrink(camera))
    height, width = picture.shape[:2]
    column, row = (uv[inside] * [width / camera.width, height / camera.height]).astype(int).T
    column, row, depth = np.minimum(column, width - 1), np.minimum(row, height - 1), torch.from_numpy(z[inside])
    near = seen_by_lidar(depth, torch.from_numpy(column), torch.from_numpy(row), width, height).numpy()
    if front is not None:
        near &= z[inside] < front[np.minimum(row, len(front) - 1), np.minimum(column, front.shape[1] - 1)]
    seen, rgb = inside.copy(), np.zeros((len(xyz), 3), np.float32)
    seen[inside] = near
    rgb[seen] = picture[row[near], column[near]] / np.float32(255)
    return seen, rgb


def _shrink(camera: RigCamera) -> int:
    return next((by for by in (8, 4, 2) if camera.width / by >= LEAST_WIDTH), 1)


def _small(camera: RigCamera) -> tuple[int, int]:
    """Size of a picture that is decoded to colour points, to a pixel."""
    return -(-camera.width // _shrink(camera)), -(-camera.height // _shrink(camera))


def decoded(drive: Drive, photo: Photo, shrink: int = 1) -> np.ndarray:
    """A photo's pixels [H, W, 3], uint8 RGB, made smaller by 1, 2, 4 or 8. Raises UserError for what is no picture."""
    flag = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
            8: cv2.IMREAD_REDUCED_COLOR_8}[shrink] | cv2.IMREAD_IGNORE_ORIENTATION
    content = np.frombuffer(drive.source.picture(photo), np.uint8)
    picture = cv2.imdecode(content, flag) if len(content) else None
    if picture is None:
        raise UserError(f"The picture {photo.name} cannot be decoded; get the recording again, or choose other frames.")
    return picture[..., ::-1]


def _spread(xyz: Float32[np.ndarray, "n 3"], rgb: Float32[np.ndarray, "n 3"], seen: Bool[np.ndarray, "n"]
            ) -> Float32[np.ndarray, "n 3"]:
    """Colours, those of points that no photo sees taken from the nearest that is seen."""
    from scipy.spatial import cKDTree

    if seen.all() or not seen.any():
        return rgb
    rgb = rgb.copy()
    rgb[~seen] = rgb[seen][cKDTree(xyz[seen]).query(xyz[~seen])[1]]
    return rgb
