"""A splat along a trajectory, frame by frame to disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from chopgrad_ns.data.video import frame_writer, video_writer
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import whole_folder
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.render import render_frames


def render_to_disk(splat: Gaussians, cameras: Cameras, folder: Path, fps: float, depth: bool = False,
                   progress: Callable[[int, int], None] | None = None) -> None:
    """Write `frames/00000.png`, …, `render.mp4` and, if asked for, `depth/00000.npy`, … [H, W], float32.

    Depth is expected z in world units, 0 where nothing is. Frames are written as they are drawn and not kept: memory
    does not grow with their number. The folder appears, in the place of an older rendering, when all is written.
    Raises UserError, before anything is drawn, for a folder with other things in it.
    """
    folder = Path(folder).resolve()
    _check_replaceable(folder)
    with whole_folder(folder) as unfinished, video_writer(unfinished / "render.mp4", fps) as add_to_video:
        add_frame = frame_writer(unfinished / "frames")
        if depth:
            (unfinished / "depth").mkdir()
        for index, seen in enumerate(render_frames(splat, cameras)):
            add_frame(seen.rgb[0])
            add_to_video(seen.rgb[0])
            if depth:
                np.save(unfinished / "depth" / f"{index:05d}.npy", seen.depth[0, 0].cpu().numpy())
            if progress is not None:
                progress(index + 1, len(cameras))


def _check_replaceable(folder: Path) -> None:
    if folder.is_file():
        raise UserError(f"{folder} is a file; give a folder to write frames to.")
    strange = sorted({path.name for path in folder.glob("*")} - {"frames", "depth", "render.mp4"})
    if strange:
        raise UserError(f"{folder} holds {strange[0]}, which no rendering wrote; give a folder that may be replaced.")
