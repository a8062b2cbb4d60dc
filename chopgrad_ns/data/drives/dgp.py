"""Scenes of TRI's Dataset Governance Policy (DGP): DDAD and others.

A scene's JSON lists samples, which are the frames here, and the data of the sensors in them. Poses of data are
world_from_sensor, each of the sensor's own time; extrinsics are vehicle_from_sensor; boxes are in their sensor's frame.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy

from chopgrad_ns.data.actors import Actor
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
from chopgrad_ns.data.drives.recorded import (
    LARGEST,
    check_order,
    content_key,
    gap_notes,
    read_bytes,
    read_json,
    single_box_notes,
    velocities,
)
from chopgrad_ns.errors import UserError

BOXES_3D = "1"
"""Number of 3D boxes among DGP's types of annotation."""
AHEAD = 0.2
"""Cameras that are read by default look ahead: their axis has at least this component along the vehicle's."""
AGAIN = "get the recording again"


@dataclass(frozen=True)
class _Datum:
    """One measurement of one sensor."""

    sensor: str
    time: float
    world_from_sensor: Pose
    content: dict
    where: str


@dataclass(frozen=True)
class _Sample:
    name: str
    time: float
    calibration: str
    images: dict[str, _Datum]
    clouds: dict[str, _Datum]

    @property
    def first(self) -> _Datum:
        """What tells the frame's time and the vehicle's pose: a lidar's measurement, or else a picture."""
        return next(iter([*self.clouds.values(), *self.images.values()]))


def read_dgp(path: Path, selection: Selection = Selection(), scene: str | None = None) -> Drive:
    """A scene of a DGP dataset.

    Args:
        path: the dataset's folder or its scene_dataset_*.json, or one scene's folder or its scene_*.json.
        scene: the name of one scene's folder, where the dataset has several.

    Raises UserError for what is damaged, missing, or no DGP.
    """
    file = _scene_file(Path(path), scene)
    listed = _samples(file)
    check_order([sample.time for sample in listed], str(file))
    frames = selection.frames(len(listed), str(file))
    samples, start = [listed[frame] for frame in frames], listed[0].time
    calibrations = {key: _calibration(file.parent, key) for key in dict.fromkeys(sample.calibration for sample in samples)}
    if len(calibrations) > 1:
        raise UserError(f"{file} has {len(calibrations)} calibrations in the frames chosen, which is not supported; choose "
                        "frames of one.")
    (extrinsics, intrinsics), = calibrations.values()
    sizes = _sizes(samples)
    names = selection.camera_names(sorted(sizes), _looking_ahead(sizes, extrinsics, file), str(file))
    cameras = {name: _camera(name, sizes[name], extrinsics, intrinsics, file) for name in names}
    poses = np.stack([_vehicle(sample.first, extrinsics) for sample in samples])
    source_from_world, world_from_source = in_first_frame(poses)
    photos, notes = _photos(samples, names, extrinsics, start)
    lidars = sorted({name for sample in samples for name in sample.clouds})
    actors = _actors(file, samples, lidars, world_from_source)
    times = np.array([sample.time - start for sample in samples])
    notes += [] if actors else ["There are no 3D boxes of a lidar: what moves is not known."]
    notes += gap_notes(times) + single_box_notes(actors, len(samples))
    pictures = {(photo.camera, photo.frame): samples[photo.frame].images[photo.camera] for photo in photos}
    clouds = [cloud for sample in samples for cloud in sample.clouds.values()]
    files = [file, *(_file(file, datum) for datum in [*pictures.values(), *clouds])]
    key = content_key(file.parent, files, "dgp", selection, names)
    return Drive(file.parent.name, times, world_from_source @ poses, source_from_world, cameras,
                 [moved(photo, world_from_source) for photo in photos], lidars, actors,
                 _Files(file, pictures, samples, lidars, world_from_source), key, notes=notes)


@dataclass(frozen=True)
class _Files:
    """`Source` of a scene."""

    scene: Path
    pictures: dict[tuple[str, int], _Datum]
    samples: list[_Sample]
    lidars: list[str]
    world_from_source: Pose

    def picture(self, photo: Photo) -> bytes:
        return read_bytes(_file(self.scene, self.pictures[photo.camera, photo.frame]), "picture")

    def points(self, frame: int) -> Points:
        parts = []
        for name, cloud in self.samples[frame].clouds.items():
            columns = cloud.content.get("point_format", [])
            if not {"X", "Y", "Z"} <= set(columns):
                raise UserError(f"The point cloud of {cloud.where} has no columns X, Y, Z; {AGAIN}.")
            where = {column: index for index, column in enumerate(columns)}
            values = _read_cloud(_file(self.scene, cloud), len(columns))
            pose = self.world_from_source @ cloud.world_from_sensor
            xyz = values[:, [where[axis] for axis in "XYZ"]] @ pose[:3, :3].T + pose[:3, 3]
            strength = values[:, where["INTENSITY"]] if "INTENSITY" in where else np.zeros(len(values))
            good = np.isfinite(xyz).all(axis=1)
            count = int(good.sum())
            parts.append(Points(xyz[good].astype(np.float32), strength[good].astype(np.float32), np.ones(count, np.uint8),
                                np.full(count, self.lidars.index(name), np.uint8)))
        return Points.cat(parts)


def is_dgp(path: Path) -> bool:
    """Whether a path looks like a DGP dataset or scene."""
    path = Path(path)
    if path.is_dir():
        return any(path.glob("scene*.json"))
    return path.name.startswith("scene") and path.suffix == ".json"


def _scene_file(path: Path, scene: str | None) -> Path:
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


def _samples(file: Path) -> list[_Sample]:
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


def _sample(item: dict, data: dict, where: str) -> _Sample:
    images, clouds = {}, {}
    for key in item["datum_keys"]:
        datum = data[key]
        for kind, found in (("image", images), ("point_cloud", clouds)):
            if kind in datum["datum"]:
                name, content = datum["id"]["name"], datum["datum"][kind]
                place = f"{name} in {where}"
                found[name] = _Datum(name, _seconds(datum["id"]["timestamp"]), _pose(content["pose"], place), content, place)
    if not images and not clouds:
        raise UserError(f"{where[0].upper()}{where[1:]} has neither a picture nor a point cloud; choose other frames.")
    sample = _Sample(where, 0.0, item["calibration_key"], images, clouds)
    return _Sample(where, sample.first.time, sample.calibration, images, clouds)


def _seconds(stamp: str) -> float:
    """Since 1970, from ISO 8601 in UTC with up to nine digits of a second."""
    whole, fraction = re.fullmatch(r"([\d-]+T[\d:]+)(\.\d+)?Z", stamp).groups()
    return datetime.fromisoformat(whole).replace(tzinfo=timezone.utc).timestamp() + float(fraction or 0)


def _pose(item: dict, where: str) -> Pose:
    place = np.array([item["translation"].get(axis, 0.0) for axis in "xyz"], np.float64)
    quat = np.array([item["rotation"].get(axis, 0.0) for axis in ("qw", "qx", "qy", "qz")], np.float64)
    length = np.linalg.norm(quat)
    if not np.isfinite(place).all() or not abs(length - 1) < 1e-3:
        raise UserError(f"The pose of {where} is not a rigid motion; {AGAIN}.")
    w, x, y, z = quat / length
    pose = np.eye(4)
    pose[:3, :3] = [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]]
    pose[:3, 3] = place
    return pose


def _calibration(folder: Path, key: str) -> tuple[dict[str, Pose], dict[str, dict]]:
    """vehicle_from_sensor and intrinsics of all sensors."""
    file = folder / "calibration" / f"{key}.json"
    content = read_json(file, "calibration")
    try:
        names = content["names"]
        poses = {name: _pose(item, f"{name} in {file}") for name, item in zip(names, content["extrinsics"], strict=True)}
        return poses, dict(zip(names, content["intrinsics"], strict=True))
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not a DGP calibration (wrong or missing: {error}); {AGAIN}.") from error


def _sizes(samples: list[_Sample]) -> dict[str, tuple[int, int]]:
    """Width and height of each camera's pictures."""
    sizes: dict[str, tuple[int, int]] = {}
    for sample in samples:
        for name, image in sample.images.items():
            size = image.content.get("width"), image.content.get("height")
            if not all(isinstance(side, int) and 0 < side < 1 << 16 for side in size):
                raise UserError(f"The picture of {image.where} has no proper size ({size[0]}×{size[1]}); {AGAIN}.")
            if sizes.setdefault(name, size) != size:
                raise UserError(f"The picture of {image.where} is of {size[0]}×{size[1]} px, where the camera's others are of "
                                f"{sizes[name][0]}×{sizes[name][1]}; choose other frames.")
    return sizes


def _looking_ahead(sizes: dict, extrinsics: dict[str, Pose], file: Path) -> list[str]:
    """Cameras that look ahead, of the size of the first of them."""
    missing = [name for name in sizes if name not in extrinsics]
    if missing:
        raise UserError(f"The calibration of {file} lacks the camera {missing[0]}; {AGAIN}.")
    ahead = sorted((name for name in sizes if extrinsics[name][0, 2] > AHEAD))
    return [name for name in ahead if sizes[name] == sizes[ahead[0]]]


def _camera(name: str, size: tuple[int, int], extrinsics: dict[str, Pose], intrinsics: dict, file: Path) -> RigCamera:
    """Pinhole cameras with OpenCV's five coefficients; the centre of a picture's first pixel is at 0, 0 in DGP."""
    values = intrinsics[name]
    others = ("skew", "fisheye", "k4", "k5", "k6", "s1", "s2", "s3", "s4", "taux", "tauy", "alpha", "beta", "w", "xi",
              "equirectangular")
    odd = [key for key in others if values.get(key)]
    if odd:
        raise UserError(f"The camera {name} of {file} is no pinhole camera with k1, k2, k3, p1, p2 (it has {odd[0]}); choose "
                        "other cameras.")
    K = np.array([[values.get("fx", 0.0), 0, values.get("cx", 0.0) + 0.5], [0, values.get("fy", 0.0),
                                                                            values.get("cy", 0.0) + 0.5], [0, 0, 1]])
    if not np.isfinite(K).all() or not (K[0, 0] > 0 and K[1, 1] > 0):
        raise UserError(f"The camera {name} of {file} has no focal length; {AGAIN}.")
    distortion = np.array([values.get(key, 0.0) for key in ("k1", "k2", "p1", "p2", "k3")])
    return RigCamera(name, *size, K, distortion, extrinsics[name])


def _vehicle(datum: _Datum, extrinsics: dict[str, Pose]) -> Pose:
    """world_from_vehicle at the time of a measurement."""
    if datum.sensor not in extrinsics:
        raise UserError(f"The calibration lacks {datum.where}; {AGAIN}.")
    return datum.world_from_sensor @ inverse(extrinsics[datum.sensor])


def _photos(samples: list[_Sample], names: list[str], extrinsics: dict[str, Pose], start: float
            ) -> tuple[list[Photo], list[str]]:
    """In the recording's world, with velocities from the camera's pictures before and after."""
    photos, notes = [], []
    for name in names:
        frames = [frame for frame, sample in enumerate(samples) if name in sample.images]
        if len(frames) < len(samples):
            notes.append(f"{name} has pictures in {len(frames)} of {len(samples)} frames.")
        data = [samples[frame].images[name] for frame in frames]
        times = np.array([datum.time - start for datum in data])
        check_order(times, f"{name} of {samples[0].name}")
        poses = np.stack([_vehicle(datum, extrinsics) for datum in data])
        linear, angular = velocities(times, poses)
        photos += [Photo(name, frame, float(times[i]), poses[i], data[i].where,
                         *(None if speed is None else speed[i] for speed in (linear, angular)))
                   for i, frame in enumerate(frames)]
    return photos, notes


def _actors(file: Path, samples: list[_Sample], lidars: list[str], world_from_source: Pose) -> list[Actor]:
    """From the boxes of the first lidar that has any: sizes are medians, for they are measured in each frame anew."""
    lidar = next((name for name in lidars for sample in samples
                  if name in sample.clouds and BOXES_3D in sample.clouds[name].content.get("annotations", {})), None)
    if lidar is None:
        return []
    kinds = _kinds(file)
    tracks: dict[str, dict[int, tuple]] = {}
    for frame, sample in enumerate(samples):
        cloud = sample.clouds.get(lidar)
        name = None if cloud is None else cloud.content.get("annotations", {}).get(BOXES_3D)
        if name is None:
            continue
        boxes, pose = _inside(file.parent, name, cloud.where), world_from_source @ cloud.world_from_sensor
        for track, kind, size, box in _boxes(boxes, kinds):
            if frame in tracks.setdefault(track, {}):
                raise UserError(f"{boxes} has two boxes of the instance {track}; {AGAIN}.")
            tracks[track][frame] = kind, size, pose @ box
    return [_actor(name, track, len(samples)) for name, track in sorted(tracks.items())]


def _actor(name: str, track: dict[int, tuple], count: int) -> Actor:
    poses, present = torch.eye(4).repeat(count, 1, 1), torch.zeros(count, dtype=torch.bool)
    for frame, (_, _, pose) in track.items():
        poses[frame], present[frame] = torch.from_numpy(pose).float(), True
    kind, size = next(iter(track.values()))[0], np.median([size for _, size, _ in track.values()], axis=0)
    return Actor(name, kind, torch.from_numpy(size).float(), poses, present)


def _boxes(file: Path, kinds: dict[int, str]) -> list[tuple[str, str, np.ndarray, Pose]]:
    """Instance, kind, length, width and height, and sensor_from_box of each."""
    content, boxes = read_json(file, "list of boxes"), []
    try:
        for index, item in enumerate(content["annotations"]):
            where, box = f"box {index} of {file}", item["box"]
            size = np.array([box[side] for side in ("length", "width", "height")], np.float64)
            if not (np.isfinite(size).all() and (size > 0).all()):
                raise UserError(f"The {where} has the size {size.tolist()}; {AGAIN}.")
            boxes.append((str(item["instance_id"]), kinds.get(item.get("class_id", 0), "other"), size,
                          _pose(box["pose"], where)))
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not a list of 3D boxes (wrong or missing: {error}); {AGAIN}.") from error
    return boxes


def _kinds(file: Path) -> dict[int, str]:
    """Kinds of actors by the numbers of the classes of the scene's 3D boxes."""
    key = read_json(file, "scene").get("ontologies", {}).get(BOXES_3D)
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


def _file(scene: Path, datum: _Datum) -> Path:
    return _inside(scene.parent, datum.content.get("filename"), datum.where)


def _inside(folder: Path, name: object, where: str) -> Path:
    """A file that a scene names: below its folder, and there."""
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"The file of {where} is not below the scene's folder; {AGAIN}.")
    if not (folder / name).is_file():
        raise UserError(f"The file {folder / name} of {where} is missing; {AGAIN}.")
    return folder / name


def _read_cloud(file: Path, columns: int) -> np.ndarray:
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
