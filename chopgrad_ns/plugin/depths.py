"""Depth maps of a nerfstudio scene as its undistorted, scaled cameras see them."""

from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.utils.data_utils import get_depth_image_from_path
from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.cameras import Cameras

UNITS_TOLERANCE = 1.25
"""By what factor depth maps may differ from points in the median: estimates and sensors do, units do by far more."""
LEAST_POINTS = 20
"""Pixels where both are known, below which nothing is concluded."""


def depth_maps(outputs: DataparserOutputs, cameras: Cameras) -> Float[Tensor, "t 1 h w"] | None:
    """Depth z in the units of `cameras`, 0 where unknown; None where the scene has no depth maps.

    Args:
        outputs: what the parser says of the photos of `cameras`, at their full size and before undistortion. Its
            `depth_unit_scale_factor` (file to scene) and `dataparser_scale` (scene to cameras) are both applied.

    Raises:
        UserError: for a depth map that is missing or cannot be read.
    """
    paths = outputs.metadata.get("depth_filenames")
    if not paths:
        return None
    scale = outputs.metadata["depth_unit_scale_factor"] * outputs.dataparser_scale
    maps = []
    for index, path in enumerate(paths):
        photo = outputs.cameras[index]
        try:
            depth = get_depth_image_from_path(path, int(photo.height), int(photo.width), scale)
        # OpenCV gives None for what it cannot read; NumPy takes files for archives that begin like them
        except (OSError, EOFError, ValueError, AttributeError, BadZipFile, cv2.error) as error:
            raise UserError(f"The depth map {path} cannot be read; write it as 16-bit PNG or as .npy, or take "
                            "depth_file_path out of transforms.json.") from error
        maps.append(_seen_by(depth[..., 0].numpy(), photo, cameras[index]))
    return torch.stack(maps)[:, None]


def check_units(maps: Float[Tensor, "t 1 h w"], points: Float[Tensor, "t 1 h w"]) -> None:
    """Raise UserError where depth maps are in other units than the scene's points, both 0 where unknown."""
    both = (maps > 0) & (points > 0)
    ratio = float((maps[both] / points[both]).median()) if both.sum() >= LEAST_POINTS else 1.0
    if not 1 / UNITS_TOLERANCE < ratio < UNITS_TOLERANCE:
        raise UserError(f"The depth maps put things {ratio:.3g} times as far away as the scene's points are; correct "
                        "their unit (millimetres of the scene), or take a relative depth prior, or a depth weight of 0.")


def _seen_by(depth: Float[np.ndarray, "h0 w0"], photo: NerfstudioCameras, camera: Cameras) -> Float[Tensor, "h w"]:
    """The nearest pixel of `depth`, taken by the distorted `photo`, for each of the undistorted `camera`'s."""
    k1, k2, k3, _, p1, p2 = (photo.distortion_params.tolist() if photo.distortion_params is not None else [0.0] * 6)
    before, after = photo.get_intrinsics_matrices().double().numpy(), camera.K[0].double().numpy()
    for K in (before, after):
        K[:2, 2] -= 0.5  # OpenCV's pixel centres are whole numbers
    columns, rows = cv2.initUndistortRectifyMap(before, np.array([k1, k2, p1, p2, k3]), None, after,
                                                (camera.width, camera.height), cv2.CV_32FC1)
    seen = cv2.remap(depth, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return torch.from_numpy(np.nan_to_num(seen, nan=0.0, posinf=0.0, neginf=0.0))
