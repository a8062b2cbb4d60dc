"""A scene's views, for commands that run without nerfstudio's trainer."""

from dataclasses import dataclass
from pathlib import Path

from chopgrad_ns.data.scene import check_scene
from chopgrad_ns.data.views import Views
from chopgrad_ns.splat.sparse import DepthPrior


def open_scene(scene: Path, every: int, longest_side: int, depth_prior: DepthPrior | None = None, hold_out: bool = True):
    """nerfstudio's own loading and undistortion: the `SparseViewsDataManager` of `scene`.

    `depth_prior`: which prior depths its training views come with. Without `hold_out` all views are training views.
    """
    from chopgrad_ns.plugin.datamanager import SparseViewsDataManagerConfig

    check_scene(scene)
    config = SparseViewsDataManagerConfig(data=scene, longest_side=longest_side)
    config.dataparser.every, config.dataparser.hold_out = every, hold_out
    config.depth_prior = depth_prior
    return config.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)


@dataclass
class NamedViews:
    """Views with the names of their photos, relative to the scene, and of the cameras of the rig that took them.

    A photo's camera is its folder.
    """

    views: Views
    names: list[str]
    cameras: list[str]


def named_views(scene: Path, every: int, longest_side: int, depth_prior: DepthPrior, hold_out: bool) -> NamedViews:
    """The training views of a scene, in order of their names; all its views without `hold_out`."""
    manager = open_scene(scene, every, longest_side, depth_prior, hold_out)
    paths = [Path(path) for path in manager.train_dataset.image_filenames]
    names = [str(path.relative_to(scene)) if path.is_relative_to(scene) else path.name for path in paths]
    return NamedViews(manager.training_views(), names, [path.parent.name for path in paths])
