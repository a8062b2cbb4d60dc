"""Waymo's recordings of version 2: `{component}/{segment}.parquet`, whose rows belong together by their keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.drives import waymo_names as names
from chopgrad_ns.data.drives.assembly import Boxes, content_key
from chopgrad_ns.data.drives.drive import Drive, Photo, Points, RigCamera, Selection
from chopgrad_ns.data.drives.parquet import Columns, ParquetRows
from chopgrad_ns.data.drives.waymo import (
    Frames,
    LidarCalibration,
    add_box,
    check_picture,
    check_pose,
    chosen_frames,
    lidar_points,
    missing_photos,
    photo,
    rig_camera,
    shaped,
)
from chopgrad_ns.errors import UserError

NAMED = 5
"""Segments that a message names."""


def read_waymo_v2(path: Path, selection: Selection = Selection(), segment: str | None = None) -> Drive:
    """A segment, or the chosen part of it.

    Args:
        path: the folder of the components' folders. Pictures, poses and the cameras' calibration are needed; lidars and
            boxes are read where they are there.
        selection: cameras (FRONT, FRONT_LEFT and FRONT_RIGHT are the usual ones) and frames, which are the rows of
            vehicle_pose in order of time.
        segment: its name; needed where the folder has several.

    Raises:
        UserError: what is missing or damaged, where, and the remedy.
    """
    path = Path(path)
    segment = _segment(path, segment)
    files = _files(path, segment)
    where = f"segment {segment}"
    frames = _frames(files["vehicle_pose"], selection, where)
    cameras = _cameras(files["camera_calibration"])
    photos, rows, notes = _photos(files["camera_image"], cameras, frames, selection, where)
    actors, about_actors = _actors(files.get("lidar_box"), frames)
    lidars, sweeps, about_lidars = _sweeps(files, frames)
    key = content_key([file.path for file in files.values()], "waymo-v2", selection, segment)
    truth = path / "truth"
    return Drive(segment, frames.times, frames.world_from_vehicle, frames.source_from_world,
                 {name: cameras[name][0] for name in dict.fromkeys(photo.camera for photo in photos)}, photos, list(lidars),
                 actors, _Parts(files, frames, {name: camera for name, (camera, _) in cameras.items()}, rows, lidars, sweeps),
                 key, truth if truth.is_dir() else None, frames.notes + notes + about_lidars + about_actors)


@dataclass
class _Sweep:
    """Rows of one lidar in one frame: of lidar, and of lidar_pose, if that has one."""

    lidar: str
    row: int
    pose_row: int | None


@dataclass
class _Parts:
    """Pictures and points, read from their row groups when they are needed."""

    files: dict[str, ParquetRows]
    frames: Frames
    cameras: dict[str, RigCamera]
    rows: dict[tuple[str, int], int]
    lidars: dict[str, LidarCalibration]
    sweeps: list[list[_Sweep]]

    def picture(self, photo: Photo) -> bytes:
        """The encoded picture. Raises UserError where it cannot be decoded."""
        row = self.rows[photo.camera, photo.frame]
        data = self.files["camera_image"].row(row, [names.IMAGE]).binary(names.IMAGE)[0]
        return check_picture(data, self.cameras[photo.camera], photo)

    def points(self, frame: int) -> Points:
        """Points of all lidars and returns in one frame. Raises UserError for damaged range images."""
        return Points.cat([self._sweep(frame, sweep) for sweep in self.sweeps[frame]])

    def _sweep(self, frame: int, sweep: _Sweep) -> Points:
        file = self.files["lidar"]
        prefixes = [prefix for prefix in names.RETURNS if prefix + "values" in file.names]
        columns = file.row(sweep.row, [prefix + part for prefix in prefixes for part in ("values", "shape")])
        where = f"Lidar {sweep.lidar} of frame {self.frames.chosen[frame]} of {file.path}"
        images = [_range_image(columns, prefix, 4, where) for prefix in prefixes]
        poses = None
        if sweep.pose_row is not None:
            columns = self.files["lidar_pose"].row(sweep.pose_row, [names.PIXEL_POSES + part for part in ("values", "shape")])
            poses = _range_image(columns, names.PIXEL_POSES, 6, where.replace(str(file.path), str(columns.path)))
        return lidar_points(images, poses, self.lidars[sweep.lidar], self.frames, frame, list(self.lidars).index(sweep.lidar),
                            where)


def _range_image(columns: Columns, prefix: str, channels: int, where: str) -> np.ndarray | None:
    return shaped(columns.arrays(prefix + "values")[0], columns.arrays(prefix + "shape")[0], channels, where)


def _segment(path: Path, segment: str | None) -> str:
    """The one asked for, or the only one."""
    looked_for = path / "vehicle_pose"
    there = sorted(file.stem for file in looked_for.glob("*.parquet"))
    if not there:
        raise UserError(f"{path} has no vehicle_pose/*.parquet; give the folder that has Waymo's components "
                        f"({', '.join(names.REQUIRED)}, …) as folders.")
    some = ", ".join(there[:NAMED]) + (f" and {len(there) - NAMED} more" if len(there) > NAMED else "")
    if segment is None and len(there) > 1:
        raise UserError(f"{path} has {len(there)} segments; choose one with segment: {some}.")
    if segment is not None and segment not in there:
        raise UserError(f"{path} has no segment {segment}; choose among {some}.")
    return segment or there[0]


def _files(path: Path, segment: str) -> dict[str, ParquetRows]:
    found = {name: path / name / f"{segment}.parquet" for name in names.REQUIRED + names.OPTIONAL}
    for name in names.REQUIRED:
        if not found[name].is_file():
            raise UserError(f"The component {name} of segment {segment} is missing: there is no {found[name]}; fetch it too.")
    return {name: ParquetRows(file) for name, file in found.items() if file.is_file()}


def _frames(file: ParquetRows, selection: Selection, where: str) -> Frames:
    columns = file.columns([names.TIME, names.VEHICLE_POSE])
    stamps, poses = columns.integers(names.TIME), columns.poses(names.VEHICLE_POSE)
    order = np.argsort(stamps, kind="stable")
    stamps, poses = stamps[order].tolist(), poses[order]
    chosen = chosen_frames(selection, stamps, f"{where} ({file.path})")
    for index in chosen:
        check_pose(poses[index], f"frame {index} in row {order[index]} of {file.path}")
    return Frames.of(stamps, chosen, poses[chosen])


def _cameras(file: ParquetRows) -> dict[str, tuple[RigCamera, int]]:
    """Cameras of the calibration in the usual order, with the direction of each one's shutter."""
    columns = file.columns([names.CAMERA, *(names.INTRINSIC + name for name in names.LENS), names.CAMERA_EXTRINSIC, names.WIDTH,
                            names.HEIGHT, names.DIRECTION])
    codes = columns.codes(names.CAMERA, names.CAMERAS)
    _refuse_twice(file, codes, lambda code: f"camera {code}")
    lenses, poses = columns.vectors(names.INTRINSIC, names.LENS), columns.poses(names.CAMERA_EXTRINSIC)
    sizes = np.stack([columns.integers(names.WIDTH), columns.integers(names.HEIGHT)], axis=1).tolist()
    directions = columns.integers(names.DIRECTION).tolist()
    found = {code: (rig_camera(code, lenses[row], poses[row], tuple(sizes[row]), directions[row],
                               f"camera {code} in {file.path}"), directions[row]) for row, code in enumerate(codes)}
    return {name: found[name] for name in names.CAMERAS if name in found}


def _photos(file: ParquetRows, cameras: dict[str, tuple[RigCamera, int]], frames: Frames, selection: Selection, where: str
            ) -> tuple[list[Photo], dict[tuple[str, int], int], list[str]]:
    """In order of cameras and time, the row of each, and what is odd."""
    columns = file.columns([
        names.TIME, names.CAMERA, names.IMAGE_POSE, names.IMAGE_TIME, names.EXPOSURE, names.TRIGGER, names.READ_OUT,
        *(names.LINEAR + axis for axis in "xyz"), *(names.ANGULAR + axis for axis in "xyz")])
    stamps, codes = columns.integers(names.TIME).tolist(), columns.codes(names.CAMERA, names.CAMERAS)
    _refuse_twice(file, list(zip(codes, stamps, strict=True)), lambda key: f"camera {key[0]} at {key[1]} µs")
    there = [name for name in cameras if name in codes]
    chosen = selection.camera_names(there, names.USUAL, f"{where} ({file.path})")
    poses, taken = columns.poses(names.IMAGE_POSE), columns.numbers(names.IMAGE_TIME)
    velocities = np.concatenate([columns.vectors(names.LINEAR, empty=True), columns.vectors(names.ANGULAR, empty=True)], axis=1)
    shutters = columns.vectors("", (names.EXPOSURE, names.TRIGGER, names.READ_OUT), empty=True)
    at = {stamp: frame for frame, stamp in enumerate(frames.stamps)}
    rows = {(code, at[stamp]): row for row, (code, stamp) in enumerate(zip(codes, stamps, strict=True))
            if stamp in at and code in chosen}
    found = []
    for code, frame in sorted(rows, key=lambda key: (chosen.index(key[0]), key[1])):
        row, (camera, direction) = rows[code, frame], cameras[code]
        found.append(photo(frames, camera, frame, taken[row], poses[row], velocities[row], shutters[row], direction, where))
    return found, rows, missing_photos(found, chosen, frames, where)


def _actors(file: ParquetRows | None, frames: Frames) -> tuple[list[Actor], list[str]]:
    """A track for each object id, and what is odd."""
    if file is None:
        return [], ["The component lidar_box is missing: there are no actors."]
    columns = file.columns([names.TIME, names.TRACK, names.BOX_KIND, names.BOX_HEADING,
                            *(prefix + axis for prefix in (names.BOX_CENTER, names.BOX_SIZE) for axis in "xyz")])
    stamps, tracks = columns.integers(names.TIME).tolist(), columns.texts(names.TRACK)
    _refuse_twice(file, list(zip(tracks, stamps, strict=True)), lambda key: f"track {key[0]} at {key[1]} µs")
    kinds = {number: kind for kind, number in names.KINDS.items()}
    codes = columns.integers(names.BOX_KIND).tolist()
    geometry = np.concatenate([columns.vectors(names.BOX_CENTER, empty=True), columns.vectors(names.BOX_SIZE, empty=True),
                               columns.numbers(names.BOX_HEADING, empty=True)[:, None]], axis=1)
    at, boxes = {stamp: frame for frame, stamp in enumerate(frames.stamps)}, Boxes(len(frames.chosen))
    for stamp, track, row in sorted(zip(stamps, tracks, range(len(tracks)), strict=True)):
        if stamp in at:
            add_box(boxes, frames, at[stamp], track, kinds.get(codes[row], "other"), geometry[row],
                    f"row {row} of {file.path}")
    return boxes.actors()


def _sweeps(files: dict[str, ParquetRows], frames: Frames) -> tuple[dict[str, LidarCalibration], list[list[_Sweep]], list[str]]:
    """Lidars in the usual order, the rows of each frame's range images, and what is odd."""
    missing = [name for name in ("lidar", "lidar_calibration") if name not in files]
    if missing:
        return {}, [[] for _ in frames.chosen], [f"The component {missing[0]} is missing: there are no lidar points."]
    notes = [] if "lidar_pose" in files else [
        "The component lidar_pose is missing: lidar points are placed as if the vehicle stood still while they were measured."]
    calibrations = _calibrations(files["lidar_calibration"])
    rows = _sweep_rows(files["lidar"])
    pose_rows = _sweep_rows(files["lidar_pose"]) if "lidar_pose" in files else {}
    unknown = {lidar for lidar, _ in rows} - set(calibrations)
    if unknown:
        raise UserError(f"Lidar {min(unknown)} of {files['lidar'].path} is not in {files['lidar_calibration'].path}; get the "
                        "files again.")
    lidars = {name: calibration for name, calibration in calibrations.items() if any(name == lidar for lidar, _ in rows)}
    posed = {lidar for lidar, _ in pose_rows}
    for number, stamp in zip(frames.chosen, frames.stamps, strict=True):
        lacking = [name for name in lidars if name in posed and (name, stamp) in rows and (name, stamp) not in pose_rows]
        if lacking:
            raise UserError(f"Lidar {lacking[0]} of frame {number} has no row in {files['lidar_pose'].path}, as it has in "
                            "other frames; get the file again, or choose other frames.")
    sweeps = [[_Sweep(name, rows[name, stamp], pose_rows.get((name, stamp))) for name in lidars if (name, stamp) in rows]
              for stamp in frames.stamps]
    empty = [number for number, found in zip(frames.chosen, sweeps, strict=True) if not found]
    if empty:
        notes.append(f"{len(empty)} of {len(sweeps)} frames have no lidar points (frame {empty[0]} is the first).")
    return lidars, sweeps, notes


def _calibrations(file: ParquetRows) -> dict[str, LidarCalibration]:
    columns = file.columns([names.LIDAR, names.LIDAR_EXTRINSIC,
                            *(names.INCLINATION + part for part in ("min", "max", "values"))])
    codes, poses = columns.codes(names.LIDAR, names.LIDARS), columns.poses(names.LIDAR_EXTRINSIC)
    _refuse_twice(file, codes, lambda code: f"lidar {code}")
    span, values = columns.vectors(names.INCLINATION, ("min", "max"), empty=True), columns.arrays(names.INCLINATION + "values")
    found = {code: LidarCalibration(check_pose(poses[row], f"lidar {code} in {file.path}"), *span[row].tolist(), values[row])
             for row, code in enumerate(codes)}
    return {name: found[name] for name in names.LIDARS if name in found}


def _sweep_rows(file: ParquetRows) -> dict[tuple[str, int], int]:
    columns = file.columns([names.TIME, names.LIDAR])
    keys = list(zip(columns.codes(names.LIDAR, names.LIDARS), columns.integers(names.TIME).tolist(), strict=True))
    _refuse_twice(file, keys, lambda key: f"lidar {key[0]} at {key[1]} µs")
    return {key: row for row, key in enumerate(keys)}


def _refuse_twice(file: ParquetRows, keys: list, said: Callable[[Any], str]) -> None:
    seen: dict = {}
    for row, key in enumerate(keys):
        if key in seen:
            raise UserError(f"Rows {seen[key]} and {row} of {file.path} are both of {said(key)}; get the file again.")
        seen[key] = row
