"""Recorded drives as nerfstudio's dataparsers. Every `ns-*` command imports this module: readers are imported when used."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, List, Optional, Tuple, Type

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from chopgrad_ns.data.drives.drive import Drive, Photo, Selection
from chopgrad_ns.data.drives.open import open_drive
from chopgrad_ns.errors import UserError
from chopgrad_ns.progress import ProgressLines

NEAREST = 1.0
"""Metres: a drive whose cameras are all nearer to their middle than this is not made larger for it."""


@dataclass
class DriveDataParserConfig(DataParserConfig):
    """A part of a recorded drive: some cameras, some frames, every N-th of these for training."""

    kind: ClassVar[str]
    options: ClassVar[Tuple[str, ...]] = ()

    _target: Type = field(default_factory=lambda: DriveDataParser)
    data: Path = Path()
    """folder (or file) of the recording"""
    cameras: Tuple[str, ...] = ()
    """names of the cameras that are read; the usual ones that look ahead unless given"""
    first: int = 0
    """the first frame that is read"""
    last: Optional[int] = None
    """the frame before which reading stops; to the end unless given"""
    step: int = 1
    """every so many frames one is read"""
    every: int = 2
    """every N-th of the frames that are read trains, in all cameras; the others are held out"""
    max_points: int = 40_000
    """lidar points, at most, that seed a splat: densification makes Gaussians where they are needed"""
    mask_moving: bool = True
    """leave out of training what moving actors may cover; for methods that cannot move them"""


@dataclass
class WaymoV2DataParserConfig(DriveDataParserConfig):
    """Waymo Open Dataset v2: a folder of components (camera_image/, lidar/, …) of parquet files."""

    kind: ClassVar[str] = "waymo-v2"
    options: ClassVar[Tuple[str, ...]] = ("segment",)
    segment: Optional[str] = None
    """the segment that is read, where there are several"""


@dataclass
class WaymoV1DataParserConfig(DriveDataParserConfig):
    """Waymo Open Dataset v1: a TFRecord file of one segment, or a folder of them."""

    kind: ClassVar[str] = "waymo-v1"
    options: ClassVar[Tuple[str, ...]] = ("segment",)
    segment: Optional[str] = None
    """the segment that is read (its file's name without the ending), where there are several"""


@dataclass
class DgpDataParserConfig(DriveDataParserConfig):
    """TRI's Dataset Governance Policy (DGP), of DDAD and others: a folder with scene_dataset_*.json or scene_*.json."""

    kind: ClassVar[str] = "dgp"
    options: ClassVar[Tuple[str, ...]] = ("scene",)
    scene: Optional[str] = None
    """the folder of the scene that is read, where there are several"""


@dataclass
class KittiDataParserConfig(DriveDataParserConfig):
    """KITTI odometry: a folder with sequences/ and poses/."""

    kind: ClassVar[str] = "kitti-odometry"
    options: ClassVar[Tuple[str, ...]] = ("sequence",)
    sequence: Optional[str] = None
    """number of the sequence that is read (00 to 10), where there are several"""


@dataclass
class NuScenesDataParserConfig(DriveDataParserConfig):
    """nuScenes, read with its kit: the folder that has v1.0-*/ in it."""

    kind: ClassVar[str] = "nuscenes-kit"
    options: ClassVar[Tuple[str, ...]] = ("version", "scene", "sweeps")
    version: Optional[str] = None
    """v1.0-mini or v1.0-trainval for instance, where there are several"""
    scene: Optional[str] = None
    """name of the scene that is read, where there are several"""
    sweeps: bool = False
    """read every sweep of the lidar as a frame, not only those that are annotated"""


@dataclass
class Argoverse2DataParserConfig(DriveDataParserConfig):
    """Argoverse 2 sensor data: the folder of one log."""

    kind: ClassVar[str] = "argoverse2"


class DriveDataParser(DataParser):
    """Photos, masks and lidar points of a drive, centred and scaled; x forward, y left and z up stay as they are.

    `metadata` has beside the seed points: the `drive` itself; `training`, the drive without the frames held out; the
    `photos` of the views; and how nerfstudio's world and times came about: `world` [3, 4] and `scale`, places are scale ·
    (world · x), and the `seconds` that 1 is in `times`, which are 1 in the last frame, as nerfstudio's viewer wants them.
    Times and poses of cameras are those of the middle lines of their pictures.
    """

    config: DriveDataParserConfig
    downscale_factor: int = 1
    includes_time: bool = True

    @cached_property
    def drive(self) -> Drive:
        """The recording, opened when it is first asked for."""
        config = self.config
        selection = Selection(config.cameras or None, config.first, config.last, config.step)
        options = {name: getattr(config, name) for name in config.options}
        return open_drive(config.data, config.kind, selection, **options)

    def check(self) -> None:
        """Raise UserError for a recording that cannot be opened or split, whose cameras' pictures are not of one size, or whose
        truth, where it has any, is of something else.
        """
        split_frames(self.drive, self.config.every)
        sizes = {name: (camera.width, camera.height) for name, camera in self.drive.cameras.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {width}×{height}" for name, (width, height) in sizes.items())
            raise UserError(f"The cameras of {self.drive.name} have pictures of different sizes ({listed}); choose some of one "
                            "size with --cameras.")
        if self.drive.truth is not None:
            from chopgrad_ns.sim.truth import Truth

            Truth.of(self.drive)

    @cached_property
    def training(self) -> Drive:
        """The recording without what is held out."""
        return self.drive.of_frames(sorted(split_frames(self.drive, self.config.every)[0]))

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        from chopgrad_ns.data.drives.files import extract

        drive = self.drive
        training, _ = split_frames(drive, self.config.every)
        chosen = [index for index, photo in enumerate(drive.photos)
                  if (photo.frame in training) == (split == "train")]
        photos = [drive.photos[index] for index in chosen]
        files = extract(drive, ProgressLines("Pictures of the drive"))
        shift, scale = self._to_unit
        world, seconds = torch.cat([torch.eye(3), shift[:, None]], dim=1), float(drive.times[-1]) or 1.0
        metadata = {"drive": drive, "training": self.training, "photos": photos, "world": world, "scale": scale,
                    "seconds": seconds, **self._points}
        return DataparserOutputs(
            image_filenames=[files.pictures[index] for index in chosen],
            mask_filenames=[files.masks[index] for index in chosen] if self.config.mask_moving else None,
            cameras=nerfstudio_cameras(drive, photos, shift, scale, seconds),
            scene_box=SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]])),
            metadata=metadata,
            dataparser_transform=world,
            dataparser_scale=scale,
        )

    @cached_property
    def _to_unit(self) -> Tuple[torch.Tensor, float]:
        """What is added to places, and what they are multiplied with: the farthest camera comes to lie 1 from the middle."""
        centers = torch.cat([places(self.drive, photo)[None, :3, 3] for photo in self.drive.photos])
        middle = centers.mean(dim=0)
        return (-middle).float(), 1 / max(float((centers - middle).norm(dim=1).max()), NEAREST)

    @cached_property
    def _points(self) -> dict:
        """Seed points, of training frames and photos alone; none for a drive without lidar."""
        from chopgrad_ns.data.drives.derived import coloured_points

        if not self.drive.lidars:
            return {}
        seeds = coloured_points(self.training, self.config.max_points, ProgressLines("Colours of lidar points"))
        shift, scale = self._to_unit
        return {"points3D_xyz": (torch.from_numpy(seeds.xyz) + shift) * scale,
                "points3D_rgb": (torch.from_numpy(seeds.rgb) * 255).round().to(torch.uint8)}


def split_frames(drive: Drive, every: int) -> Tuple[set, set]:
    """Frames that train and those that are held out, both with photos. Raises UserError where either has none."""
    frames = sorted({photo.frame for photo in drive.photos})
    training = frames[::every] if every > 0 else []
    held_out = sorted(set(frames) - set(training))
    if not training or not held_out:
        raise UserError(f"Every {every}th of {len(frames)} frames leaves {len(training)} to train on and {len(held_out)} to "
                        "judge by; read more frames, and take every 2nd or fewer.")
    return set(training), set(held_out)


def places(drive: Drive, photo: Photo) -> torch.Tensor:
    """world_from_camera [4, 4] of a photo at its middle line's time, OpenCV axes, float64."""
    from chopgrad_ns.data.drives.projection import camera_at

    return torch.from_numpy(camera_at(drive, photo, [photo.middle])[0])


def nerfstudio_cameras(drive: Drive, photos: List[Photo], shift: torch.Tensor, scale: float, seconds: float) -> Cameras:
    """Distorted cameras of photos, in nerfstudio's axes, in a world of places scale · (x + shift) and times t / seconds."""
    poses = torch.stack([places(drive, photo) for photo in photos]) @ torch.diag(torch.tensor([1.0, -1, -1, 1])).double()
    poses[:, :3, 3] = (poses[:, :3, 3] + shift) * scale
    rig = [drive.cameras[photo.camera] for photo in photos]
    K = torch.stack([torch.from_numpy(camera.K) for camera in rig]).float()
    k1, k2, p1, p2, k3 = torch.tensor([camera.distortion.tolist() for camera in rig]).T
    sizes = torch.tensor([[camera.width, camera.height] for camera in rig])
    return Cameras(
        camera_to_worlds=poses[:, :3].float(), fx=K[:, 0, 0], fy=K[:, 1, 1], cx=K[:, 0, 2], cy=K[:, 1, 2],
        width=sizes[:, 0], height=sizes[:, 1], distortion_params=torch.stack([k1, k2, k3, torch.zeros_like(k1), p1, p2], dim=1),
        camera_type=CameraType.PERSPECTIVE, times=torch.tensor([photo.middle / seconds for photo in photos])[:, None],
        metadata=rolling(drive, photos, scale))


def rolling(drive: Drive, photos: List[Photo], scale: float) -> Optional[dict]:
    """`readout` and `motion` of photos' cameras, as `splat.cameras.Cameras` has them; None where none has a rolling shutter."""
    from chopgrad_ns.data.drives.projection import motion_of, readout_of

    readout = np.stack([readout_of(drive.cameras[photo.camera], photo) for photo in photos])
    if not readout.any():
        return None
    motion = np.stack([motion_of(drive, photo) for photo in photos])
    motion[:, :3] *= scale
    return {"readout": torch.from_numpy(readout).float(), "motion": torch.from_numpy(motion).float()}


DRIVE_PARSERS = {config.kind: config for config in (
    WaymoV2DataParserConfig(), WaymoV1DataParserConfig(), DgpDataParserConfig(), KittiDataParserConfig(),
    NuScenesDataParserConfig(), Argoverse2DataParserConfig())}
"""Configurations of all formats by name; their docstrings say what they are."""
waymo_v2, waymo_v1, dgp, kitti_odometry, nuscenes_kit, argoverse2 = (
    DataParserSpecification(config=config, description=type(config).__doc__) for config in DRIVE_PARSERS.values())
