"""Render a splat along a trajectory through a scene's training cameras and refine the frames in one step.

Example: chopgrad refine captures/fox --splat fox.ply --refiner refiner --output fox-refined
"""

from pathlib import Path
from typing import Annotated

import tyro


def run(scene: Annotated[Path, tyro.conf.Positional], splat: Path, output: Path, refiner: str = "tiny", every: int = 8,
        longest_side: int = 240, frames: int = 48, beside: float = 0.0, references: int = 2, fps: int = 12) -> None:
    """Refine a trajectory.

    Args:
        scene: the scene that the splat was fitted to
        splat: PLY, compressed PLY or SPZ in the scene's coordinates
        output: folder for `frames/*.png`, `splat.mp4`, `refined.mp4` and `before_after.mp4`
        refiner: "tiny", a folder with a refiner, or "blend", which has learnt nothing: it moves each pixel half way to the
            photos warped there, as far as these can be believed
        every: every N-th view is a training view, and may serve as a reference
        longest_side: pixels
        frames: length of the trajectory
        beside: how far it runs beside the training cameras, in spacings between neighbouring ones
        references: training photos warped into each frame
        fps: frames per second of the videos
    """
    from chopgrad_ns.cli.scenes import open_scene
    from chopgrad_ns.data import paths
    from chopgrad_ns.data.references import blend_baseline
    from chopgrad_ns.data.render_clip import render_clip
    from chopgrad_ns.data.video import side_by_side, write_frames, write_video
    from chopgrad_ns.refiner import Refiner
    from chopgrad_ns.splat.gaussians import Gaussians

    model = blend_baseline if refiner == "blend" else Refiner.from_pretrained(refiner, task="artifact-removal")
    gaussians = Gaussians.load(splat)
    views = open_scene(scene, every, longest_side).training_views()
    cameras = paths.beside(views.cameras, frames, beside)
    clip = render_clip(gaussians, cameras, views, count=references)
    refined = model(clip)
    output.mkdir(parents=True, exist_ok=True)
    write_frames(output / "frames", refined)
    write_video(output / "splat.mp4", clip.frames, fps)
    write_video(output / "refined.mp4", refined, fps)
    write_video(output / "before_after.mp4", side_by_side(clip.frames, refined), fps)
    print(f"{frames} frames and the videos are in {output}")
