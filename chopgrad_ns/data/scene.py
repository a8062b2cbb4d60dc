"""The border where scenes enter: what is wrong is said in one sentence, before anything is computed."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from chopgrad_ns.data.drives.open import format_of
from chopgrad_ns.data.pictures import open_picture
from chopgrad_ns.errors import UserError

COLMAP_FOLDERS = ("colmap/sparse/0", "sparse/0", "colmap/sparse", "sparse")


def check_scene(scene: Path) -> Literal["nerfstudio", "colmap"]:
    """Say what kind of scene a folder holds, or raise UserError with what is wrong, where, and the remedy."""
    scene = Path(scene)
    if not scene.exists():
        raise UserError(f"There is no folder {scene}; give the folder of a nerfstudio or COLMAP scene.")
    if not scene.is_dir():
        raise UserError(f"{scene} is not a folder; give the folder that holds transforms.json or the COLMAP "
                        "model.")
    if (scene / "transforms.json").exists():
        _check_transforms(scene)
        return "nerfstudio"
    _check_colmap(scene, find_colmap_model(scene))
    return "colmap"


def find_colmap_model(scene: Path) -> Path:
    """The folder with `cameras` and `images`, binary or text. Raises UserError where there is none."""
    for name in COLMAP_FOLDERS:
        folder = scene / name
        if any(all((folder / f"{part}.{kind}").exists() for part in ("cameras", "images"))
               for kind in ("bin", "txt")):
            return folder
    kind = format_of(scene)
    if kind is not None:
        raise UserError(f"{scene} is a recorded drive, which ns-train chopgrad-refine takes with the name of its format last "
                        f"(--data {scene} {kind}), and chopgrad reconstruct as it is; give it to one of these.")
    raise UserError(f"{scene} holds neither transforms.json nor a COLMAP model "
                    f"({' or '.join(COLMAP_FOLDERS[:2])}); run "
                    "ns-process-data, or give the folder above the model.")


def sparse_split(names: Sequence[str], every: int) -> tuple[list[int], list[int]]:
    """Indices of training and held-out views: by name, every `every`-th trains, starting with the first.

    The two never overlap. Raises UserError where fewer than two views would train, or none be left to
    evaluate on.
    """
    if every < 1:
        raise UserError(f"--refine.every is {every}, which takes no views; give 2 or more.")
    order = sorted(range(len(names)), key=lambda index: names[index])
    train = order[::every]
    held_out = [index for position, index in enumerate(order) if position % every]
    if len(train) < 2:
        raise UserError(f"Every {every}th of {len(names)} views leaves {len(train)} to train on, and 2 are "
                        "needed; give a smaller --refine.every.")
    if not held_out:
        raise UserError(f"With --refine.every {every} all {len(names)} views train and none is held out to "
                        "judge by; give 2 or more.")
    return train, held_out


def _check_transforms(scene: Path) -> None:
    path = scene / "transforms.json"
    try:
        meta = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); make it again with "
                        "ns-process-data.") from error
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise UserError(f"{path} has no list of frames; make it again with ns-process-data.")
    if len(frames) < 2:
        raise UserError(f"{path} lists {len(frames)} frames, and at least 2 views are needed; capture more.")
    unnamed = [index for index, frame in enumerate(frames) if not isinstance(frame.get("file_path"), str)]
    if unnamed:
        raise UserError(f"Frame {unnamed[0]} of {path} has no file_path; write the path of its image there.")
    missing = [frame["file_path"] for frame in frames if not (scene / frame["file_path"]).is_file()]
    if missing:
        raise UserError(f"{len(missing)} of {len(frames)} images named in {path} are missing, the first is "
                        f"{missing[0]}; put them there or correct file_path.")
    for index, frame in enumerate(frames):
        where = f"frame {index} ({frame['file_path']}) of {path}"
        _check_pose(frame.get("transform_matrix"), where)
        width, height = (_number(frame.get(key, meta.get(key)), key, where) for key in ("w", "h"))
        for key in ("fl_x", "fl_y", "cx", "cy"):
            _number(frame.get(key, meta.get(key)), key, where)
        _check_size(scene / frame["file_path"], int(width), int(height), where)


def _number(value, key: str, where: str) -> float:
    if value is None:
        raise UserError(f"{where[0].upper() + where[1:]} has no {key}; write the camera's value in pixels.")
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise UserError(f"{key} of {where} is {value}; write the camera's positive value in pixels.")
    return value


def _check_pose(pose, where: str) -> None:
    try:
        matrix = np.array(pose, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape not in ((3, 4), (4, 4)):
        raise UserError(f"transform_matrix of {where} is not a 4×4 matrix; write the camera-to-world pose "
                        "there.")
    if not np.isfinite(matrix).all():
        raise UserError(f"The pose of {where} is not finite (NaN or infinite); remove the frame or estimate "
                        "its pose again.")
    rotation = matrix[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-2 or np.linalg.det(rotation) < 0:
        raise UserError(f"The pose of {where} is not a rigid motion (its rotation is scaled, sheared or "
                        "mirrored); write a camera-to-world pose.")


def _check_size(path: Path, width: int, height: int, where: str) -> None:
    with open_picture(path, f"image of {where}", "save it again as PNG or JPEG") as picture:
        found = picture.size
    if found != (width, height):
        raise UserError(f"The image of {where} is {found[0]}×{found[1]} px, but {width}×{height} is stated; "
                        "resize it, or correct w and h together with the intrinsics.")


def _check_colmap(scene: Path, model: Path) -> None:
    from nerfstudio.data.utils import colmap_parsing_utils as colmap

    # As nerfstudio chooses: text where there is a cameras.txt.
    kind, suffix = ("text", "txt") if (model / "cameras.txt").exists() else ("binary", "bin")
    try:
        cameras = getattr(colmap, f"read_cameras_{kind}")(model / f"cameras.{suffix}")
        images = getattr(colmap, f"read_images_{kind}")(model / f"images.{suffix}")
    except Exception as error:  # the reader raises whatever a damaged file leads to
        raise UserError(f"The COLMAP model in {model} cannot be read ({error}); export it again.") from error
    if not any((model / f"points3D.{kind}").exists() for kind in ("bin", "txt")):
        raise UserError(f"The COLMAP model in {model} has no points3D file; export the model with its "
                        "points.")
    if len(images) < 2:
        raise UserError(f"The COLMAP model in {model} has {len(images)} images, and at least 2 are needed; "
                        "register more.")
    missing = [image.name for image in images.values() if not (scene / "images" / image.name).is_file()]
    if missing:
        raise UserError(f"{len(missing)} of {len(images)} images of the COLMAP model are missing in "
                        f"{scene / 'images'}, the first is {missing[0]}; put the photos there.")
    for image in images.values():
        if not np.isfinite(np.concatenate([image.qvec, image.tvec])).all():
            raise UserError(f"The pose of {image.name} in {model} is not finite; remove the image or "
                            "register it again.")
        if abs(np.linalg.norm(image.qvec) - 1) > 1e-2:
            raise UserError(f"The rotation of {image.name} in {model} is not a unit quaternion; register "
                            "the image again.")
        camera = cameras.get(image.camera_id)
        if camera is None:
            raise UserError(f"{image.name} in {model} names camera {image.camera_id}, which is not there; "
                            "export the model again.")
        if not np.isfinite(camera.params).all() or camera.params[0] <= 0:
            raise UserError(f"The intrinsics of camera {camera.id} in {model} are {camera.params.tolist()}; "
                            "export the model again.")
        _check_size(scene / "images" / image.name, camera.width, camera.height, f"{image.name} in {model}")
