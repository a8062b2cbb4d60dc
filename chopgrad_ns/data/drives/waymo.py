"""What Waymo's two formats have in common: how the numbers of a segment become a drive. All checks that both need are here."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from chopgrad_ns.data.drives.assembly import Boxes, gap_notes
from chopgrad_ns.data.drives.drive import Photo, Points, Pose, RigCamera, Selection, Shutter, in_first_frame, moved
from chopgrad_ns.data.drives.range_images import range_image_points, uniform_inclinations
from chopgrad_ns.data.drives.waymo_names import DIRECTIONS, GLOBAL_SHUTTER, LENS, WAYMO_FROM_OPENCV
from chopgrad_ns.data.pictures import open_picture
from chopgrad_ns.errors import UserError

AWAY = 1.0
"""Seconds that a picture can be from its frame; frames are 0.1 s long."""
FARTHEST = 1e8
"""Metres from the origin of its world that anything on earth can be."""
RANGE, MOVED = 1e4, 1e2
"""Metres that a lidar cannot see, and that a vehicle is not moved within a frame."""
LARGEST_PICTURE = 16384


@dataclass(frozen=True)
class Frames:
    """The frames chosen of a segment: their numbers in it, `stamps` [T] in microseconds, `times` [T] in seconds from the
    segment's first, poses [T, 4, 4] in the drive's world; and what leads there from the segment's world and back.
    """

    chosen: list[int]
    stamps: list[int]
    start: float
    times: Float[np.ndarray, "t"]
    world_from_vehicle: Float[np.ndarray, "t 4 4"]
    source_from_world: Pose
    world_from_source: Pose
    notes: list[str]

    @staticmethod
    def of(stamps: Sequence[int], chosen: list[int], source_from_vehicle: Float[np.ndarray, "t 4 4"]) -> Frames:
        """From the times of all frames of a segment, in order, and the poses of those chosen."""
        micros = np.asarray(stamps, np.int64)
        times = (micros - micros[0]) / 1e6
        source_from_world, world_from_source = in_first_frame(source_from_vehicle)
        return Frames(chosen, micros[chosen].tolist(), micros[0] / 1e6, times[chosen], world_from_source @ source_from_vehicle,
                      source_from_world, world_from_source, gap_notes(times, chosen))


def check_pose(pose: Pose, what: str) -> Pose:
    """A pose as it is. Raises UserError where it is no rigid motion: "The pose of `what` is …"."""
    turn = pose[:3, :3]
    good = (np.abs(turn) < 1.01).all() and np.abs(turn @ turn.T - np.eye(3)).max() < 1e-3 and np.linalg.det(turn) > 0 \
        and (np.abs(pose[:3, 3]) < FARTHEST).all() and np.abs(pose[3] - [0, 0, 0, 1]).max() < 1e-6
    if not good:
        raise UserError(f"The pose of {what} is not a rigid motion; get the file again, or choose other frames and cameras.")
    return pose


def rig_camera(name: str, lens: Float[np.ndarray, "9"], vehicle_from_camera: Pose, size: tuple[int, int], direction: int,
               where: str) -> RigCamera:
    """A camera of the calibration, from the numbers that are named in `waymo_names.LENS` and Waymo's camera axes."""
    f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3 = lens
    if not (np.isfinite(lens).all() and f_u > 0 and f_v > 0 and all(0 < side <= LARGEST_PICTURE for side in size)):
        raise UserError(f"The calibration of {where} has {dict(zip(LENS, lens.tolist(), strict=True))} for "
                        f"{size[0]}x{size[1]} pixels, which no camera has; get the file again.")
    sides = {number: side for side, number in DIRECTIONS.items()}
    return RigCamera(name, *size, np.array([[f_u, 0, c_u], [0, f_v, c_v], [0, 0, 1]]), np.array([k1, k2, p1, p2, k3]),
                     check_pose(vehicle_from_camera, where) @ WAYMO_FROM_OPENCV, sides.get(direction))


def photo(frames: Frames, camera: RigCamera, frame: int, taken: float, pose: Pose, velocity: Float[np.ndarray, "6"],
          shutter: Float[np.ndarray, "3"], direction: int, where: str) -> Photo:
    """A picture of one of the frames, from its own time and pose in the segment's world.

    `velocity`: linear along the axes of the segment's world, then angular along the vehicle's, NaN where they are unknown.
    (The data set's comments say "global frame" of both, in v1 and in v2, but its own camera model turns the angular one
    from the vehicle's axes into the world's.) `shutter`: seconds of exposure, time of the trigger, and when the last line
    was read out: a line at share s of the picture is exposed around trigger + exposure/2 + s·(read out − trigger − exposure).
    """
    name = f"{camera.name} of frame {frames.chosen[frame]} of {where}"
    taken -= frames.start
    if not abs(taken - frames.times[frame]) <= AWAY:
        raise UserError(f"The picture {name} was taken {taken - frames.times[frame]:.2f} s from its frame; get the file "
                        "again, or choose other frames.")
    check_pose(pose, f"the picture {name}")
    linear, angular = (part if np.isfinite(part).all() else None for part in (velocity[:3], pose[:3, :3] @ velocity[3:]))
    found = Photo(camera.name, frame, taken, pose, name, linear, angular, _shutter(shutter, direction, frames, taken, name))
    return moved(found, frames.world_from_source)


def _shutter(shutter: Float[np.ndarray, "3"], direction: int, frames: Frames, taken: float, name: str) -> Shutter | None:
    exposure, trigger, read_out = shutter
    if not trigger > 0 and not read_out > 0:
        return None  # Not recorded.
    first, last = trigger + exposure / 2 - frames.start, read_out - exposure / 2 - frames.start
    if not (exposure >= 0 and first <= last + 1e-6 and abs(first - taken) <= AWAY and abs(last - taken) <= AWAY):
        raise UserError(f"The picture {name} was exposed for {exposure} s between {trigger} s and {read_out} s, which cannot "
                        "be; get the file again, or choose other frames.")
    return Shutter(first, first) if direction == GLOBAL_SHUTTER else Shutter(first, max(first, last))


def missing_photos(photos: list[Photo], cameras: Sequence[str], frames: Frames, where: str) -> list[str]:
    """A sentence for each camera without a picture in some of the frames. Raises UserError where it has none at all."""
    notes = []
    for camera in cameras:
        there = {photo.frame for photo in photos if photo.camera == camera}
        lacking = [number for frame, number in enumerate(frames.chosen) if frame not in there]
        if not there:
            raise UserError(f"{where} has no picture of camera {camera} in the frames chosen; choose others.")
        if lacking:
            notes.append(f"Camera {camera} has no picture in {len(lacking)} of {len(frames.chosen)} frames "
                         f"(frame {lacking[0]} is the first).")
    return notes


def add_box(boxes: Boxes, frames: Frames, frame: int, track: str, kind: str, box: Float[np.ndarray, "7"],
            where: str) -> None:
    """A box in its frame's vehicle pose: centre, length, width and height, heading about z in radians."""
    if not (np.isfinite(box).all() and (box[3:6] > 0).all()):
        raise UserError(f"The box of track {track} in {where} is {box.tolist()} (centre, size, heading), where finite numbers "
                        "and positive sizes are needed; get the file again, or choose other frames.")
    pose, (cos, sin) = np.eye(4), (np.cos(box[6]), np.sin(box[6]))
    pose[:2, :2], pose[:3, 3] = [[cos, -sin], [sin, cos]], box[:3]
    boxes.add(track, kind, frame, frames.world_from_vehicle[frame] @ pose, box[3:6])


@dataclass(frozen=True)
class LidarCalibration:
    """`values`: inclinations in radians, the lowest first, or None where they are uniform from `lowest` to `highest`."""

    vehicle_from_lidar: Pose
    lowest: float
    highest: float
    values: Float[np.ndarray, "h"] | None

    def inclinations(self, rows: int, where: str) -> Float[np.ndarray, "h"]:
        """Of the rows of a range image, from the top. Raises UserError where there are not as many."""
        values = self.values[::-1] if self.values is not None and len(self.values) else \
            uniform_inclinations(self.lowest, self.highest, rows)
        if len(values) != rows or not np.isfinite(values).all():
            raise UserError(f"{where} has a range image of {rows} rows, for which the calibration has {len(values)} beam "
                            "inclinations, or some that are not finite; get the recording again.")
        return values


def shaped(values: Float32[np.ndarray, "n"] | None, shape: Sequence[int] | None, channels: int, where: str
           ) -> Float32[np.ndarray, "h w c"] | None:
    """A range image from its numbers, None for none. Raises UserError where there are not as many as its shape says."""
    if values is None or not len(values):
        return None
    shape = [] if shape is None else [int(side) for side in shape]
    if len(shape) != 3 or shape[2] != channels or min(shape) < 1 or np.prod(shape, dtype=np.float64) != len(values):
        raise UserError(f"{where} has {len(values)} numbers for the shape {shape}, where height · width · {channels} are "
                        "needed; get the file again, or choose other frames.")
    return np.asarray(values, np.float32).reshape(shape)


def lidar_points(images: Sequence[Float32[np.ndarray, "h w 4"] | None], poses: Float32[np.ndarray, "h w 6"] | None,
                 calibration: LidarCalibration, frames: Frames, frame: int, lidar: int, where: str) -> Points:
    """Points of all returns of one lidar in one frame, in the drive's world."""
    parts = []
    for number, image in enumerate(images, 1):
        if image is None:
            continue
        _check_ranges(image, poses, (frames.source_from_world @ frames.world_from_vehicle[frame])[:3, 3], where)
        world_from_vehicle = frames.world_from_vehicle[frame] if poses is None else frames.world_from_source
        xyz, hit = range_image_points(image, calibration.inclinations(len(image), where), calibration.vehicle_from_lidar,
                                      world_from_vehicle, poses)
        parts.append(Points(xyz.astype(np.float32), image[hit, 1], np.full(len(xyz), number, np.uint8),
                            np.full(len(xyz), lidar, np.uint8)))
    return Points.cat(parts)


def _check_ranges(image: Float32[np.ndarray, "h w 4"], poses: Float32[np.ndarray, "h w 6"] | None,
                  place: Float[np.ndarray, "3"], where: str) -> None:
    """Of a lidar in a vehicle that is at `place` in the segment's world."""
    remedy = "get the recording again, or choose other frames"
    if not ((np.abs(image[..., 0]) < RANGE).all() and np.isfinite(image[..., 1]).all()):
        raise UserError(f"{where} has ranges that are not finite or beyond {RANGE:g} m, or intensities that are not finite; "
                        f"{remedy}.")
    if poses is None:
        return
    if poses.shape[:2] != image.shape[:2]:
        raise UserError(f"{where} has a range image of {image.shape[:2]} and poses for {poses.shape[:2]} pixels; {remedy}.")
    used = poses[image[..., 0] > 0]
    if not (np.isfinite(used).all() and (np.abs(used[:, 3:] - place) < MOVED).all()):
        raise UserError(f"{where} has poses of pixels that are not finite or more than {MOVED:g} m from the frame's; {remedy}.")


def check_picture(data: bytes, camera: RigCamera, photo: Photo) -> bytes:
    """An encoded picture as it is. Raises UserError where it cannot be decoded or is not of the camera's size."""
    remedy = "get the recording again, or choose other frames"
    with open_picture(io.BytesIO(data), f"picture {photo.name} ({len(data)} bytes)", remedy) as picture:
        size = picture.size
        if max(size) <= LARGEST_PICTURE:
            picture.draft("L", (camera.width // 8, camera.height // 8))  # A JPEG's eighths are decoded much faster.
            picture.load()
    if size != (camera.width, camera.height):
        raise UserError(f"The picture {photo.name} has {size[0]}x{size[1]} pixels, where the calibration has "
                        f"{camera.width}x{camera.height}; {remedy}.")
    return data


def chosen_frames(selection: Selection, stamps: Sequence[int], where: str) -> list[int]:
    """Indices of the frames chosen of a segment whose frames' times are given, in order. Raises UserError for two of one
    time.
    """
    same = [index for index in range(1, len(stamps)) if stamps[index] == stamps[index - 1]]
    if same:
        raise UserError(f"{where} has two frames at {stamps[same[0]]} µs; get the file again.")
    return selection.frames(len(stamps), where)
