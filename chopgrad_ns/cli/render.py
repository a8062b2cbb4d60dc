"""Render a splat along a trajectory through a scene's training cameras, frame by frame to disk.

Example: chopgrad render captures/fox --splat fox.ply --output fox-render --frames 300
"""

from pathlib import Path
from typing import Annotated

import tyro


def run(scene: Annotated[Path, tyro.conf.Positional], splat: Path, output: Path, every: int = 8,
        longest_side: int = 240, frames: int = 48, beside: float = 0.0, fps: int = 12, depth: bool = False) -> None:
    """Render a trajectory.

    Args:
        scene: the scene that the splat was fitted to
        splat: splat in the scene's coordinates
        output: folder for `frames/*.png` and `render.mp4`; an older rendering there is replaced
        every: every N-th view is a training view; the trajectory runs through these
        longest_side: pixels
        frames: length of the trajectory, any number: they are not held in memory
        beside: how far it runs beside the training cameras, in spacings between neighbouring ones
        fps: frames per second of the video
        depth: write `depth/*.npy` too: float32, z in the scene's units, 0 where nothing is
    """
    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.cli.scenes import open_scene
    from chopgrad_ns.data import paths
    from chopgrad_ns.data.trajectory import render_to_disk
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.splat.gaussians import Gaussians

    if min(frames, fps) < 1:
        raise UserError(f"--frames is {frames} and --fps {fps}; give 1 or more for each.")
    gaussians = Gaussians.load(splat)
    cameras = open_scene(scene, every, longest_side).training_views().cameras
    with bar("rendering") as progress:
        render_to_disk(gaussians, paths.beside(cameras, frames, beside), output, fps, depth, progress)
    print(f"{frames} frames and render.mp4 are in {output}")
