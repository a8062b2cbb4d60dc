"""A scene's training views, for commands that run without nerfstudio's trainer."""

from pathlib import Path

from chopgrad_ns.data.scene import check_scene
from chopgrad_ns.splat.sparse import DepthPrior


def open_scene(scene: Path, every: int, longest_side: int, depth_prior: DepthPrior | None = None):
    """nerfstudio's own loading and undistortion: the `SparseViewsDataManager` of `scene`.

    `depth_prior`: which prior depths its training views come with.
    """
    from chopgrad_ns.plugin.datamanager import SparseViewsDataManagerConfig

    check_scene(scene)
    config = SparseViewsDataManagerConfig(data=scene, longest_side=longest_side)
    config.dataparser.every = every
    config.depth_prior = depth_prior
    return config.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)
