"""Photos at the training resolution, and refined frames mixed among them."""

import random
from dataclasses import dataclass, field
from functools import cached_property
from typing import Dict, Literal, Optional, Tuple, Type

import torch
import tyro
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset

from chopgrad_ns.data.depths import depths_from_points
from chopgrad_ns.data.pictures import UNREADABLE, open_picture
from chopgrad_ns.data.views import Rig, Views
from chopgrad_ns.distill.store import PseudoObservations
from chopgrad_ns.errors import UserError
from chopgrad_ns.plugin.cameras import to_nerfstudio, to_opencv
from chopgrad_ns.plugin.dataparser import SparseViewsDataParserConfig, chopgrad_sparse
from chopgrad_ns.plugin.depths import check_units, depth_maps
from chopgrad_ns.plugin.drive_scene import lidar_depths, rig_of, seconds_of
from chopgrad_ns.plugin.drives import DRIVE_PARSERS
from chopgrad_ns.plugin.model import PRIOR_DEPTH
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.sparse import DepthPrior

SIZE_TOLERANCE = 4
"""Undistortion may crop photos of one camera to sizes that differ by a few pixels; more than this is refused."""


AnyDataParser = tyro.conf.OmitSubcommandPrefixes[tyro.extras.subcommand_type_from_defaults(
    {"chopgrad-sparse": SparseViewsDataParserConfig(), **DRIVE_PARSERS},
    {"chopgrad-sparse": chopgrad_sparse.description, **{name: type(parser).__doc__ for name, parser in DRIVE_PARSERS.items()}},
    prefix_names=False)]


@dataclass
class SparseViewsDataManagerConfig(FullImageDatamanagerConfig):
    """Full-image data manager over sparse views and, later, refined frames."""

    _target: Type = field(default_factory=lambda: SparseViewsDataManager)
    dataparser: AnyDataParser = field(default_factory=SparseViewsDataParserConfig)
    """a capture, or by its format's name a recorded drive"""
    longest_side: tyro.conf.Suppress[int] = 240
    pseudo_share: tyro.conf.Suppress[float] = 0.4
    # Set through the model's `depth_prior` and `depth_weight`; none are read where it is None.
    depth_prior: tyro.conf.Suppress[Optional[DepthPrior]] = None
    # "gpu" means the training device, whichever it is; "cpu" would pin memory, which needs CUDA.
    cache_images: Literal["cpu", "gpu"] = "gpu"


@dataclass
class HeldOut:
    """Photos to judge by: `photos` [M, 3, H, W] in 0…1; `masks` [M, 1, H, W], False where something may move, and `rig` of a
    drive.
    """

    photos: torch.Tensor
    cameras: Cameras
    masks: Optional[torch.Tensor] = None
    rig: Optional[Rig] = None


class ExactlyScaledDataset(InputDataset):
    """nerfstudio's dataset, with intrinsics scaled by the size the photos really get.

    Sizes are rounded down to whole pixels; nerfstudio scales the intrinsics by the unrounded factor, which is up to
    one pixel off at the far edge.
    """

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0):
        super().__init__(dataparser_outputs, scale_factor)
        before, after = dataparser_outputs.cameras, self.cameras
        x = after.width / (before.width * scale_factor)
        y = after.height / (before.height * scale_factor)
        after.fx, after.cx = after.fx * x, after.cx * x
        after.fy, after.cy = after.fy * y, after.cy * y

    def check_readable(self) -> None:
        """Raise UserError for the first photo or mask that cannot be decoded."""
        masks = self._dataparser_outputs.mask_filenames or []
        for kind, paths in (("image", self.image_filenames), ("mask", masks)):
            for path in paths:
                with open_picture(path, f"{kind} {path}", "save it again as PNG or JPEG") as picture:
                    picture.load()


class SparseViewsDataManager(FullImageDatamanager):
    """Draws training photos in shuffled epochs and, once there are any, refined frames at `pseudo_share`."""

    config: SparseViewsDataManagerConfig
    pseudo: Optional[PseudoObservations] = None

    def _scale(self, outputs: DataparserOutputs) -> float:
        longest = int(torch.maximum(outputs.cameras.width.max(), outputs.cameras.height.max()))
        if longest <= self.config.longest_side:
            return 1.0
        # A hundredth of a pixel keeps whole sizes from being rounded down to one less.
        return (self.config.longest_side + 0.01) / longest

    def create_train_dataset(self) -> InputDataset:
        return ExactlyScaledDataset(self.train_dataparser_outputs, self._scale(self.train_dataparser_outputs))

    def create_eval_dataset(self) -> InputDataset:
        outputs = self.dataparser.get_dataparser_outputs(split=self.test_split)
        return ExactlyScaledDataset(outputs, self._scale(outputs))

    def _load_images(self, split, cache_images_device):
        dataset = self.train_dataset if split == "train" else self.eval_dataset
        try:
            images = super()._load_images(split, cache_images_device)
        except UNREADABLE as error:
            dataset.check_readable()
            raise UserError(f"The images of the scene cannot be read ({error}); save them again as PNG or "
                            "JPEG.") from error
        _crop_to_common_size(images, dataset.cameras)
        if split == "train":
            self.train_cameras = self.train_dataset.cameras.to(self.device)
        return images

    def next_train(self, step: int) -> Tuple[NerfstudioCameras, Dict]:
        """The batch of one step: a pure function of the step, so that a resumed run sees the same sequence."""
        draw = random.Random(self.config.train_cameras_sampling_seed * 1_000_003 + step)
        if self.pseudo is not None and draw.random() < self.config.pseudo_share:
            return self._pseudo_batch(draw.randrange(len(self.pseudo)))
        photos = self.cached_train
        epoch, position = divmod(step, len(photos))
        order = list(range(len(photos)))
        random.Random(self.config.train_cameras_sampling_seed + epoch).shuffle(order)
        index = order[position]
        batch = dict(photos[index])
        batch["image"] = batch["image"].to(self.device)
        camera = self.train_cameras[index : index + 1].to(self.device)
        camera.metadata = {**(camera.metadata or {}), "cam_idx": index}
        if self.drive is not None:
            batch.pop("mask", None)  # what moves is drawn, not left out
        if self.prior_depths is not None:
            known = self.prior_depths[index].permute(1, 2, 0).to(self.device)
            batch[PRIOR_DEPTH] = known * batch["mask"].to(known) if "mask" in batch else known
            camera.metadata[PRIOR_DEPTH] = True
        return camera, batch

    def _pseudo_batch(self, index: int) -> Tuple[NerfstudioCameras, Dict]:
        camera = to_nerfstudio(self.pseudo.cameras[index], seconds_of(self.train_dataset.metadata)).to(self.device)
        image = self.pseudo.frames[index].permute(1, 2, 0).to(self.device)
        weight = self.pseudo.weight[index].permute(1, 2, 0).to(self.device)
        return camera, {"image": image, "pseudo_weight": weight}

    @property
    def drive(self):
        """The `Drive` that the scene is, or None."""
        return self.train_dataset.metadata.get("drive")

    def training_views(self) -> Views:
        """The training photos with their cameras and the scene's seed points; nothing that is held out.

        Of a drive, masks leave out what may move: for those who fit plain splats.
        """
        cameras = self._cameras(self.train_dataset)
        rig = None if self.drive is None else rig_of(self.train_dataset.metadata)
        return Views(_stack(self.cached_train), cameras, *self._seed_points(), self.prior_depths, _masks(self.cached_train), rig)

    @staticmethod
    def _cameras(dataset: InputDataset) -> Cameras:
        return to_opencv(dataset.cameras, seconds_of(dataset.metadata))

    @cached_property
    def prior_depths(self) -> Optional[torch.Tensor]:
        """Depths [N, 1, H, W] of the training photos as the configuration asks, 0 where unknown; None for none.

        Depth maps of held-out photos are not read. Raises UserError where the scene lacks what was asked for, but for
        metric depth maps, which are taken where they are, and where those contradict the scene's points.
        """
        kind, outputs = self.config.depth_prior, self.train_dataparser_outputs
        if kind is None:
            return None
        cameras, points = self._cameras(self.train_dataset), None
        if self.drive is not None and kind != "points":
            return lidar_depths(self.train_dataset.metadata, cameras)
        if has_points(outputs.metadata):
            points = depths_from_points(outputs.metadata["points3D_xyz"].float(), cameras)
        if kind == "points":
            if points is None:
                raise UserError(f"{self.config.data} has no point cloud to tell depths; take another depth prior.")
            return points
        maps = depth_maps(outputs, cameras)
        if maps is None and kind == "relative":
            raise UserError(f"{self.config.data} has no depth maps; name them as depth_file_path in transforms.json, "
                            "or take another depth prior.")
        if maps is not None and points is not None and kind == "metric":
            check_units(maps, points)
        return maps

    def held_out(self) -> HeldOut:
        """Held-out photos: for evaluation, after training."""
        rig = None if self.drive is None else rig_of(self.eval_dataset.metadata)
        return HeldOut(_stack(self.cached_eval), self._cameras(self.eval_dataset), _masks(self.cached_eval), rig)

    def _seed_points(self) -> Tuple[torch.Tensor, torch.Tensor]:
        metadata = self.train_dataparser_outputs.metadata
        if has_points(metadata):
            return metadata["points3D_xyz"].float(), metadata["points3D_rgb"].float() / 255
        return random_seed_points(self.train_dataset.cameras.camera_to_worlds[:, :3, 3])


def has_points(metadata: Dict) -> bool:
    """Whether a scene came with a point cloud."""
    return metadata.get("points3D_xyz") is not None and len(metadata["points3D_xyz"]) > 0


def random_seed_points(centers: torch.Tensor, count: int = 5000) -> Tuple[torch.Tensor, torch.Tensor]:
    """Grey points in a cube three times as wide as the camera positions [N, 3], for scenes without a point cloud."""
    generator = torch.Generator().manual_seed(0)
    middle = centers.mean(dim=0)
    extent = (centers - middle).abs().max().clamp_min(1e-3) * 3
    points = middle + (torch.rand(count, 3, generator=generator) * 2 - 1) * extent
    return points, torch.full((count, 3), 0.5)


def _masks(cache: list) -> Optional[torch.Tensor]:
    """[N, 1, H, W], bool, where all photos have one."""
    if not all("mask" in entry for entry in cache):
        return None
    return torch.stack([entry["mask"].bool() for entry in cache]).permute(0, 3, 1, 2)


def _stack(cache: list) -> torch.Tensor:
    return torch.stack([_rgb(entry["image"]) for entry in cache]).permute(0, 3, 1, 2).contiguous()


def _rgb(image: torch.Tensor) -> torch.Tensor:
    """[H, W, 3] in 0…1; transparent pixels are shown on black."""
    image = image.float() / 255 if image.dtype == torch.uint8 else image
    return image if image.shape[-1] == 3 else image[..., :3] * image[..., 3:]


def _crop_to_common_size(images: list, cameras: NerfstudioCameras) -> None:
    """Cut a few pixels from the right and bottom where undistortion left photos of slightly different sizes."""
    heights, widths = zip(*(entry["image"].shape[:2] for entry in images))
    height, width = min(heights), min(widths)
    if max(heights) - height > SIZE_TOLERANCE or max(widths) - width > SIZE_TOLERANCE:
        raise UserError(f"The photos have different sizes, from {width}×{height} to {max(widths)}×{max(heights)} px; a "
                        "trajectory needs one size, so resize or crop them.")
    for entry in images:
        for key in ("image", "mask", "depth_image"):
            if key in entry:
                entry[key] = entry[key][:height, :width]
    cameras.width[:], cameras.height[:] = width, height
