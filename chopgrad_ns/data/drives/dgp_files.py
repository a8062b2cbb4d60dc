"""Files of DGP scenes, checked as they are read: JSON of scenes, calibrations and boxes, and point clouds."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from chopgrad_ns.data.drives.drive import Pose
from chopgrad_ns.data.drives.motion import pose_of
from chopgrad_ns.data.drives.recorded import LARGEST, read_bytes, read_json
from chopgrad_ns.errors import UserError

BOXES_3D = "1"
"""Number of 3D boxes among DGP's types of annotation."""
AGAIN = "get the recording again"


@dataclass(frozen=True)
class Datum:
    """One measurement of one sensor."""

    sensor: str
    time: float
    world_from_sensor: Pose
    content: dict
    where: str

    @property
    def boxes(self) -> str | None:
        """The file of its 3D boxes, as the scene names it."""
        return self.content.get("annotations", {}).get(BOXES_3D)


@dataclass(frozen=True)
class Sample:
    """What the sensors measured at about one time."""

    name: str
    calibration: str
    images: dict[str, Datum]
    clouds: dict[str, Datum]

    @property
    def first(self) -> Datum:
        """What tells the frame's time and the vehicle's pose: a lidar's measurement, or else a picture."""
        return next(iter([*self.clouds.values(), *self.images.values()]))

    @property
    def time(self) -> float:
        """Seconds since 1970."""
        return self.first.time


def is_dgp(path: Path) -> bool:
    """Whether a path looks like a DGP dataset or scene."""
    path = Path(path)
    if path.is_dir():
        return any(path.glob("scene*.json"))
    return path.name.startswith("scene") and path.suffix == ".json"


def scene_file(path: Path, scene: str | None) -> Path:
    """The JSON of the scene that is meant. Raises UserError where there is none, or it is not clear which."""
    if not is_dgp(path):
        raise UserError(f"{path} is no DGP dataset or scene; give a folder with scene_dataset_*.json or scene_*.json.")
    datasets = sorted(path.glob("scene_dataset*.json")) if path.is_dir() else [path] if "scene_dataset" in path.name else []
    if datasets:
        splits = read_json(datasets[-1], "dataset").get("scene_splits", {})
        try:
            listed = [datasets[-1].parent / name for split in splits.values() for name in split.get("filenames", [])]
        except (AttributeError, TypeError) as error:
            raise UserError(f"{datasets[-1]} does not list its scenes by split; {AGAIN}.") from error
    else:
        listed = sorted(path.glob("scene_*.json")) if path.is_dir() else [path]
    named = {file.parent.name: file for file in listed}
    if scene is None and len(named) != 1:
        raise UserError(f"{path} has {len(named)} scenes; choose one with scene: {', '.join(list(named)[:8])}.")
    if scene is not None and scene not in named:
        raise UserError(f"{path} has no scene {scene}; choose among {', '.join(list(named)[:8])}.")
    return named[scene] if scene is not None else next(iter(named.values()))


def read_samples(file: Path) -> list[Sample]:
    """The scene's samples in the order that it lists them in."""
    content = read_json(file, "scene")
    try:
        data = {item["key"]: item for item in content["data"]}
        listed = [_sample(sample, data, f"sample {index} of {file}") for index, sample in enumerate(content["samples"])]
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not a DGP scene (wrong or missing: {error}); {AGAIN}.") from error
    if not listed:
        raise UserError(f"{file} has no samples; take another scene.")
    return listed


def _sample(item: dict, data: dict, where: str) -> Sample:
    images, clouds = {}, {}
    for key in item["datum_keys"]:
        datum = data[key]
        for kind, found in (("image", images), ("point_cloud", clouds)):
            if kind in datum["datum"]:
                name, content = datum["id"]["name"], datum["datum"][kind]
                place = f"{name} in {where}"
                if not isinstance(content.get("annotations", {}), dict) or not isinstance(name, str):
                    raise TypeError(f"name or annotations of {place}")
                found[name] = Datum(name, _seconds(datum["id"]["timestamp"]), _pose(content["pose"], place), content, place)
    if not images and not clouds:
        raise UserError(f"{where[0].upper()}{where[1:]} has neither a picture nor a point cloud; choose other frames.")
    if not isinstance(item["calibration_key"], str):
        raise TypeError(f"calibration_key of {where}")
    return Sample(where, item["calibration_key"], images, clouds)


def _seconds(stamp: str) -> float:
    """Since 1970, from ISO 8601 in UTC with up to nine digits of a second."""
    whole, fraction = re.fullmatch(r"([\d-]+T[\d:]+)(\.\d+)?Z", stamp).groups()
    return datetime.fromisoformat(whole).replace(tzinfo=timezone.utc).timestamp() + float(fraction or 0)


def _pose(item: dict, where: str) -> Pose:
    quaternion = [item["rotation"].get(axis, 0.0) for axis in ("qw", "qx", "qy", "qz")]
    return pose_of(quaternion, [item["translation"].get(axis, 0.0) for axis in "xyz"], where)


def read_calibration(folder: Path, key: str) -> tuple[dict[str, Pose], dict[str, dict]]:
    """vehicle_from_sensor and intrinsics of all sensors."""
    file = folder / "calibration" / f"{key}.json"
    content = read_json(file, "calibration")
    try:
        names = content["names"]
        poses = {name: _pose(item, f"{name} in {file}") for name, item in zip(names, content["extrinsics"], strict=True)}
        numbers = [{key: float(value) for key, value in item.items()} for item in content["intrinsics"]]
        return poses, dict(zip(names, numbers, strict=True))
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not a DGP calibration (wrong or missing: {error}); {AGAIN}.") from error


def read_boxes(file: Path, kinds: dict[int, str]) -> list[tuple[str, str, np.ndarray, Pose]]:
    """Instance, kind, length, width and height, and sensor_from_box of each."""
    content, boxes = read_json(file, "list of boxes"), []
    try:
        for index, item in enumerate(content["annotations"]):
            where, box = f"box {index} of {file}", item["box"]
            size = np.array([box[side] for side in ("length", "width", "height")], np.float64)
            boxes.append((str(item["instance_id"]), kinds.get(item.get("class_id", 0), "other"), size,
                          _pose(box["pose"], where)))
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not a list of 3D boxes (wrong or missing: {error}); {AGAIN}.") from error
    return boxes


def read_kinds(file: Path) -> dict[int, str]:
    """Kinds of actors by the numbers of the classes of the scene's 3D boxes."""
    keys = read_json(file, "scene").get("ontologies")
    key = keys.get(BOXES_3D) if isinstance(keys, dict) else None
    if key is None:
        return {}
    ontology = file.parent / "ontology" / f"{key}.json"
    try:
        return {item.get("id", 0): kind_of(item["name"]) for item in read_json(ontology, "ontology")["items"]}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{ontology} is not a DGP ontology (wrong or missing: {error}); {AGAIN}.") from error


def kind_of(name: str) -> str:
    """vehicle, pedestrian, cyclist, sign or other, by the words in a class's name."""
    words = name.lower()
    for kind, known in (("cyclist", ("bicycl", "cyclist", "rider")), ("pedestrian", ("person", "pedestrian")),
                        ("vehicle", ("car", "truck", "bus", "motorcycle", "train", "trailer", "towed", "van", "vehicle")),
                        ("sign", ("sign",))):
        if any(word in words for word in known):
            return kind
    return "other"


def file_of(scene: Path, datum: Datum) -> Path:
    return inside(scene.parent, datum.content.get("filename"), datum.where)


def inside(folder: Path, name: object, where: str) -> Path:
    """A file that a scene names: below its folder, and there."""
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"The file of {where} is not below the scene's folder; {AGAIN}.")
    if not (folder / name).is_file():
        raise UserError(f"The file {folder / name} of {where} is missing; {AGAIN}.")
    return folder / name


def read_cloud(file: Path, columns: int) -> np.ndarray:
    """Points [N, columns], float64, from an archive of one array whose header is believed up to the archive's size."""
    try:
        with zipfile.ZipFile(io.BytesIO(read_bytes(file, "point cloud"))) as archive:
            name = "data.npy" if "data.npy" in archive.namelist() else archive.namelist()[0]
            size = archive.getinfo(name).file_size
            with archive.open(name) as member:
                version = npy.read_magic(member)
                shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(member)
            if size > LARGEST or dtype.hasobject or np.prod(shape, dtype=object) * dtype.itemsize > size:
                raise ValueError(f"shape {shape} in {size} bytes")
            with archive.open(name) as member:
                values = npy.read_array(member, allow_pickle=False)
    except UserError:
        raise
    except (OSError, ValueError, IndexError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"The point cloud {file} is damaged ({error}); {AGAIN}.") from error
    if values.ndim != 2 or values.shape[1] != columns or values.dtype.kind != "f":
        raise UserError(f"The point cloud {file} has the shape {values.shape}, where the scene says {columns} columns; "
                        f"{AGAIN}.")
    return values.astype(np.float64)
