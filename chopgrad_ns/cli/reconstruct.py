"""Fit a splat to sparse views of a nerfstudio or COLMAP scene and write it as PLY, compressed PLY or SPZ.

Example: chopgrad reconstruct captures/fox --output fox.ply --every 8
"""

from pathlib import Path
from typing import Annotated

import tyro


def run(scene: Annotated[Path, tyro.conf.Positional], output: Path = Path("splat.ply"), every: int = 8,
        longest_side: int = 240, steps: int = 1500) -> None:
    """Fit a splat.

    Args:
        scene: folder with transforms.json, or with images and a COLMAP model
        output: name.ply, name.compressed.ply or name.spz
        every: every N-th view is fitted to
        longest_side: pixels
        steps: training steps
    """
    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.cli.scenes import open_scene
    from chopgrad_ns.splat.files import format_to_write
    from chopgrad_ns.splat.fit import FitSettings, fit

    format_to_write(output)  # before the work, not after
    views = open_scene(scene, every, longest_side).training_views()
    with bar("fitting") as progress:
        splat = fit(views.photos, views.cameras, views.points, views.colors, FitSettings(steps=steps), progress)
    splat.save(output)
    print(f"{len(splat)} Gaussians from {len(views)} views in {output}")
