"""Where the boxes of actors are in a drive's pictures, with lens distortion and rolling shutter, and which points they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from chopgrad_ns.data.drives import tracks
from chopgrad_ns.data.drives.drive import Drive, Photo, Pose, RigCamera, inverse
from chopgrad_ns.data.drives.projection import camera_at, line_times, to_pixels, widest

NEAR = 0.1
"""Metres along the optical axis nearer than which nothing of a box is seen."""
STILL = 0.5
"""Metres that no corner of a parked vehicle's box is moved: people draw boxes a little differently in each frame."""
ROUNDS = 3
"""Of finding which line sees a point of a box, which is a matter of tenths of a pixel after the first."""
SAMPLES = 8
"""Points on each side of a face: lens distortion and rolling shutter bend them."""
SIDES = 16
"""Of the pyramid that boxes are clipped to: its apothem is 3 % more than the picture's corners are from the middle."""
ENLARGED = 1.08
"""Boxes in masks of what moves, against the boxes given: mirrors and loads stick out."""
CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
FACES = np.array([[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]])


@dataclass(frozen=True)
class PhotoBox:
    """An actor's box in a picture: its index in `Drive.actors`, its pose when the middle line was exposed, and the corners
    of the convex shape that it covers, pixels [N, 2] of the distorted picture, in order around it; they may lie somewhat
    outside it. `nearest`: the least z in metres.
    """

    actor: int
    world_from_actor: Pose
    outline: Float[np.ndarray, "n 2"]
    nearest: float


def moving_actors(drive: Drive, tolerance: float = STILL) -> list[int]:
    """Indices of the actors that move more than `tolerance` metres at some time."""
    return [index for index, actor in enumerate(drive.actors) if actor.moves(tolerance)]


def boxes_in(drive: Drive, photo: Photo, actors: Sequence[int] | None = None, enlarged: float = 1.0) -> list[PhotoBox]:
    """The boxes that are in a picture at least in part, of all actors or of some, the farthest first."""
    chosen = range(len(drive.actors)) if actors is None else actors
    poses = tracks.all_at_time([drive.actors[index] for index in chosen], torch.from_numpy(drive.times), photo.middle)
    found = [_in_picture(drive, photo, chosen[place], pose, enlarged) for place, pose in poses.items()]
    return sorted((box for box in found if box is not None), key=lambda box: -box.nearest)


def moving_mask(drive: Drive, photo: Photo, width: int, height: int, dilation: int = 2, moving: Sequence[int] | None = None
                ) -> Bool[np.ndarray, "h w"]:
    """Pixels that may show an actor that moves at some time, of a distorted picture made `width`×`height` large.

    Boxes are slightly enlarged, and what they cover by `dilation` pixels more. Shadows are not covered. `moving`: those that
    move, `moving_actors` unless given (which takes a while, for many photos).
    """
    mask = np.zeros((height, width), np.uint8)
    for box in boxes_in(drive, photo, moving_actors(drive) if moving is None else moving, ENLARGED):
        _fill(mask, _scaled(drive.cameras[photo.camera], box.outline, width, height), 1)
    if dilation:
        mask = cv2.dilate(mask, np.ones((2 * dilation + 1,) * 2, np.uint8))
    return mask.astype(bool)


def actor_ids_from_boxes(drive: Drive, photo: Photo, width: int, height: int) -> UInt8[np.ndarray, "h w"]:
    """k + 1 where actor k's box is the nearest in a pixel, 0 for the background: what a recording without truth can tell.

    Raises ValueError for more than 255 actors: give a drive with those that matter.
    """
    if len(drive.actors) > 255:
        raise ValueError(f"{len(drive.actors)} actors, where maps of ids hold 255")
    ids = np.zeros((height, width), np.uint8)
    for box in boxes_in(drive, photo):
        _fill(ids, _scaled(drive.cameras[photo.camera], box.outline, width, height), box.actor + 1)
    return ids


def depth_from_boxes(drive: Drive, photo: Photo, width: int, height: int) -> Float[np.ndarray, "h w"]:
    """The least z in metres at which some actor's box, slightly enlarged, begins in a pixel; inf where there is none."""
    depth = np.full((height, width), np.inf)
    for box in boxes_in(drive, photo, enlarged=ENLARGED):
        _fill(depth, _scaled(drive.cameras[photo.camera], box.outline, width, height), box.nearest)
    return depth


def actors_at(drive: Drive, frame: int, xyz: Float[np.ndarray, "n 3"], margin: float = 0.0) -> Int[np.ndarray, "n"]:
    """Index of the actor in whose box, `margin` metres larger all around, each point of a frame is; −1 for none."""
    owner = np.full(len(xyz), -1)
    order = np.argsort(xyz[:, 0])
    sorted_x = xyz[order, 0]
    for index, actor in enumerate(drive.actors):
        if not actor.present[frame]:
            continue
        half, pose = actor.size.double().numpy() / 2 + margin, actor.world_from_actor[frame].double().numpy()
        reach = np.abs(pose[0, :3]) @ half
        low, high = np.searchsorted(sorted_x, [pose[0, 3] - reach, pose[0, 3] + reach])
        near = order[low:high]
        local = (xyz[near].astype(np.float64) - pose[:3, 3]) @ pose[:3, :3]
        owner[near[(np.abs(local) <= half).all(axis=1)]] = index
    return owner


def _in_picture(drive: Drive, photo: Photo, index: int, pose: Pose, enlarged: float) -> PhotoBox | None:
    camera = drive.cameras[photo.camera]
    camera_from_actor = inverse(camera_at(drive, photo, np.array([photo.middle]))[0]) @ pose
    corners = CORNERS * drive.actors[index].size.double().numpy() * enlarged
    local = corners @ camera_from_actor[:3, :3].T + camera_from_actor[:3, 3]
    limits = _frustum(widest(camera))
    sides = local @ limits[:, :3].T + limits[:, 3]
    if (sides < 0).all(axis=0).any():
        return None
    faces = [local[face] for face in FACES]
    if (sides < 0).any():
        faces = [face for face in (_clipped(face, limits) for face in faces) if len(face)]
    if not faces:
        return None
    dense = np.concatenate([_subdivided(face) for face in faces])
    uv, ahead = _seen(drive, photo, index, pose, camera_from_actor, dense)
    if ahead.sum() < 3:
        return None
    outline = cv2.convexHull(uv[ahead].astype(np.float32))[:, 0]
    low, high = outline.min(axis=0), outline.max(axis=0)
    if (high <= 0).any() or low[0] >= camera.width or low[1] >= camera.height:
        return None
    return PhotoBox(index, pose, outline.astype(np.float64), float(dense[:, 2].min()))


def _frustum(reach: float) -> Float[np.ndarray, "p 4"]:
    """Planes whose inner side is seen: the near one, and those of a pyramid in the cone that `widest` allows, which holds all
    of the picture.
    """
    turns = 2 * np.pi * np.arange(SIDES) / SIDES
    sides = np.stack([-np.cos(turns), -np.sin(turns), np.full(SIDES, 0.999 * reach * np.cos(np.pi / SIDES)), np.zeros(SIDES)],
                     axis=1)
    return np.concatenate([[[0, 0, 1, -NEAR]], sides])


def _clipped(face: Float[np.ndarray, "n 3"], planes: Float[np.ndarray, "p 4"]) -> Float[np.ndarray, "m 3"]:
    """What is left of a convex polygon on the inner side of all planes (Sutherland and Hodgman)."""
    for plane in planes:
        side, left = face @ plane[:3] + plane[3], []
        for here, there, a, b in zip(face, np.roll(face, -1, axis=0), side, np.roll(side, -1)):
            if a >= 0:
                left.append(here)
            if (a >= 0) != (b >= 0):
                left.append(here + a / (a - b) * (there - here))
        if not left:
            return np.zeros((0, 3))
        face = np.array(left)
    return face


def _subdivided(face: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "m 3"]:
    share = np.arange(SAMPLES)[:, None, None] / SAMPLES
    return (face + share * (np.roll(face, -1, axis=0) - face)).reshape(-1, 3)


def _seen(drive: Drive, photo: Photo, index: int, pose: Pose, camera_from_actor: Pose, local: Float[np.ndarray, "n 3"]
          ) -> tuple[Float[np.ndarray, "n 2"], Bool[np.ndarray, "n"]]:
    """Pixels of points on a box, given in the camera's frame when the middle line is exposed: both move meanwhile, and evenly
    enough that where points are at the beginning and at the end tells it.
    """
    camera = drive.cameras[photo.camera]
    uv, ahead = to_pixels(camera, local)
    if photo.shutter is None or camera.first_line is None:
        return uv, ahead
    fixed = np.concatenate([local, np.ones((len(local), 1))], axis=1) @ inverse(camera_from_actor).T
    ends = np.array([photo.shutter.first, photo.shutter.last])
    poses, there = tracks.at_times(drive.actors[index], torch.from_numpy(drive.times), torch.from_numpy(ends))
    placed = np.where(there.numpy()[:, None, None], poses.double().numpy(), pose)
    camera_from_actor = inverse(camera_at(drive, photo, ends)) @ placed
    early, late = (fixed @ camera_from_actor.transpose(0, 2, 1))[..., :3]
    for _ in range(ROUNDS):
        share = (line_times(camera, photo, uv) - ends[0]) / max(ends[1] - ends[0], 1e-9)
        uv, ahead = to_pixels(camera, early + share[:, None] * (late - early))
    return uv, ahead


def _scaled(camera: RigCamera, outline: Float[np.ndarray, "n 2"], width: int, height: int) -> Float[np.ndarray, "n 2"]:
    return outline * [width / camera.width, height / camera.height]


def _fill(picture: np.ndarray, outline: Float[np.ndarray, "n 2"], value: float) -> None:
    """Set the pixels whose centres are inside a convex outline."""
    (left, top), (right, bottom) = np.round(outline.min(axis=0)), np.round(outline.max(axis=0))
    rows, columns = (np.arange(max(int(low), 0), min(int(high), size)) for low, high, size in
                     ((top, bottom, picture.shape[0]), (left, right, picture.shape[1])))
    if not len(rows) or not len(columns):
        return
    a, b = outline, np.roll(outline, -1, axis=0)
    y = rows[:, None] + 0.5
    crossed = (a[:, 1] <= y) != (b[:, 1] <= y)
    x = a[:, 0] + (y - a[:, 1]) / np.where(a[:, 1] == b[:, 1], 1, b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
    starts, ends = np.where(crossed, x, np.inf).min(axis=1), np.where(crossed, x, -np.inf).max(axis=1)
    inside = (columns + 0.5 >= starts[:, None]) & (columns + 0.5 <= ends[:, None])
    picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][inside] = value
