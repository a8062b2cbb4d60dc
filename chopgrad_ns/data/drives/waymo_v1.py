"""Waymo's recordings of version 1: a TFRecord file for each segment, a `Frame` message for each record."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.drives import wire
from chopgrad_ns.data.drives.assembly import Boxes, content_key
from chopgrad_ns.data.drives.drive import Drive, Photo, Points, Pose, RigCamera, Selection
from chopgrad_ns.data.drives.tfrecord import Records
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
from chopgrad_ns.data.drives.waymo_names import CAMERAS, KINDS, LIDARS, USUAL
from chopgrad_ns.errors import UserError

BEGINNING = 1 << 16
"""Bytes of a record in which its time is, as a rule: calibrations are before it, pictures and ranges after."""
LARGEST = 64 << 20
"""Bytes that a range image may have; the largest of the data set has four million."""
AGAIN = "get the file again, or choose other frames"


def read_waymo_v1(path: Path, selection: Selection = Selection(), segment: str | None = None) -> Drive:
    """A segment, or the chosen part of it.

    Args:
        path: the `.tfrecord` file, or a folder of them.
        selection: cameras (FRONT, FRONT_LEFT and FRONT_RIGHT are the usual ones) and frames, which are the records in order
            of time.
        segment: the file's name without its ending; needed where a folder has several.

    Raises:
        UserError: what is missing or damaged, where, and the remedy; also where the package with the messages is missing.
    """
    file = _file(Path(path), segment)
    protos = _protos()
    records = _Records(protos, Records.of(file))
    stamps = [records.stamp(index) for index in range(len(records.records))]
    order = np.argsort(stamps, kind="stable")
    chosen = chosen_frames(selection, np.asarray(stamps)[order].tolist(), str(file))
    found = [records.frame(int(order[index]), ("context", "timestamp_micros", "pose", "images", "laser_labels"))
             for index in chosen]
    poses = [_pose(frame.pose, f"frame {index} in {records.where(order[index])}")
             for index, frame in zip(chosen, found, strict=True)]
    frames = Frames.of(np.asarray(stamps)[order].tolist(), chosen, np.stack(poses))
    name = found[0].context.name or file.stem
    cameras = _cameras(found[0].context, file)
    photos, notes = _photos(found, cameras, frames, selection, f"segment {name}")
    actors, about_actors = _actors(found, frames, [records.where(order[index]) for index in chosen])
    lidars = _lidars(found[0].context, file)
    source = _Parts(records, order[chosen].tolist(), frames, {name: camera for name, (camera, _) in cameras.items()}, lidars)
    return Drive(name, frames.times, frames.world_from_vehicle, frames.source_from_world,
                 {name: cameras[name][0] for name in dict.fromkeys(photo.camera for photo in photos)}, photos, list(lidars),
                 actors, source, content_key([file], "waymo-v1", selection), notes=frames.notes + notes + about_actors)


@dataclass
class _Records:
    """Frames of a file, of which only some fields are decoded."""

    protos: ModuleType
    records: Records

    def where(self, index: int) -> str:
        return f"record {index} of {self.records.path}"

    def frame(self, index: int, fields: tuple[str, ...]) -> Any:
        """A `Frame` with those fields. Raises UserError for a damaged record, or one that is no frame."""
        from google.protobuf.message import DecodeError

        known, content = self.protos.Frame.DESCRIPTOR.fields_by_name, self.records.read(index)
        try:
            return self.protos.Frame.FromString(wire.only(content, {known[name].number for name in fields}))
        except (ValueError, DecodeError) as error:
            raise UserError(f"Record {index} of {self.records.path} is not a frame ({error}); {AGAIN}.") from error

    def stamp(self, index: int) -> int:
        """Microseconds, from the beginning of a record if they are there."""
        number = self.protos.Frame.DESCRIPTOR.fields_by_name["timestamp_micros"].number
        length = min(BEGINNING, self.records.places[index][1])
        try:
            for _, _, found, value in wire.fields(self.records.start(index, length)):
                if found == number and isinstance(value, int):
                    return value
        except ValueError:
            pass  # It goes on after the beginning.
        stamp = self.frame(index, ("timestamp_micros",)).timestamp_micros
        if not stamp:
            raise UserError(f"Record {index} of {self.records.path} is not a frame (it has no time); {AGAIN}.")
        return stamp


@dataclass
class _Parts:
    """Pictures and points, read from their records when they are needed."""

    records: _Records
    rows: list[int]
    frames: Frames
    cameras: dict[str, RigCamera]
    lidars: dict[str, LidarCalibration]

    def picture(self, photo: Photo) -> bytes:
        """The encoded picture. Raises UserError where it cannot be decoded."""
        images = self.records.frame(self.rows[photo.frame], ("images",)).images
        data = next(image.image for image in images if image.name == CAMERAS[photo.camera])
        return check_picture(data, self.cameras[photo.camera], photo)

    def points(self, frame: int) -> Points:
        """Points of all lidars and returns in one frame. Raises UserError for damaged range images."""
        lasers = self.records.frame(self.rows[frame], ("lasers",)).lasers
        where = self.records.where(self.rows[frame])
        named = _by_name(lasers, LIDARS, "Lidar", where)
        unknown = set(named) - set(self.lidars)
        if unknown:
            raise UserError(f"Lidar {min(unknown)} in {where} is not in the calibration; {AGAIN}.")
        return Points.cat([
            self._points(frame, name, named[name], f"Lidar {name} of frame {self.frames.chosen[frame]} in {where}")
            for name in self.lidars if name in named])

    def _points(self, frame: int, name: str, laser: Any, where: str) -> Points:
        images = [_matrix(image.range_image_compressed, 4, where) for image in (laser.ri_return1, laser.ri_return2)]
        poses = _matrix(laser.ri_return1.range_image_pose_compressed, 6, where)
        return lidar_points(images, poses, self.lidars[name], self.frames, frame, list(self.lidars).index(name), where)


def _matrix(data: bytes, channels: int, where: str) -> np.ndarray | None:
    """A range image, compressed; None for no bytes."""
    if not data:
        return None
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(data, LARGEST)
        if not unpacker.eof:
            raise ValueError("it is cut off, or larger than range images are")
        values, shape = wire.matrix(content)
    except (zlib.error, ValueError) as error:
        raise UserError(f"{where} has a range image that cannot be unpacked ({error}); {AGAIN}.") from error
    return shaped(values, shape, channels, where)


def _file(path: Path, segment: str | None) -> Path:
    """The file itself, or the one in the folder."""
    if not path.is_dir():
        return path
    there = sorted(path.glob("*.tfrecord"))
    chosen = [file for file in there if segment in (None, file.stem)]
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(file.stem for file in there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
    if not there:
        raise UserError(f"{path} has no *.tfrecord; give a file of Waymo's version 1, or a folder of them.")
    raise UserError(f"{path} has {len(there)} segments" + (f" and none is {segment}" if segment else "") +
                    f"; choose one with segment: {names}.")


def _protos() -> ModuleType:
    try:
        from waymo_open_dataset import dataset_pb2
    except (ImportError, TypeError) as error:
        raise UserError("Waymo's records of version 1 need the messages that waymo-open-dataset defines; install them with: "
                        "pip install --no-deps waymo-open-dataset-tf-2-12-0.") from error
    return dataset_pb2


def _pose(transform: Any, what: str) -> Pose:
    if len(transform.transform) != 16:
        raise UserError(f"The pose of {what} has {len(transform.transform)} numbers, not 16; {AGAIN}.")
    return check_pose(np.array(transform.transform, np.float64).reshape(4, 4), what)


def _by_name(messages: Any, known: dict[str, int], what: str, where: str) -> dict[str, Any]:
    """Messages of cameras or lidars by their names, in the usual order. Raises UserError for unknown ones and two of one."""
    words, found = {number: word for word, number in known.items()}, {}
    for message in messages:
        name = words.get(message.name)
        if name is None or name in found:
            said = f"{what} {name} is twice in {where}" if name else f"{what} number {message.name} in {where} is unknown"
            raise UserError(f"{said}; {AGAIN}.")
        found[name] = message
    return {name: found[name] for name in known if name in found}


def _cameras(context: Any, file: Path) -> dict[str, tuple[RigCamera, int]]:
    """Cameras of the calibration in the usual order, with the direction of each one's shutter."""
    found = {}
    for name, message in _by_name(context.camera_calibrations, CAMERAS, "Camera", f"the calibration of {file}").items():
        where, lens = f"camera {name} in {file}", np.array(message.intrinsic, np.float64)
        if lens.shape != (9,):
            raise UserError(f"The calibration of {where} has {len(lens)} numbers for the lens, not 9; {AGAIN}.")
        direction = message.rolling_shutter_direction
        size, pose = (message.width, message.height), _pose(message.extrinsic, where)
        found[name] = rig_camera(name, lens, pose, size, direction, where), direction
    return found


def _lidars(context: Any, file: Path) -> dict[str, LidarCalibration]:
    named = _by_name(context.laser_calibrations, LIDARS, "Lidar", f"the calibration of {file}")
    return {name: LidarCalibration(_pose(message.extrinsic, f"lidar {name} in {file}"), message.beam_inclination_min,
                                   message.beam_inclination_max, np.array(message.beam_inclinations, np.float64))
            for name, message in named.items()}


def _photos(found: list[Any], cameras: dict[str, tuple[RigCamera, int]], frames: Frames, selection: Selection, where: str
            ) -> tuple[list[Photo], list[str]]:
    """In order of cameras and time, and what is odd."""
    images = [_by_name(message.images, CAMERAS, "The picture of camera", f"frame {number} of {where}")
              for number, message in zip(frames.chosen, found, strict=True)]
    there = [name for name in cameras if any(name in named for named in images)]
    chosen = selection.camera_names(there, USUAL, where)
    photos = []
    for name in chosen:
        camera, direction = cameras[name]
        for frame, named in enumerate(images):
            if name in named:
                image, what = named[name], f"picture {name} of frame {frames.chosen[frame]} of {where}"
                speed = image.velocity
                velocity = np.array([speed.v_x, speed.v_y, speed.v_z, speed.w_x, speed.w_y, speed.w_z], np.float64) \
                    if image.HasField("velocity") else np.full(6, np.nan)
                shutter = np.array([image.shutter, image.camera_trigger_time, image.camera_readout_done_time])
                photos.append(photo(frames, camera, frame, image.pose_timestamp, _pose(image.pose, what), velocity, shutter,
                                    direction, where))
    return photos, missing_photos(photos, chosen, frames, where)


def _actors(found: list[Any], frames: Frames, where: list[str]) -> tuple[list[Actor], list[str]]:
    """A track for each label id, and what is odd."""
    kinds, boxes = {number: kind for kind, number in KINDS.items()}, Boxes(len(found))
    for frame, message in enumerate(found):
        seen = set()
        for label in sorted(message.laser_labels, key=lambda label: label.id):
            if label.id in seen:
                raise UserError(f"Track {label.id} has two boxes in {where[frame]}; {AGAIN}.")
            seen.add(label.id)
            box = label.box
            add_box(boxes, frames, frame, label.id, kinds.get(label.type, "other"), np.array([
                box.center_x, box.center_y, box.center_z, box.length, box.width, box.height, box.heading]), where[frame])
    return boxes.actors()
