"""Fit a splat to sparse views of a nerfstudio or COLMAP scene, or a scene graph to a recorded drive.

Example: chopgrad reconstruct captures/fox --output fox.ply --every 8
Example: chopgrad reconstruct drives/street-1 --output street-1-scene --steps 3000
"""

from pathlib import Path
from typing import Annotated, Literal, Optional

import tyro


def run(scene: Annotated[Path, tyro.conf.Positional], output: Optional[Path] = None, every: Optional[int] = None,
        longest_side: int = 240, steps: int = 1500, strategy: Literal["default", "mcmc"] = "default",
        max_gaussians: int = 60_000, sh_degree: Literal[0, 1, 2, 3] = 2, opacity_reg: Optional[float] = None,
        scale_reg: Optional[float] = None, depth_weight: float = 0.3,
        depth_prior: Literal["metric", "relative", "points"] = "metric", seed: int = 0) -> None:
    """Fit a splat, or what stands still, actors and sky of a drive.

    Args:
        scene: folder with transforms.json, or with images and a COLMAP model, or a recorded drive (Waymo, DGP, KITTI odometry,
            nuScenes, Argoverse 2)
        output: name.ply, name.compressed.ply or name.spz (splat.ply unless given); of a drive, a folder for the scene graph
            (scene unless given), in the drive's metres
        every: every N-th view is fitted to, of a drive every N-th frame; by default 8, of a drive 2
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
    from chopgrad_ns.data.drives.open import format_of
    from chopgrad_ns.data.pairs import fit_views
    from chopgrad_ns.errors import check_least
    from chopgrad_ns.splat.files import format_to_write
    from chopgrad_ns.splat.fit import FitSettings

    check_least(longest_side=(longest_side, 16), steps=(steps, 1), max_gaussians=(max_gaussians, 1))
    settings = FitSettings(steps=steps, strategy=strategy, max_gaussians=max_gaussians, sh_degree=sh_degree,
                           opacity_reg=opacity_reg, scale_reg=scale_reg, depth_weight=depth_weight,
                           depth_prior=depth_prior, seed=seed)
    prior = depth_prior if depth_weight > 0 else None
    if format_of(scene) is not None:
        _drive(scene, output or Path("scene"), 2 if every is None else every, longest_side, prior, settings)
        return
    output = output or Path("splat.ply")
    format_to_write(output)  # before the work, not after
    views = open_scene(scene, 8 if every is None else every, longest_side, prior).training_views()
    with bar("fitting") as progress:
        splat = fit_views(views, settings, progress)
    splat.save(output)
    print(f"{len(splat)} Gaussians from {len(views)} views in {output}")


def _drive(path: Path, output: Path, every: int, longest_side: int, prior: Optional[str], settings) -> None:
    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.cli.scenes import open_recording
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.plugin.drive_scene import fit_drive
    from chopgrad_ns.sim.scene_graph import check_writable

    if output.suffix.lower() in (".ply", ".spz"):
        raise UserError(f"The scene graph of a drive is a folder, not one file like {output}; name a folder, in which "
                        "background.ply and the actors' will be.")
    check_writable(output)
    manager = open_recording(path, every, longest_side, prior)
    with bar("fitting") as progress:
        scene = fit_drive(manager, settings, progress)
    scene.save(output)
    print(f"{len(scene.background)} Gaussians that stand still, and {len(scene.nodes)} actors, in {output}")
