"""Logs of the Argoverse 2 sensor data set: plain tables in feather files, read with pyarrow.

Not through its kit (av2): its boxes have lost their track ids, its sweeps are read with their calibration each time, it has
no poses between those recorded, and it brings a second OpenCV along; tests hold this reader against it where it is installed.
Pictures come undistorted (k1, k2, k3 of the calibration are of the lenses, not of the pictures) and were exposed all lines
at once; points of a sweep were moved to its time as the vehicle moved, into its frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.drives.assembly import Boxes, content_key, gap_notes, photos_for_frames, read_picture
from chopgrad_ns.data.drives.drive import Drive, Photo, Points, Pose, RigCamera, Selection, in_first_frame
from chopgrad_ns.data.drives.motion import Motion, pose_of
from chopgrad_ns.errors import UserError

USUAL = ("ring_front_left", "ring_front_right")
"""The one between them takes upright pictures."""
LIDARS = ["up_lidar", "down_lidar"]
BEAMS = 32
"""Of each lidar; the beams of the second are numbered on from those of the first."""
LONGEST = 0.5
"""Seconds between two poses of the vehicle (it has 150 a second) between which it is not known where it was."""
POSE = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
SIZE = ("length_m", "width_m", "height_m")
KINDS = {
    "cyclist": "BICYCLE BICYCLIST MOTORCYCLE MOTORCYCLIST WHEELED_RIDER",
    "pedestrian": "OFFICIAL_SIGNALER PEDESTRIAN STROLLER WHEELCHAIR",
    "sign": "MOBILE_PEDESTRIAN_CROSSING_SIGN MOBILE_PEDESTRIAN_SIGN SIGN STOP_SIGN",
    "vehicle": "ARTICULATED_BUS BOX_TRUCK BUS LARGE_VEHICLE MESSAGE_BOARD_TRAILER RAILED_VEHICLE REGULAR_VEHICLE SCHOOL_BUS "
               "TRAFFIC_LIGHT_TRAILER TRUCK TRUCK_CAB VEHICULAR_TRAILER",
}
KIND_OF = {category: kind for kind, categories in KINDS.items() for category in categories.split()}


def read_argoverse(path: Path, selection: Selection = Selection()) -> Drive:
    """A log of Argoverse 2.

    Frames are the sweeps of the lidars, 10 a second; of each camera's pictures, 20 a second, the one nearest in time to each
    frame is taken. Points have intensity 0…255.

    Args:
        path: The log's folder, which holds `calibration`, `sensors` and `city_SE3_egovehicle.feather`; without
            `annotations.feather`, as those for testing are, nothing in it moves.

    Raises:
        UserError: A table, a picture or a camera is missing or damaged; the vehicle's pose is not known at some time.
    """
    path = Path(path)
    _check_layout(path)
    intrinsics, extrinsics = (path / "calibration" / f"{name}.feather" for name in ("intrinsics", "egovehicle_SE3_sensor"))
    track, annotated = path / "city_SE3_egovehicle.feather", path / "annotations.feather"
    stamps, sweeps = _stamped(path / "sensors" / "lidar", ".feather")
    start, all_times = stamps[0], (stamps - stamps[0]) / 1e9
    chosen = selection.frames(len(stamps), str(path))
    sweeps, times = [sweeps[frame] for frame in chosen], all_times[chosen]
    rows = _poses(track, "timestamp_ns")
    motion = Motion.through((np.array(list(rows), np.int64) - start) / 1e9, list(rows.values()))
    _check_known(motion, times, track)
    source_from_world, world_from_source = in_first_frame(motion.at(times[:1]))
    world_from_vehicle = world_from_source @ motion.at(times)
    there = _cameras(intrinsics, extrinsics)
    cameras = {name: there[name] for name in selection.camera_names(list(there), USUAL, str(path))}
    photos, pictures = [], {}
    for name in cameras:
        taken, files = _stamped(path / "sensors" / "cameras" / name, ".jpg")
        for photo, index in photos_for_frames(name, (taken - start) / 1e9, motion, all_times, chosen, world_from_source,
                                              path.name):
            photos.append(photo)
            pictures[name, photo.frame] = files[index]
    _check_known(motion, np.array([photo.time for photo in photos]), track)
    read = [intrinsics, extrinsics, track, *sweeps, *pictures.values()]
    actors, notes = [], [f"The log has no {annotated.name}, as those for testing: nothing in it moves."]
    if annotated.is_file():
        actors, notes = _actors(annotated, dict(zip(stamps[chosen].tolist(), range(len(chosen)))), world_from_vehicle)
        read.append(annotated)
    return Drive(path.name, times, world_from_vehicle, source_from_world, cameras, photos, LIDARS, actors,
                 _Files(pictures, cameras, sweeps, world_from_vehicle), content_key(read, "argoverse", selection),
                 notes=gap_notes(all_times, chosen) + notes)


@dataclass(frozen=True)
class _Files:
    pictures: dict[tuple[str, int], Path]
    cameras: dict[str, RigCamera]
    sweeps: list[Path]
    world_from_vehicle: Float[np.ndarray, "t 4 4"]

    def picture(self, photo: Photo) -> bytes:
        return read_picture(self.pictures[photo.camera, photo.frame], self.cameras[photo.camera], photo.name)

    def points(self, frame: int) -> Points:
        table, pose = _table(self.sweeps[frame], ("x", "y", "z", "intensity", "laser_number")), self.world_from_vehicle[frame]
        xyz = np.stack([table[axis] for axis in "xyz"], axis=1) @ pose[:3, :3].T + pose[:3, 3]
        return Points(xyz.astype(np.float32), table["intensity"].astype(np.float32), np.ones(len(xyz), np.uint8),
                      (table["laser_number"] >= BEAMS).astype(np.uint8))


def _actors(path: Path, frames: dict[int, int], world_from_vehicle: Float[np.ndarray, "t 4 4"]
            ) -> tuple[list[Actor], list[str]]:
    """`frames`: which of the frames chosen each time in nanoseconds is."""
    table = _table(path, POSE + SIZE, texts=("track_uuid", "category"), stamps=("timestamp_ns",))
    boxes = Boxes(len(world_from_vehicle))
    for row, stamp in enumerate(table["timestamp_ns"].tolist()):
        if stamp in frames:
            frame, track = frames[stamp], table["track_uuid"][row]
            pose = world_from_vehicle[frame] @ _pose(table, row, f"track {track} at {stamp} in {path}")
            boxes.add(track, KIND_OF.get(table["category"][row], "other"), frame, pose, [table[name][row] for name in SIZE])
    return boxes.actors()


def _cameras(intrinsics: Path, extrinsics: Path) -> dict[str, RigCamera]:
    numbers = ("fx_px", "fy_px", "cx_px", "cy_px", "width_px", "height_px")
    table = _table(intrinsics, numbers, texts=("sensor_name",))
    poses = _poses(extrinsics, "sensor_name")
    cameras = {}
    for name, fx, fy, cx, cy, width, height in zip(table["sensor_name"], *(table[number] for number in numbers)):
        if name not in poses or min(fx, fy, width, height) <= 0:
            raise UserError(f"The camera {name} has no pose in {extrinsics} or no size or focal length in {intrinsics}; fetch "
                            "the log again.")
        K = np.array([[fx, 0, cx + 0.5], [0, fy, cy + 0.5], [0, 0, 1]])  # the kit's pixels have whole numbers as centres
        cameras[name] = RigCamera(name, int(width), int(height), K, np.zeros(5), poses[name])
    return cameras


def _poses(path: Path, key: str) -> dict[str | int, Pose]:
    """A table's poses by the names or times in one column."""
    timed = key == "timestamp_ns"
    table = _table(path, POSE, texts=() if timed else (key,), stamps=(key,) if timed else ())
    if not len(table[key]):
        raise UserError(f"{path} has no rows; fetch the log again.")
    keys = table[key].tolist() if timed else table[key]
    return {name: _pose(table, row, f"{name} in {path}") for row, name in enumerate(keys)}


def _pose(table: dict[str, np.ndarray], row: int, what: str) -> Pose:
    values = np.array([table[name][row] for name in POSE])
    return pose_of(values[:4], values[4:], what)


def _check_known(motion: Motion, times: Float[np.ndarray, "n"], path: Path) -> None:
    unknown = times[~motion.known(times, LONGEST)]
    if len(unknown):
        raise UserError(f"{path} does not say where the vehicle was at {unknown[0]:.2f} s; fetch the log again, or choose "
                        "other frames.")


def _check_layout(path: Path) -> None:
    logs = sorted(folder.parent.name for folder in path.glob("*/city_SE3_egovehicle.feather"))
    if logs:
        raise UserError(f"{path} holds {len(logs)} logs of Argoverse 2; give the folder of one, {path / logs[0]} for instance.")
    needed = ("city_SE3_egovehicle.feather", "calibration/intrinsics.feather", "calibration/egovehicle_SE3_sensor.feather",
              "sensors/lidar", "sensors/cameras")
    missing = [name for name in needed if not (path / name).exists()]
    if missing:
        raise UserError(f"{path} is no whole log of Argoverse 2's sensor data set, for it lacks {', '.join(missing)}; fetch "
                        "the log again.")


def _stamped(folder: Path, ending: str) -> tuple[Int64[np.ndarray, "n"], list[Path]]:
    """Times in nanoseconds and files that are named by them, in order of time."""
    files = sorted((int(file.stem), file) for file in folder.glob(f"*{ending}") if file.stem.isdecimal())
    if not files:
        raise UserError(f"{folder} has no files TIME{ending}, named by nanoseconds; fetch the log again.")
    return np.array([stamp for stamp, _ in files], np.int64), [file for _, file in files]


def _table(path: Path, numbers: tuple[str, ...], texts: tuple[str, ...] = (), stamps: tuple[str, ...] = ()
           ) -> dict[str, np.ndarray | list[str]]:
    """Columns of a feather file: numbers as float64, texts as lists, times as int64. Raises UserError with place and
    remedy for what cannot be read, for columns that are missing or of another type, and for numbers that are none.
    """
    import pyarrow
    from pyarrow import feather

    try:
        table = feather.read_table(path, columns=[*numbers, *texts, *stamps], memory_map=False)
        table.validate(full=True)  # offsets that point out of the file are trusted else
        empty = next((name for name in table.column_names if table.column(name).null_count), None)
        if empty is not None:
            raise ValueError(f"{empty} is empty in some rows")
        columns: dict[str, np.ndarray | list[str]] = {
            name: table.column(name).to_numpy().astype(np.float64) for name in numbers}
        columns |= {name: [str(text) for text in table.column(name).to_pylist()] for name in texts}
        columns |= {name: table.column(name).cast(pyarrow.int64()).to_numpy() for name in stamps}
    except (pyarrow.ArrowException, OSError, MemoryError, ValueError, TypeError, KeyError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"The table {path} cannot be read ({problem}); fetch the log again.") from error
    bad = next((name for name in numbers if not np.isfinite(columns[name]).all()), None)
    if bad is not None:
        row = int((~np.isfinite(columns[bad])).argmax())
        raise UserError(f"{bad} in row {row} of the table {path} is not a finite number; fetch the log again.")
    return columns
