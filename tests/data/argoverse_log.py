"""A tiny log of Argoverse 2's sensor data set in the real layout: feather tables, pictures and sweeps."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import feather

from tests.data.recorded_world import POSTS, car, jpeg, looking, pose, seen, vehicle, walker, wxyz, Rotation

START = 315_968_867_659_956_000
SIZES = {"ring_front_center": (56, 80)}
K = (70.5, 71.5, 39.2, 28.7)
CAMERAS = {"ring_front_center": 0, "ring_front_left": 45, "ring_front_right": -45, "ring_rear_left": 150}
CAR, WALKER, SIGN = "02c4-car", "11a0-walker", "77f1-sign"
LWH = {CAR: (4.5, 1.9, 1.6), WALKER: (0.6, 0.7, 1.8), SIGN: (0.1, 0.9, 0.9)}
BOXED = {CAR: (car, range(10), "REGULAR_VEHICLE"), WALKER: (walker, [4], "PEDESTRIAN"),
         SIGN: (lambda _: car(0.0), [0, 1, 8, 9], "STOP_SIGN")}
"""Which sweeps each is annotated in."""
POSE = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")


def size(name: str) -> tuple[int, int]:
    return SIZES.get(name, (80, 56))


def camera_pose(name: str) -> np.ndarray:
    return looking(CAMERAS[name], [1.6, 0.004 * CAMERAS[name], 1.4])


def poses(matrices) -> dict[str, list]:
    rows = [[*wxyz(matrix), *matrix[:3, 3]] for matrix in matrices]
    return {name: [row[column] for row in rows] for column, name in enumerate(POSE)}


def write_table(path: Path, columns: dict, types: dict | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array(values, (types or {}).get(name)) for name, values in columns.items()})
    feather.write_feather(table, path, compression="zstd")


def write_argoverse(log: Path, sweeps: int = 10) -> Path:
    """Sweeps 0.1 s apart, pictures 0.05, poses at all their times and every 7 ms, some twice, 1 ns apart."""
    lidar = [START + index * 100_000_000 for index in range(sweeps)]
    taken = {name: [START + 7_000_000 + index * 50_000_000 + 1_000_000 * abs(yaw) // 10 for index in range(2 * sweeps)]
             for name, yaw in CAMERAS.items()}
    for number, stamp in enumerate(lidar):
        _write_sweep(log, number, stamp)
    for name, stamps in taken.items():
        folder = log / "sensors" / "cameras" / name
        folder.mkdir(parents=True)
        for number, stamp in enumerate(stamps):
            (folder / f"{stamp}.jpg").write_bytes(jpeg(*size(name), number))
    between = range(START - 30_000_000, lidar[-1] + 120_000_000, 7_000_000)
    posed = sorted({*lidar, *between, *(stamp + 1 for stamp in lidar), *(stamp for all in taken.values() for stamp in all)})
    write_table(log / "city_SE3_egovehicle.feather",
                {"timestamp_ns": posed, **poses([vehicle((stamp - START) / 1e9) for stamp in posed])})
    up = pose(Rotation.from_euler("Z", 0.3, degrees=True), [1.35, 0, 1.64])
    down = pose(Rotation.from_euler("X", 179, degrees=True), [1.355, 0, 1.57])
    write_table(log / "calibration" / "egovehicle_SE3_sensor.feather", {
        "sensor_name": [*CAMERAS, "up_lidar", "down_lidar"],
        **poses([*(camera_pose(name) for name in CAMERAS), up, down])})
    fx, fy, cx, cy = K
    count = len(CAMERAS)
    write_table(log / "calibration" / "intrinsics.feather", {
        "sensor_name": list(CAMERAS), "fx_px": [fx] * count, "fy_px": [fy] * count,
        "cx_px": [cx] * count, "cy_px": [cy] * count, "k1": [-0.25] * count, "k2": [-0.13] * count, "k3": [0.2] * count,
        "height_px": [size(name)[1] for name in CAMERAS], "width_px": [size(name)[0] for name in CAMERAS]},
        {"height_px": pa.uint16(), "width_px": pa.uint16()})
    _write_annotations(log, lidar)
    return log


def _write_sweep(log: Path, number: int, stamp: int) -> None:
    points, count = seen(np.linalg.inv(vehicle((stamp - START) / 1e9)), POSTS), len(POSTS)
    # The real ones have half floats, centimetres coarse; every second sweep here is finer, to see how exact the rest is.
    number_type = pa.float16() if number % 2 else pa.float32()
    values = points.astype(np.float16 if number % 2 else np.float32)
    write_table(log / "sensors" / "lidar" / f"{stamp}.feather", {
        "x": values[:, 0], "y": values[:, 1], "z": values[:, 2], "intensity": list(range(0, 10 * count, 10)),
        "laser_number": [index * 11 for index in range(count)], "offset_ns": [index * 1000 for index in range(count)]},
        {"x": number_type, "y": number_type, "z": number_type, "intensity": pa.uint8(), "laser_number": pa.uint8(),
         "offset_ns": pa.int32()})


def _write_annotations(log: Path, lidar: list[int]) -> None:
    rows = [(lidar[index], track, *LWH[track], np.linalg.inv(vehicle(0.1 * index)) @ where(0.1 * index), category)
            for track, (where, frames, category) in BOXED.items() for index in frames if index < len(lidar)]
    rows.sort(key=lambda row: row[0])
    stamps, tracks, lengths, widths, heights, placed, categories = zip(*rows)
    write_table(log / "annotations.feather", {
        "timestamp_ns": stamps, "track_uuid": tracks, "category": categories, "length_m": lengths, "width_m": widths,
        "height_m": heights, **poses(placed), "num_interior_pts": [10] * len(rows)})
