"""A scene's training views, for commands that run without nerfstudio's trainer."""

from pathlib import Path

from chopgrad_ns.data.scene import check_scene


def open_scene(scene: Path, every: int, longest_side: int, depths: bool = False):
    """nerfstudio's own loading and undistortion: the `SparseViewsDataManager` of `scene`.

    `depths`: whether its training views come with prior depths, where anything tells them.
    """
    from chopgrad_ns.plugin.datamanager import SparseViewsDataManagerConfig

    check_scene(scene)
    config = SparseViewsDataManagerConfig(data=scene, longest_side=longest_side)
    config.dataparser.every = every
    config.depths = depths
    return config.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)
