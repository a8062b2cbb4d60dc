"""A capture as a clip to be mended: splats of few views, seen along the views that were held out."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.cli.pair_jobs import fingerprint
from chopgrad_ns.cli.scenes import open_scene
from chopgrad_ns.data.clip import Clip
from chopgrad_ns.data.pairs import fit_views
from chopgrad_ns.data.render_clip import render_clip
from chopgrad_ns.data.views import Views
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.fit import FitSettings
from chopgrad_ns.splat.gaussians import Gaussians
from comparing.kept import keep, kept


@dataclass
class Scene:
    """A clip of held-out views in capture order, what they should look like, and where they are.

    `clip` is what an ensemble of splats shows together, which refiners mend, and `single` the first splat alone; they are one
    and the same where there is only that. `distance` is of each frame's camera to the nearest training view, in units of the largest
    distance between two of these.
    """

    name: str
    clip: Clip
    single: Clip
    truth: Float[Tensor, "t 3 h w"]
    names: list[str]
    distance: list[float]


def held_out_scene(path: Path, work: Path, every: int, longest_side: int, fit_settings: FitSettings, ensemble: int,
                   references: int, progress) -> Scene:
    """Fit splats to every `every`-th view, unless that has been done, and look at them from all others.

    Args:
        ensemble: splats, one seed after another
        references: training photos warped into each frame
    """
    manager = open_scene(path, every, longest_side, fit_settings.depth_prior if fit_settings.depth_weight else None)
    views, held = manager.training_views(), manager.held_out()
    recipe = {"scene": fingerprint(path), "every": every, "longest_side": longest_side}
    splats = [_splat(views, replace(fit_settings, seed=fit_settings.seed + number), work / f"splat-{number}", recipe, progress)
              for number in range(ensemble)]
    single = render_clip(splats[0], held.cameras, views, references)
    clip = render_clip(splats, held.cameras, views, references) if ensemble > 1 else single
    names = [image.stem for image in manager.eval_dataset.image_filenames]
    return Scene(path.resolve().name, clip, single, held.photos, names, view_distances(held.cameras, views.cameras))


def _splat(views: Views, settings: FitSettings, work: Path, recipe: dict, progress) -> Gaussians:
    recipe, file = recipe | {"settings": asdict(settings)}, work / "splat.ply"
    if kept(work, recipe) is None:
        work.mkdir(parents=True, exist_ok=True)
        splat = fit_views(views, settings, progress)
        splat.save(file)
        keep(work, recipe, {"gaussians": len(splat)})
    # Read again also when it was just made: a file rounds, and whether the work was interrupted must not show.
    return Gaussians.load(file)


def view_distances(cameras: Cameras, training: Cameras) -> list[float]:
    """Distance of each camera to the nearest training camera, divided by the largest distance between two of these."""
    extent = torch.cdist(training.centers, training.centers).max().clamp_min(1e-9)
    return (torch.cdist(cameras.centers, training.centers).min(dim=1).values / extent).tolist()
