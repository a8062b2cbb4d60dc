"""A tiny nuScenes: all 13 tables, a map, pictures and turns of the lidar, in the real layout."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.recorded_world import POSTS, car, jpeg, looking, pose, seen, vehicle, walker, wxyz, Rotation

VERSION = "v1.0-mini"
START = 1_532_402_927_647_951
SIZE = (96, 56)
K = [[70.0, 0, 47.3], [0, 71.0, 28.9], [0, 0, 1]]
CAMERAS = {"CAM_FRONT": (0, 0.01), "CAM_FRONT_LEFT": (55, 0.004), "CAM_FRONT_RIGHT": (-55, -0.013), "CAM_BACK": (180, 0.02)}
"""Each with where it looks, and how many seconds after the lidar it is exposed."""
LIDAR = pose(Rotation.from_euler("Z", -89, degrees=True), [0.94, 0.02, 1.84])
CAR, WALKER, CYCLIST = "c" * 32, "e" * 32, "f" * 32
WLH = {CAR: (1.9, 4.5, 1.6), WALKER: (0.7, 0.6, 1.8), CYCLIST: (0.6, 1.7, 1.5)}
BOXED = {CAR: (car, range(5)), WALKER: (walker, [2]), CYCLIST: (walker, [0, 1, 3])}
"""In which keyframes each is annotated."""


def camera_pose(name: str) -> np.ndarray:
    return looking(CAMERAS[name][0], [1.5, 0.01 * CAMERAS[name][0], 1.5])


def write_nuscenes(root: Path, keyframes: int = 5, scenes: tuple[str, ...] = ("scene-0061",)) -> Path:
    """Keyframes come 0.5 s apart, turns of the lidar 0.05, pictures 1/12; scenes after the first have no sweeps."""
    tables = {name: [] for name in ("attribute", "calibrated_sensor", "ego_pose", "sample", "sample_annotation", "sample_data",
                                    "scene")}
    tables["visibility"] = [{"token": "4", "level": "v80-100", "description": "visibility of whole object"}]
    tables["log"] = [{"token": "log", "logfile": "n015", "vehicle": "n015", "date_captured": "2018-07-24", "location": "x"}]
    tables["map"] = [{"token": "map", "log_tokens": ["log"], "category": "semantic_prior", "filename": "maps/36.png"}]
    names = {CAR: "vehicle.car", WALKER: "human.pedestrian.adult", CYCLIST: "vehicle.bicycle"}
    tables["category"] = [{"token": token, "name": name, "description": ""} for token, name in names.items()]
    tables["instance"] = [{"token": token, "category_token": token, "nbr_annotations": len(list(BOXED[token][1])),
                           "first_annotation_token": "", "last_annotation_token": ""} for token in names]
    tables["sensor"] = [{"token": name, "channel": name, "modality": "lidar" if name == "LIDAR_TOP" else "camera"}
                        for name in ("LIDAR_TOP", *CAMERAS)]
    (root / "maps").mkdir(parents=True)
    Image.new("L", (4, 4)).save(root / "maps" / "36.png")
    for number, scene in enumerate(scenes):
        _write_scene(root, tables, scene, number, keyframes)
    (root / VERSION).mkdir()
    for name, rows in tables.items():
        (root / VERSION / f"{name}.json").write_text(json.dumps(rows))
    return root


def _write_scene(root, tables, scene, number, keyframes):
    start, prefix = START + number * 60_000_000, f"{scene}-"
    samples = [f"{prefix}sample{index}" for index in range(keyframes)]
    tables["scene"].append({"token": f"{prefix}token", "log_token": "log", "nbr_samples": keyframes, "name": scene,
                            "first_sample_token": samples[0], "last_sample_token": samples[-1], "description": ""})
    tables["sample"] += [{"token": token, "timestamp": start + index * 500_000, "scene_token": f"{prefix}token",
                          "prev": samples[index - 1] if index else "", "next": [*samples, ""][index + 1]}
                         for index, token in enumerate(samples)]
    for name in ("LIDAR_TOP", *CAMERAS):
        offset = CAMERAS[name][1] if name in CAMERAS else 0.0
        every = (0.05 if name == "LIDAR_TOP" else 1 / 12) if number == 0 else 0.5
        vehicle_from_sensor = camera_pose(name) if name in CAMERAS else LIDAR
        tables["calibrated_sensor"].append({
            "token": prefix + name, "sensor_token": name, "translation": vehicle_from_sensor[:3, 3].tolist(),
            "rotation": wxyz(vehicle_from_sensor), "camera_intrinsic": K if name in CAMERAS else []})
        count = round((keyframes - 1) * 0.5 / every) + 1
        for index in range(count):
            _write_data(root, tables, name, prefix, start, index, index * every + offset, every, samples)
    for track, (where, frames) in BOXED.items():
        for index in (index for index in frames if index < keyframes and number == 0):
            at = where(index * 0.5)
            tables["sample_annotation"].append({
                "token": f"{prefix}{track[:3]}{index}", "sample_token": samples[index], "instance_token": track,
                "visibility_token": "4", "attribute_tokens": [], "translation": at[:3, 3].tolist(), "size": list(WLH[track]),
                "rotation": wxyz(at), "prev": "", "next": "", "num_lidar_pts": 5, "num_radar_pts": 0})


def _write_data(root, tables, name, prefix, start, index, time, every, samples):
    stamp = start + round(time * 1e6)
    key = index % round(0.5 / every) == 0
    token = f"{prefix}{name}{index}"
    ending = "jpg" if name in CAMERAS else "pcd.bin"
    file = Path("samples" if key else "sweeps", name, f"n015__{name}__{stamp}.{ending}")
    sample = samples[min(-(-index // round(0.5 / every)), len(samples) - 1)]  # a sweep belongs to the keyframe after it
    now = vehicle((stamp - START) / 1e6)
    tables["ego_pose"].append({"token": token, "timestamp": stamp, "translation": now[:3, 3].tolist(), "rotation": wxyz(now)})
    tables["sample_data"].append({
        "token": token, "sample_token": sample, "ego_pose_token": token, "calibrated_sensor_token": prefix + name,
        "timestamp": stamp, "fileformat": ending[:3], "is_key_frame": key, "height": SIZE[1] if name in CAMERAS else 0,
        "width": SIZE[0] if name in CAMERAS else 0, "filename": str(file), "prev": "", "next": ""})
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    if name in CAMERAS:
        (root / file).write_bytes(jpeg(*SIZE, index))
    else:
        points = seen(np.linalg.inv(now @ LIDAR), POSTS)
        rows = np.concatenate([points, np.arange(len(POSTS))[:, None] * 10, np.full((len(POSTS), 1), 3)], axis=1)
        rows.astype(np.float32).tofile(root / file)
