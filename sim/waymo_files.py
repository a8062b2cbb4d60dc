"""Drives through a sample world in the layout of Waymo v2: a folder for each component, a parquet file for each segment."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chopgrad_ns.data.drives import waymo_names as names
from chopgrad_ns.data.drives.drive import Photo, Pose, RigCamera, inverse
from chopgrad_ns.sim.recording import Box, Frame, Lidar, Recording, Sweep

REAL, SINGLE, WHOLE, SMALL = pa.float64(), pa.float32(), pa.int64(), pa.int8()
POSE = pa.list_(REAL, 16)


def _axes(prefix: str, kind: pa.DataType) -> dict[str, pa.DataType]:
    return {f"{prefix}{axis}": kind for axis in "xyz"}


def _image(prefix: str) -> dict[str, pa.DataType]:
    return {f"{prefix}values": pa.list_(SINGLE), f"{prefix}shape": pa.list_(pa.int32(), 3)}


_FRAME = {names.SEGMENT: pa.string(), names.TIME: WHOLE}
SCHEMAS = {
    "vehicle_pose": {**_FRAME, names.VEHICLE_POSE: POSE},
    "camera_calibration": {
        names.SEGMENT: pa.string(), names.CAMERA: SMALL, **{names.INTRINSIC + name: REAL for name in names.LENS},
        names.CAMERA_EXTRINSIC: POSE, names.WIDTH: pa.int32(), names.HEIGHT: pa.int32(), names.DIRECTION: SMALL},
    "camera_image": {
        **_FRAME, names.CAMERA: SMALL, names.IMAGE: pa.binary(), names.IMAGE_POSE: POSE, **_axes(names.LINEAR, SINGLE),
        **_axes(names.ANGULAR, REAL), names.IMAGE_TIME: REAL, names.EXPOSURE: REAL, names.TRIGGER: REAL, names.READ_OUT: REAL},
    "lidar_calibration": {
        names.SEGMENT: pa.string(), names.LIDAR: SMALL, names.LIDAR_EXTRINSIC: POSE, names.INCLINATION + "min": REAL,
        names.INCLINATION + "max": REAL, names.INCLINATION + "values": pa.list_(REAL)},
    "lidar": {**_FRAME, names.LIDAR: SMALL, **_image(names.RETURNS[0]), **_image(names.RETURNS[1])},
    "lidar_pose": {**_FRAME, names.LIDAR: SMALL, **_image(names.PIXEL_POSES)},
    "lidar_box": {
        **_FRAME, names.TRACK: pa.string(), **_axes(names.BOX_CENTER, REAL), **_axes(names.BOX_SIZE, REAL),
        names.BOX_HEADING: REAL, names.BOX_KIND: SMALL, names.BOX_POINTS: WHOLE, **_axes(names.BOX_SPEED, REAL)},
}
"""Columns of each component, with the types that the data set has."""


def write_waymo_v2(folder: Path, recording: Recording) -> None:
    """Write the components into a folder, frame by frame: each is a row group, so that one can be read without the others.

    A box's pitch and roll against the vehicle are not written: the format has a heading only. A picture without a shutter
    is written as exposed all at once.
    """
    with ExitStack() as stack:
        writers = {}
        for component, columns in SCHEMAS.items():
            path = Path(folder) / component / f"{recording.name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Pictures and ranges do not repeat: dictionaries and statistics of them would only be large.
            writers[component] = stack.enter_context(pq.ParquetWriter(
                path, pa.schema(columns.items()), use_dictionary=False, write_statistics=False, write_page_checksum=True))

        def write(component: str, rows: list[dict]) -> None:
            if rows:
                rows = [{names.SEGMENT: recording.name, **row} for row in rows]
                writers[component].write_table(pa.Table.from_pylist(rows, pa.schema(SCHEMAS[component].items())))

        write("camera_calibration", [_camera(camera) for camera in recording.cameras])
        write("lidar_calibration", [_lidar(lidar) for lidar in recording.lidars])
        for frame in recording.frames:
            for component, rows in _frame(frame, recording).items():
                write(component, [{names.TIME: micros(recording, frame), **row} for row in rows])


def micros(recording: Recording, frame: Frame) -> int:
    """A frame's time in microseconds since 1970."""
    return round((recording.start + frame.time) * 1e6)


def heading_box(box: Box, world_from_vehicle: Pose) -> tuple[np.ndarray, float]:
    """Centre [3] and heading in radians of a box in the vehicle's frame."""
    pose = inverse(world_from_vehicle) @ box.pose
    return pose[:3, 3], float(np.arctan2(pose[1, 0], pose[0, 0]))


def beam_span(lidar: Lidar) -> tuple[float, float]:
    """Lowest and highest inclination in radians: half a beam beyond the outer ones, where they are uniform."""
    lowest, highest, rows = lidar.inclinations[-1], lidar.inclinations[0], len(lidar.inclinations)
    beyond = (highest - lowest) / (rows - 1) / 2 if lidar.uniform and rows > 1 else 0
    return float(lowest - beyond), float(highest + beyond)


def angular_velocity(photo: Photo) -> np.ndarray | None:
    """Along the axes of the vehicle, as the format has it; the linear one is along those of the world."""
    return None if photo.angular_velocity is None else photo.world_from_vehicle[:3, :3].T @ photo.angular_velocity


def shutter_times(photo: Photo, recording: Recording) -> tuple[float, float]:
    """When a picture was triggered and when it was read out, in seconds since 1970."""
    first, last = (photo.shutter.first, photo.shutter.last) if photo.shutter else (photo.time, photo.time)
    return recording.start + first - recording.exposure / 2, recording.start + last + recording.exposure / 2


def _frame(frame: Frame, recording: Recording) -> dict[str, list[dict]]:
    posed = [sweep for sweep in frame.sweeps if sweep.pixel_poses is not None]
    return {
        "vehicle_pose": [{names.VEHICLE_POSE: frame.world_from_vehicle.ravel()}],
        "camera_image": [_photo(photo, picture, recording)
                         for photo, picture in zip(frame.photos, frame.pictures, strict=True)],
        "lidar": [_sweep(sweep) for sweep in frame.sweeps],
        "lidar_pose": [{names.LIDAR: names.LIDARS[sweep.lidar], **_flat(names.PIXEL_POSES, sweep.pixel_poses)}
                       for sweep in posed],
        "lidar_box": [_box(box, frame.world_from_vehicle) for box in frame.boxes],
    }


def _camera(camera: RigCamera) -> dict:
    k1, k2, p1, p2, k3 = camera.distortion
    lens = (camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2], k1, k2, p1, p2, k3)
    extrinsic = camera.vehicle_from_camera @ np.linalg.inv(names.WAYMO_FROM_OPENCV)
    return {names.CAMERA: names.CAMERAS[camera.name],
            **{names.INTRINSIC + name: value for name, value in zip(names.LENS, lens, strict=True)},
            names.CAMERA_EXTRINSIC: extrinsic.ravel(), names.WIDTH: camera.width, names.HEIGHT: camera.height,
            names.DIRECTION: names.DIRECTIONS.get(camera.first_line, 0)}


def _lidar(lidar: Lidar) -> dict:
    lowest, highest = beam_span(lidar)
    return {names.LIDAR: names.LIDARS[lidar.name], names.LIDAR_EXTRINSIC: lidar.vehicle_from_lidar.ravel(),
            names.INCLINATION + "min": lowest, names.INCLINATION + "max": highest,
            names.INCLINATION + "values": None if lidar.uniform else lidar.inclinations[::-1]}


def _photo(photo: Photo, picture: bytes, recording: Recording) -> dict:
    triggered, read_out = shutter_times(photo, recording)
    return {names.CAMERA: names.CAMERAS[photo.camera], names.IMAGE: picture,
            names.IMAGE_POSE: photo.world_from_vehicle.ravel(), **_vector(names.LINEAR, photo.linear_velocity),
            **_vector(names.ANGULAR, angular_velocity(photo)), names.IMAGE_TIME: recording.start + photo.time,
            names.EXPOSURE: recording.exposure, names.TRIGGER: triggered, names.READ_OUT: read_out}


def _sweep(sweep: Sweep) -> dict:
    first, second = sweep.returns
    return {names.LIDAR: names.LIDARS[sweep.lidar], **_flat(names.RETURNS[0], first), **_flat(names.RETURNS[1], second)}


def _box(box: Box, world_from_vehicle: Pose) -> dict:
    center, heading = heading_box(box, world_from_vehicle)
    return {names.TRACK: box.name, **_vector(names.BOX_CENTER, center), **_vector(names.BOX_SIZE, box.size),
            names.BOX_HEADING: heading, names.BOX_KIND: names.KINDS[box.kind], names.BOX_POINTS: box.points,
            **_vector(names.BOX_SPEED, box.velocity)}


def _vector(prefix: str, vector: np.ndarray | None) -> dict:
    return {prefix + axis: None if vector is None else float(vector[index]) for index, axis in enumerate("xyz")}


def _flat(prefix: str, image: np.ndarray) -> dict:
    return {prefix + "values": image.ravel(), prefix + "shape": image.shape}
