"""Scenes of TRI's Dataset Governance Policy (DGP): DDAD and others.

A scene's JSON lists samples, which are the frames here, and the data of the sensors in them. Poses of data are
world_from_sensor, each of the sensor's own time; extrinsics are vehicle_from_sensor; boxes are in their sensor's frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.drives.assembly import Boxes, content_key, gap_notes
from chopgrad_ns.data.drives.dgp_files import (
    AGAIN,
    Datum,
    Sample,
    file_of,
    inside,
    read_boxes,
    read_calibration,
    read_cloud,
    read_kinds,
    read_samples,
    scene_file,
)
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
from chopgrad_ns.errors import UserError

AHEAD = 0.2
"""Cameras that are read by default look ahead: their axis has at least this component along the vehicle's."""


def read_dgp(path: Path, selection: Selection = Selection(), scene: str | None = None) -> Drive:
    """A scene of a DGP dataset.

    Args:
        path: the dataset's folder or its scene_dataset_*.json, or one scene's folder or its scene_*.json.
        scene: the name of one scene's folder, where the dataset has several.

    Raises UserError for what is damaged, missing, or no DGP.
    """
    file = scene_file(Path(path), scene)
    listed = read_samples(file)
    check_order([sample.time for sample in listed], str(file))
    frames = selection.frames(len(listed), str(file))
    samples, start = [listed[frame] for frame in frames], listed[0].time
    calibrations = {key: read_calibration(file.parent, key) for key in dict.fromkeys(sample.calibration for sample in samples)}
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
    actors, odd = _actors(file, samples, lidars, world_from_source)
    times = np.array([sample.time - start for sample in samples])
    notes += gap_notes(np.array([sample.time - start for sample in listed]), frames) + odd
    pictures = {(photo.camera, photo.frame): samples[photo.frame].images[photo.camera] for photo in photos}
    clouds = [cloud for sample in samples for cloud in sample.clouds.values()]
    files = [file, file.parent / "calibration" / f"{samples[0].calibration}.json",
             *(file_of(file, datum) for datum in [*pictures.values(), *clouds]),
             *(inside(file.parent, cloud.boxes, cloud.where) for cloud in clouds if cloud.boxes is not None)]
    key = content_key(files, "dgp", selection, names)
    return Drive(file.parent.name, times, world_from_source @ poses, source_from_world, cameras,
                 [moved(photo, world_from_source) for photo in photos], lidars, actors,
                 _Files(file, pictures, samples, lidars, world_from_source), key, notes=notes)


@dataclass(frozen=True)
class _Files:
    """`Source` of a scene."""

    scene: Path
    pictures: dict[tuple[str, int], Datum]
    samples: list[Sample]
    lidars: list[str]
    world_from_source: Pose

    def picture(self, photo: Photo) -> bytes:
        return read_bytes(file_of(self.scene, self.pictures[photo.camera, photo.frame]), "picture")

    def points(self, frame: int) -> Points:
        parts = []
        for name, cloud in self.samples[frame].clouds.items():
            columns = cloud.content.get("point_format")
            if not isinstance(columns, list) or not all(axis in columns for axis in "XYZ"):
                raise UserError(f"The point cloud of {cloud.where} has no columns X, Y, Z; {AGAIN}.")
            where = {column: index for index, column in enumerate(columns)}
            values = read_cloud(file_of(self.scene, cloud), len(columns))
            pose = self.world_from_source @ cloud.world_from_sensor
            xyz = values[:, [where[axis] for axis in "XYZ"]] @ pose[:3, :3].T + pose[:3, 3]
            strength = values[:, where["INTENSITY"]] if "INTENSITY" in where else np.zeros(len(values))
            good = np.isfinite(xyz).all(axis=1)
            count = int(good.sum())
            parts.append(Points(xyz[good].astype(np.float32), strength[good].astype(np.float32), np.ones(count, np.uint8),
                                np.full(count, self.lidars.index(name), np.uint8)))
        return Points.cat(parts)


def _sizes(samples: list[Sample]) -> dict[str, tuple[int, int]]:
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
    fx, fy, cx, cy, *distortion = (values.get(key, 0.0) for key in ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3"))
    if not np.isfinite([fx, fy, cx, cy, *distortion]).all() or fx <= 0 or fy <= 0:
        raise UserError(f"The camera {name} of {file} has no focal length or odd intrinsics; {AGAIN}.")
    K, distortion = np.array([[fx, 0, cx + 0.5], [0, fy, cy + 0.5], [0, 0, 1]]), np.array(distortion)
    return RigCamera(name, *size, K, distortion, extrinsics[name])


def _vehicle(datum: Datum, extrinsics: dict[str, Pose]) -> Pose:
    """world_from_vehicle at the time of a measurement."""
    if datum.sensor not in extrinsics:
        raise UserError(f"The calibration lacks {datum.where}; {AGAIN}.")
    return datum.world_from_sensor @ inverse(extrinsics[datum.sensor])


def _photos(samples: list[Sample], names: list[str], extrinsics: dict[str, Pose], start: float
            ) -> tuple[list[Photo], list[str]]:
    """In the recording's world, with velocities from the camera's own poses; and notes."""
    photos, notes = [], []
    for name in names:
        frames = [frame for frame, sample in enumerate(samples) if name in sample.images]
        if len(frames) < len(samples):
            notes.append(f"{name} has pictures in {len(frames)} of {len(samples)} frames.")
        data = [samples[frame].images[name] for frame in frames]
        times = np.array([datum.time - start for datum in data])
        check_order(times, f"{name} of {samples[0].name}")
        motion = Motion(times, np.stack([_vehicle(datum, extrinsics) for datum in data]))
        photos += [Photo(name, frame, float(time), pose, datum.where, *motion.velocities(time))
                   for frame, time, pose, datum in zip(frames, times, motion.poses, data)]
    return photos, notes


def _actors(file: Path, samples: list[Sample], lidars: list[str], world_from_source: Pose) -> tuple[list[Actor], list[str]]:
    """From the boxes of the first lidar that has any, and notes."""
    lidar = next((name for name in lidars for sample in samples
                  if name in sample.clouds and sample.clouds[name].boxes is not None), None)
    if lidar is None:
        return [], ["There are no 3D boxes of a lidar: what moves is not known."]
    kinds, boxes = read_kinds(file), Boxes(len(samples))
    for frame, sample in enumerate(samples):
        cloud = sample.clouds.get(lidar)
        if cloud is None or cloud.boxes is None:
            continue
        listed, world_from_lidar = inside(file.parent, cloud.boxes, cloud.where), world_from_source @ cloud.world_from_sensor
        for track, kind, size, lidar_from_box in read_boxes(listed, kinds):
            boxes.add(track, kind, frame, world_from_lidar @ lidar_from_box, size)
    return boxes.actors()
