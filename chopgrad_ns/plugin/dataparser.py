"""Sparse views of any nerfstudio or COLMAP scene.

nerfstudio imports this module while its own data managers are being imported, so it must not import those.
"""

import contextlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Type

import numpy as np
import torch
import tyro
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from chopgrad_ns.data.open3d_import import import_open3d
from chopgrad_ns.data.scene import check_scene, find_colmap_model, sparse_split


@dataclass
class SparseViewsDataParserConfig(DataParserConfig):
    """Every N-th view by file name for training, the rest for evaluation."""

    _target: Type = field(default_factory=lambda: SparseViewsDataParser)
    data: Path = Path()
    """a nerfstudio scene (transforms.json) or a folder with images and a COLMAP model"""
    every: int = 8
    """every N-th view is trained on"""
    hold_out: tyro.conf.Suppress[bool] = True
    """without it all views are trained on, and nothing can be judged: for making pairs only"""


class SparseViewsDataParser(DataParser):
    """Reads the scene with nerfstudio's own parsers and splits it anew; the scene's points seed the splat."""

    config: SparseViewsDataParserConfig
    downscale_factor: int = 1

    def check(self) -> None:
        """Raise UserError for a scene that cannot be read or split."""
        self.get_dataparser_outputs(split="train")

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        everything = self._everything()
        names = [str(name) for name in everything.image_filenames]
        if self.config.hold_out:
            train, held_out = sparse_split(names, self.config.every)
        else:
            train = sorted(range(len(names)), key=lambda index: names[index])
            held_out = train[:1]  # nerfstudio's data managers want a view to evaluate on
        return _select(everything, train if split == "train" else held_out)

    def _everything(self) -> DataparserOutputs:
        scene = Path(self.config.data)
        if check_scene(scene) == "nerfstudio":
            import_open3d()  # the parser imports it to read the point cloud
            config = NerfstudioDataParserConfig(data=scene, eval_mode="all", load_3D_points=True, downscale_factor=1)
        else:
            model = find_colmap_model(scene)
            config = ColmapDataParserConfig(data=scene, eval_mode="all", downscale_factor=1,
                                            colmap_path=model.relative_to(scene))
        # The parser warns that an "all" split may mislead; the split made here is another one.
        with contextlib.redirect_stdout(io.StringIO()):
            return config.setup().get_dataparser_outputs(split="train")


def _select(outputs: DataparserOutputs, indices: list[int]) -> DataparserOutputs:
    """The views at `indices`, sharing scene box, transform and seed points."""

    def pick(names):
        return None if names is None else [names[i] for i in indices]

    metadata = dict(outputs.metadata)
    metadata["depth_filenames"] = pick(metadata.get("depth_filenames"))
    return DataparserOutputs(
        image_filenames=pick(outputs.image_filenames),
        cameras=outputs.cameras[torch.from_numpy(np.asarray(indices, dtype=np.int64))],
        alpha_color=outputs.alpha_color,
        scene_box=outputs.scene_box,
        mask_filenames=pick(outputs.mask_filenames),
        metadata=metadata,
        dataparser_transform=outputs.dataparser_transform,
        dataparser_scale=outputs.dataparser_scale,
    )


chopgrad_sparse = DataParserSpecification(
    config=SparseViewsDataParserConfig(),
    description="Every N-th view of a nerfstudio or COLMAP scene for training, the others held out.",
)
