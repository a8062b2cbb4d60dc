"""KITTI odometry: rectified pictures, velodyne scans and poses of 22 sequences; no actors.

The vehicle's frame is the velodyne's (x forward, y left, z up). Poses are of camera 0 in its first frame's; the columns
P0…P3 of calib.txt project from camera 0's frame, `Tr` leads there from the velodyne's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from chopgrad_ns.data.drives.assembly import content_key, gap_notes, missing_files
from chopgrad_ns.data.drives.drive import (
    Drive,
    Photo,
    Points,
    Pose,
    RigCamera,
    Selection,
    in_first_frame,
    inverse,
    moved,
)
from chopgrad_ns.data.drives.motion import Motion
from chopgrad_ns.data.drives.recorded import check_order, read_bytes
from chopgrad_ns.data.pictures import open_picture
from chopgrad_ns.errors import UserError

CAMERAS = ("image_2", "image_3", "image_0", "image_1")
"""Colour left and right, grey left and right; the number is that of the matrix in calib.txt."""
USUAL = CAMERAS[:2]
CAMERA_FROM_VEHICLE = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""Camera 0 from the vehicle where calib.txt has no `Tr`: the same place, other axes."""
AGAIN = "get the sequence again"


def read_kitti(path: Path, selection: Selection = Selection(), sequence: str | None = None) -> Drive:
    """A sequence of the KITTI odometry dataset.

    Args:
        path: the dataset's folder (`sequences/NN`, `poses/NN.txt`), or one sequence's in it.
        sequence: NN, where the dataset has several.

    Raises UserError for what is damaged, missing, or no KITTI odometry.
    """
    folder = _folder(Path(path), sequence)
    calibration = _calibration(folder / "calib.txt")
    poses_file = folder.parents[1] / "poses" / f"{folder.name}.txt"
    poses, times = _table(poses_file, 12, "poses"), _table(folder / "times.txt", 1, "times")[:, 0]
    if len(poses) != len(times):
        raise UserError(f"{poses_file} has {len(poses)} lines and {folder / 'times.txt'} {len(times)}; {AGAIN}.")
    check_order(times, str(folder))
    frames = selection.frames(len(times), str(folder))
    there = [name for name in CAMERAS if (folder / name).is_dir()]
    if not there:
        raise UserError(f"{folder} has none of {', '.join(CAMERAS)}; {AGAIN}.")
    names = selection.camera_names(there, USUAL, str(folder))
    camera0_from_vehicle = calibration.get("Tr", CAMERA_FROM_VEHICLE)
    cameras = {name: _camera(folder / name, calibration, camera0_from_vehicle, frames[0]) for name in names}
    world_from_vehicle = np.tile(np.eye(4), (len(poses), 1, 1))
    world_from_vehicle[:, :3] = poses.reshape(-1, 3, 4)
    world_from_vehicle = _checked(world_from_vehicle, poses_file) @ camera0_from_vehicle
    source_from_world, world_from_source = in_first_frame(world_from_vehicle[frames])
    times = times - times[0]
    motion = Motion(times, world_from_vehicle)
    photos = [moved(Photo(name, index, float(times[frame]), world_from_vehicle[frame], f"{frame:06} of {folder / name}",
                          *motion.velocities(times[frame])), world_from_source)
              for name in names for index, frame in enumerate(frames)]
    scanned = "Tr" in calibration and (folder / "velodyne").is_dir()
    scans = {index: folder / "velodyne" / f"{frame:06}.bin" for index, frame in enumerate(frames)} if scanned else {}
    source = _Files({(photo.camera, photo.frame): _picture(folder / photo.camera, frames[photo.frame]) for photo in photos},
                    scans, world_from_source @ world_from_vehicle[frames])
    missing_files([*source.pictures.values(), *scans.values()], f"{AGAIN}, or choose other frames or cameras")
    notes = gap_notes(times, frames) + ([] if scans else ["There are no velodyne scans."])
    key = content_key([folder / "calib.txt", folder / "times.txt", poses_file, *source.pictures.values(), *scans.values()],
                      "kitti", selection, names)
    return Drive(folder.name, times[frames], source.world_from_vehicle, source_from_world, cameras, photos,
                 ["velodyne"] if scans else [], [], source, key, notes=notes)


@dataclass(frozen=True)
class _Files:
    """`Source` of a sequence."""

    pictures: dict[tuple[str, int], Path]
    scans: dict[int, Path]
    world_from_vehicle: Float[np.ndarray, "t 4 4"] = field(repr=False)

    def picture(self, photo: Photo) -> bytes:
        return read_bytes(self.pictures[photo.camera, photo.frame], "picture")

    def points(self, frame: int) -> Points:
        if frame not in self.scans:
            return Points.cat([])
        content = read_bytes(self.scans[frame], "scan")
        if len(content) % 16:
            raise UserError(f"The scan {self.scans[frame]} ends within a point; {AGAIN}.")
        values = np.frombuffer(content, "<f4").reshape(-1, 4)
        values = values[np.isfinite(values).all(axis=1)].astype(np.float64)
        pose, count = self.world_from_vehicle[frame], len(values)
        xyz = values[:, :3] @ pose[:3, :3].T + pose[:3, 3]
        return Points(xyz.astype(np.float32), values[:, 3].astype(np.float32), np.ones(count, np.uint8),
                      np.zeros(count, np.uint8))


def _folder(path: Path, sequence: str | None) -> Path:
    if not (path / "sequences").is_dir() and not (path / "calib.txt").is_file():
        raise UserError(f"{path} is no KITTI odometry dataset; give the folder that has sequences/ and poses/ in it.")
    if (path / "calib.txt").is_file():
        path = path.resolve()
        sequence, path = path.name, path.parents[1]
    there = sorted(folder.name for folder in (path / "sequences").iterdir() if (folder / "calib.txt").is_file())
    if sequence is None and len(there) != 1:
        raise UserError(f"{path} has {len(there)} sequences; choose one with sequence: {', '.join(there[:12])}.")
    if sequence is not None and sequence not in there:
        raise UserError(f"{path} has no sequence {sequence}; choose among {', '.join(there[:12])}.")
    return path / "sequences" / (sequence or there[0])


def _calibration(file: Path) -> dict[str, np.ndarray]:
    """P0…P3 [3, 4], and Tr [4, 4], camera 0 from the velodyne."""
    found = {}
    for line in read_bytes(file, "calibration").decode(errors="replace").splitlines():
        name, _, numbers = line.partition(":")
        try:
            values = np.array(numbers.split(), np.float64)
        except ValueError as error:
            raise UserError(f"The line {name} of {file} holds no numbers; {AGAIN}.") from error
        if len(values) == 12:
            found[name.strip()] = values.reshape(3, 4)
    if "Tr" in found:
        found["Tr"] = _checked(np.concatenate([found["Tr"], [[0, 0, 0, 1]]])[None], file)[0]
    return found


def _table(file: Path, columns: int, what: str) -> Float[np.ndarray, "n c"]:
    lines = read_bytes(file, f"list of {what}").decode(errors="replace").split("\n")
    rows = [line.split() for line in lines if line.strip()]
    try:
        values = np.array(rows, np.float64)
    except ValueError as error:
        raise UserError(f"{file} is not a table of numbers of {columns} columns; {AGAIN}.") from error
    if values.ndim != 2 or values.shape[1] != columns or not np.isfinite(values).all():
        raise UserError(f"{file} is not a table of {columns} numbers a line; {AGAIN}.")
    return values


def _checked(poses: Float[np.ndarray, "n 4 4"], file: Path) -> Float[np.ndarray, "n 4 4"]:
    rotation = poses[:, :3, :3]
    good = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2)) < 1e-3
    good &= np.linalg.det(rotation) > 0
    if not good.all():
        raise UserError(f"Pose {int(np.argmin(good))} of {file} is not a rigid motion; {AGAIN}.")
    return poses


def _camera(folder: Path, calibration: dict[str, np.ndarray], camera0_from_vehicle: Pose, frame: int) -> RigCamera:
    """Rectified: P = K [1 | t], where t leads from camera 0's place; pixel centres are whole numbers in KITTI."""
    name = f"P{folder.name[-1]}"
    P = calibration.get(name, np.zeros((3, 4)))
    if not np.isfinite(P).all() or not (np.diag(P) > 0).all() or np.tril(P[:, :3], -1).any():
        raise UserError(f"{folder.parent / 'calib.txt'} has no proper matrix {name}; {AGAIN}.")
    camera_from_camera0 = np.eye(4)
    camera_from_camera0[:3, 3] = np.linalg.solve(P[:, :3], P[:, 3])
    K = P[:, :3] + [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    file = _picture(folder, frame)
    with open_picture(file, f"picture {file}", AGAIN) as picture:
        width, height = picture.size
    return RigCamera(folder.name, width, height, K, np.zeros(5), inverse(camera_from_camera0 @ camera0_from_vehicle))


def _picture(folder: Path, frame: int) -> Path:
    return next((file for file in (folder / f"{frame:06}.png", folder / f"{frame:06}.jpg") if file.is_file()),
                folder / f"{frame:06}.png")
