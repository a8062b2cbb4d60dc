"""nuScenes, read through its own kit (nuscenes-devkit), which is optional.

Pictures come undistorted and were exposed all lines at once; points of a sweep were moved to its time as the car moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.drives.assembly import (
    Boxes, content_key, gap_notes, missing_files, photos_for_frames, read_picture)
from chopgrad_ns.data.drives.drive import Drive, Photo, Points, Pose, RigCamera, Selection, in_first_frame
from chopgrad_ns.data.drives.motion import Motion, pose_of
from chopgrad_ns.errors import UserError

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

TABLES = ("attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample", "sample_annotation",
          "sample_data", "scene", "sensor", "visibility")
LIDAR = "LIDAR_TOP"
USUAL = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT")
BRIDGED = 0.9
"""Seconds between two keyframes, 0.5 apart by design, between which boxes are interpolated."""
CYCLES = ("vehicle.bicycle", "vehicle.motorcycle")


def read_nuscenes(path: Path, selection: Selection = Selection(), version: str | None = None, scene: str | None = None,
                  sweeps: bool = False) -> Drive:
    """A scene of nuScenes.

    Frames are the keyframes, 2 a second, at the lidar's times; with `sweeps`, all turns of the lidar, 20 a second, with
    boxes interpolated between the keyframes in which they were annotated, and with the pictures in between, 12 a second.
    Each picture belongs to the frame nearest in time. Points are those of the lidar on the roof, intensity 0…255.

    Args:
        path: The data set's folder, which holds `samples`, `sweeps`, `maps` and a folder of tables for each version.
        version: That folder's name, "v1.0-mini" for instance; may be left out where there is only one.
        scene: A scene's name or token; may be left out where there is only one.

    Raises:
        UserError: The kit is not installed; tables, pictures or the scene are missing or damaged.
    """
    path = Path(path)
    version = _version(path, version)
    tables = [path / version / f"{name}.json" for name in TABLES]
    missing = [table.name for table in tables if not table.is_file()]
    if missing:
        raise UserError(f"{path / version} lacks the table {missing[0]} of nuScenes"
                        f"{f' and {len(missing) - 1} more' if missing[1:] else ''}; fetch its metadata again.")
    with _whole_tables(path / version):
        kit = _kit(str(path), version, content_key(tables))
        return _read(kit, tables, _scene(kit, scene, path / version), selection, sweeps)


def _read(kit: NuScenes, tables: list[Path], scene: dict, selection: Selection, sweeps: bool) -> Drive:
    where = f"{scene['name']} of {kit.version}"
    samples = {sample["token"]: sample for sample in kit.sample if sample["scene_token"] == scene["token"]}
    channels: dict[str, list[dict]] = {}
    for record in sorted((record for record in kit.sample_data if record["sample_token"] in samples),
                         key=lambda record: record["timestamp"]):
        channels.setdefault(record["channel"], []).append(record)
    turns = [record for record in channels.get(LIDAR, []) if sweeps or record["is_key_frame"]]
    if not turns:
        raise UserError(f"{where} has no {LIDAR}, whose turns are the frames; fetch the tables again.")
    start = turns[0]["timestamp"]
    all_times = np.array([_seconds(record, start) for record in turns])
    chosen = selection.frames(len(turns), where)
    turns, times = [turns[frame] for frame in chosen], all_times[chosen]
    poses = np.stack([_vehicle(kit, record) for record in turns])
    source_from_world, world_from_source = in_first_frame(poses)
    there = [name for name in sorted(channels) if name.startswith("CAM_")]
    cameras, photos, pictures = {}, [], {}
    for name in selection.camera_names(there, USUAL, where):
        cameras[name] = _camera(kit, name, channels[name][0])
        motion = Motion.through([_seconds(record, start) for record in channels[name]],
                                [_vehicle(kit, record) for record in channels[name]])
        records = [record for record in channels[name] if sweeps or record["is_key_frame"]]
        taken = np.array([_seconds(record, start) for record in records])
        for photo, index in photos_for_frames(name, taken, motion, all_times, chosen, world_from_source, where):
            photos.append(photo)
            pictures[name, photo.frame] = Path(kit.dataroot, records[index]["filename"])
    lidars = [(Path(kit.dataroot, record["filename"]), world_from_source @ _vehicle(kit, record) @ _sensor(kit, record))
              for record in turns]
    files = [*pictures.values(), *(file for file, _ in lidars)]
    missing_files(files, "fetch the scene's part of nuScenes" + (", sweeps too" if sweeps else ""))
    actors, notes = _actors(kit, samples, times, start, world_from_source)
    return Drive(scene["name"], times, world_from_source @ poses, source_from_world, cameras, photos, [LIDAR], actors,
                 _Files(pictures, cameras, lidars),
                 content_key([*tables, *files], "nuscenes", selection, scene["token"], sweeps),
                 notes=gap_notes(all_times, chosen) + notes)


@dataclass(frozen=True)
class _Files:
    pictures: dict[tuple[str, int], Path]
    cameras: dict[str, RigCamera]
    turns: list[tuple[Path, Pose]]

    def picture(self, photo: Photo) -> bytes:
        return read_picture(self.pictures[photo.camera, photo.frame], self.cameras[photo.camera], photo.name)

    def points(self, frame: int) -> Points:
        from nuscenes.utils.data_classes import LidarPointCloud

        path, world_from_lidar = self.turns[frame]
        try:
            points = LidarPointCloud.from_file(str(path)).points.T
        except (AssertionError, OSError, ValueError) as error:
            raise UserError(f"The points in {path} cannot be read ({error}); fetch that file again.") from error
        if not np.isfinite(points).all():
            raise UserError(f"The points in {path} are not all finite numbers; fetch that file again.")
        xyz = points[:, :3].astype(np.float64) @ world_from_lidar[:3, :3].T + world_from_lidar[:3, 3]
        return Points(xyz.astype(np.float32), points[:, 3].astype(np.float32), np.ones(len(xyz), np.uint8),
                      np.zeros(len(xyz), np.uint8))


def _actors(kit: NuScenes, samples: dict[str, dict], times: np.ndarray, start: int, world_from_source: Pose
            ) -> tuple[list[Actor], list[str]]:
    """Boxes at the frames' times: as annotated in keyframes, in between where the keyframes on both sides have them.

    The kit's own `get_boxes` puts what was annotated only after a sweep where it will be by then, which is wrong.
    """
    annotated: dict[str, list[tuple[float, Pose, dict]]] = {}
    for sample in samples.values():
        for annotation in (kit.get("sample_annotation", token) for token in sample["anns"]):
            pose = pose_of(annotation["rotation"], annotation["translation"], f"the annotation {annotation['token']}")
            annotated.setdefault(annotation["instance_token"], []).append(
                (_seconds(sample, start), world_from_source @ pose, annotation))
    boxes = Boxes(len(times))
    for track, rows in annotated.items():
        at = np.array([row[0] for row in rows])
        motion = Motion.through(at, [row[1] for row in rows])
        poses = motion.at(times)
        for frame in motion.known(times, BRIDGED).nonzero()[0]:
            annotation = rows[np.abs(at - times[frame]).argmin()][2]
            width, length, height = annotation["size"]
            boxes.add(track, _kind(annotation["category_name"]), int(frame), poses[frame], (length, width, height))
    actors, notes = boxes.actors()
    return actors, notes if annotated else ["The scene has no annotations, as those for testing: nothing in it moves."]


def _kind(category: str) -> str:
    if category.startswith("vehicle."):
        return "cyclist" if category in CYCLES else "vehicle"
    return "pedestrian" if category.startswith("human.") else "other"


def _camera(kit: NuScenes, name: str, record: dict) -> RigCamera:
    K = np.asarray(kit.get("calibrated_sensor", record["calibrated_sensor_token"])["camera_intrinsic"], np.float64)
    if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise UserError(f"The camera {name} of {kit.version} has no camera_intrinsic; fetch its calibrated_sensor.json again.")
    K = K + [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]  # the kit draws on pixels whose centres are whole numbers
    return RigCamera(name, int(record["width"]), int(record["height"]), K, np.zeros(5), _sensor(kit, record))


def _sensor(kit: NuScenes, record: dict) -> Pose:
    """vehicle_from_sensor"""
    row = kit.get("calibrated_sensor", record["calibrated_sensor_token"])
    return pose_of(row["rotation"], row["translation"], f"the sensor {record['channel']} in calibrated_sensor.json")


def _vehicle(kit: NuScenes, record: dict) -> Pose:
    """The vehicle's pose in the map, at a record's own time."""
    row = kit.get("ego_pose", record["ego_pose_token"])
    return pose_of(row["rotation"], row["translation"], f"the vehicle at {record['filename']}")


def _seconds(record: dict, start: int) -> float:
    return (record["timestamp"] - start) / 1e6


def _version(path: Path, version: str | None) -> str:
    there = sorted(folder.parent.name for folder in path.glob("*/sample_data.json"))
    if version is None and len(there) != 1:
        raise UserError(f"{path} has the versions {', '.join(there)}; choose one." if there else
                        f"{path} holds no tables of nuScenes (v1.0-mini/sample_data.json, for instance); give the folder that "
                        "has samples, maps and the tables' folder in it.")
    if version is not None and not (path / version).is_dir():
        raise UserError(f"{path} has no version {version} of nuScenes; {f'choose among {there}' if there else 'fetch it'}.")
    return version or there[0]


def _scene(kit: NuScenes, wanted: str | None, where: Path) -> dict:
    names = [scene["name"] for scene in kit.scene]
    found = [scene for scene in kit.scene if wanted in (None, scene["name"], scene["token"])]
    if len(found) != 1:
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise UserError(f"{where} has {'no scene ' + wanted if wanted else f'{len(names)} scenes'}; choose one of {listed}.")
    return found[0]


@lru_cache(maxsize=1)
def _kit(path: str, version: str, key: str) -> NuScenes:
    """The tables, loaded once: those of v1.0-trainval take a minute and gigabytes. `key` tells when they have changed."""
    from PIL import Image

    largest = Image.MAX_IMAGE_PIXELS
    try:
        from nuscenes.nuscenes import NuScenes
    except ImportError as error:
        raise UserError(f"nuScenes is read with its kit, which cannot be imported ({error}); install it with "
                        "pip install nuscenes-devkit.") from error
    finally:
        Image.MAX_IMAGE_PIXELS = largest  # the kit lifts Pillow's guard against bombs for the whole process
    try:
        return NuScenes(version, path, verbose=False)
    except Exception as error:  # it asserts, and raises Exception itself
        problem = " ".join(str(error).split()) if not isinstance(error, KeyError) else f"no row {error}"
        raise UserError(f"The kit cannot load the tables in {path}/{version} ({problem}); fetch its metadata and maps "
                        "again.") from error


@contextmanager
def _whole_tables(where: Path) -> Iterator[None]:
    """What rows lack, or what is of another type in them, is the tables' fault."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"The tables in {where} do not belong together or lack something ({type(error).__name__}: {error}); "
                        "fetch nuScenes' metadata again.") from error
