"""nerfstudio's cameras (OpenGL axes) to ours (OpenCV axes) and back: the only place where the two meet."""

from dataclasses import replace

import torch
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.cameras.cameras import CameraType

from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.cameras import Cameras


def to_opencv(cameras: NerfstudioCameras, seconds: float = 1.0) -> Cameras:
    """Undistorted perspective cameras of one size. Raises UserError for other kinds or mixed sizes.

    `seconds`: how long 1 is, in nerfstudio's times, which go from 0 to 1 (the viewer's slider does). Rolling shutters are in
    its metadata, under our names.
    """
    cameras = cameras.flatten() if cameras.shape else cameras.reshape((1,))
    kinds = set(cameras.camera_type.flatten().tolist())
    if kinds != {CameraType.PERSPECTIVE.value}:
        raise UserError("The scene has cameras that are not perspective; convert the photos to perspective ones first.")
    sizes = set(zip(cameras.width.flatten().tolist(), cameras.height.flatten().tolist()))
    if len(sizes) != 1:
        raise UserError(f"The photos have different sizes {sorted(sizes)}; a trajectory needs one size, so resize or crop them.")
    (width, height), = sizes
    flat = (value.flatten() for value in (cameras.fx, cameras.fy, cameras.cx, cameras.cy))
    times = None if cameras.times is None else seconds * cameras.times.flatten()
    rolling = {name: cameras.metadata[name] for name in ("readout", "motion") if name in (cameras.metadata or {})}
    seen = Cameras.from_opengl(cameras.camera_to_worlds, *flat, width=int(width), height=int(height), times=times)
    return replace(seen, **rolling)


def to_nerfstudio(cameras: Cameras, seconds: float = 1.0) -> NerfstudioCameras:
    """The same cameras as nerfstudio wants them; `seconds` as above."""
    flip = torch.diag(cameras.K.new_tensor([1.0, -1.0, -1.0, 1.0]))
    c2w = (cameras.world_from_camera @ flip)[:, :3]
    K = cameras.K
    return NerfstudioCameras(camera_to_worlds=c2w, fx=K[:, 0, 0, None], fy=K[:, 1, 1, None], cx=K[:, 0, 2, None],
                             cy=K[:, 1, 2, None], width=cameras.width, height=cameras.height,
                             camera_type=CameraType.PERSPECTIVE,
                             times=None if cameras.times is None else cameras.times[:, None] / seconds)
