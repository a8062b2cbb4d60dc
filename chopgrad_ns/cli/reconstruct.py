"""Fit a splat to sparse views of a nerfstudio or COLMAP scene and write it as PLY, compressed PLY or SPZ.

Example: chopgrad reconstruct captures/fox --output fox.ply --every 8
"""

from pathlib import Path
from typing import Annotated, Literal, Optional

import tyro


def run(scene: Annotated[Path, tyro.conf.Positional], output: Path = Path("splat.ply"), every: int = 8,
        longest_side: int = 240, steps: int = 1500, strategy: Literal["default", "mcmc"] = "default",
        max_gaussians: int = 60_000, sh_degree: Literal[0, 1, 2, 3] = 2, opacity_reg: Optional[float] = None,
        scale_reg: Optional[float] = None, depth_weight: float = 0.3,
        depth_prior: Literal["metric", "relative", "points"] = "metric", seed: int = 0) -> None:
    """Fit a splat.

    Args:
        scene: folder with transforms.json, or with images and a COLMAP model
        output: name.ply, name.compressed.ply or name.spz
        every: every N-th view is fitted to
        longest_side: pixels
        steps: training steps
        strategy: how Gaussians are made: 3DGS's densification by gradients, or Markov chain Monte Carlo
        max_gaussians: no more are made once there are this many
        sh_degree: highest degree of spherical harmonics; few views cannot tell more apart
        opacity_reg: weight of the mean opacity in the loss; by default 0.01 with mcmc, otherwise 0
        scale_reg: weight of the mean scale in the loss; by default 0.01 with mcmc, otherwise 0
        depth_weight: weight of the difference from prior depths, where the scene has any; 0 to leave them out
        depth_prior: the scene's depth maps, in its units or only relative (monocular estimates), or its points' depths
        seed: of everything drawn at random
    """
    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.cli.scenes import open_scene
    from chopgrad_ns.splat.files import format_to_write
    from chopgrad_ns.splat.fit import FitSettings, fit

    format_to_write(output)  # before the work, not after
    settings = FitSettings(steps=steps, strategy=strategy, max_gaussians=max_gaussians, sh_degree=sh_degree,
                           opacity_reg=opacity_reg, scale_reg=scale_reg, depth_weight=depth_weight,
                           depth_prior=depth_prior, seed=seed)
    views = open_scene(scene, every, longest_side, depth_prior if depth_weight > 0 else None).training_views()
    with bar("fitting") as progress:
        splat = fit(views.photos, views.cameras, views.points, views.colors, settings, progress, views.depths, views.masks)
    splat.save(output)
    print(f"{len(splat)} Gaussians from {len(views)} views in {output}")
