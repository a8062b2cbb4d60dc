"""A clip: the one thing that goes through every room."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.files import whole_folder
from chopgrad_ns.splat.cameras import Cameras


@dataclass
class Clip:
    """T frames of video and what their source knows about them.

    `frames` [T, 3, H, W] in 0…1; `alpha` [T, 1, H, W] in 0…1, opacity of the splat; `depth` [T, 1, H, W], z
    in world units, 0 where empty; `mask` [T, 1, H, W] in 0…1; `references` [T, R, 3, H, W] in 0…1, photos
    warped into each frame, and `reference_masks` [T, R, 1, H, W] in 0…1, how far each warped pixel can be
    believed; `actor_ids` [T, 1, H, W], uint8, 0 for the background. Shapes are checked when a clip is made
    (ValueError).
    """

    frames: Float[Tensor, "t 3 h w"]
    cameras: Cameras | None = None
    alpha: Float[Tensor, "t 1 h w"] | None = None
    depth: Float[Tensor, "t 1 h w"] | None = None
    mask: Float[Tensor, "t 1 h w"] | None = None
    references: Float[Tensor, "t r 3 h w"] | None = None
    reference_masks: Float[Tensor, "t r 1 h w"] | None = None
    actor_ids: UInt8[Tensor, "t 1 h w"] | None = None

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[1] != 3 or not len(self.frames):
            raise ValueError(f"frames have shape {tuple(self.frames.shape)}, not [T, 3, H, W] with T ≥ 1")
        count, _, height, width = self.frames.shape
        for name in ("alpha", "depth", "mask", "actor_ids"):
            value = getattr(self, name)
            if value is not None and value.shape != (count, 1, height, width):
                raise ValueError(f"{name} has shape {tuple(value.shape)}, not {(count, 1, height, width)}")
        if (self.references is None) != (self.reference_masks is None):
            raise ValueError("references and reference_masks go together")
        if self.references is not None:
            shared = (count, self.references.shape[1])
            expected = (*shared, 3, height, width), (*shared, 1, height, width)
            if (self.references.shape, self.reference_masks.shape) != expected:
                raise ValueError(f"references {tuple(self.references.shape)} and reference_masks "
                                 f"{tuple(self.reference_masks.shape)} do not fit frames "
                                 f"{tuple(self.frames.shape)}")
        cameras = self.cameras
        if cameras is not None and (len(cameras), cameras.height, cameras.width) != (count, height, width):
            raise ValueError(f"{len(cameras)} cameras of {cameras.width}×{cameras.height} do "
                             f"not fit frames {tuple(self.frames.shape)}")

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, frames: slice) -> Clip:
        """Some of the frames, everything cut alike."""
        return Clip(*(None if value is None else value[frames] for value in self._values()))

    def to(self, *args, **kwargs) -> Clip:
        """Move or cast, as `Tensor.to`; ids are moved only."""
        moved = [None if value is None or value is self.actor_ids else value.to(*args, **kwargs)
                 for value in self._values()]
        if self.actor_ids is not None:
            moved[-1] = self.actor_ids.to(moved[0].device)
        return Clip(*moved)

    def _values(self) -> list:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass
class Pair:
    """A degraded clip, what it should have looked like, and where that is known.

    The degraded frames may be smaller than `clean`, for super-resolution. `valid` [T, 1, H, W], of the size of
    `clean`, is 1 where it may be trained on, 0 elsewhere; None means everywhere.
    """

    degraded: Clip
    clean: Float[Tensor, "t 3 h w"]
    name: str
    valid: Float[Tensor, "t 1 h w"] | None = None

    def __post_init__(self) -> None:
        low = self.degraded.frames.shape
        if self.clean.ndim != 4 or self.clean.shape[:2] != low[:2] or min(self.scale) < 1:
            raise ValueError(f"clean has shape {tuple(self.clean.shape)}, degraded {tuple(low)}")
        if self.valid is not None and self.valid.shape != self.clean[:, :1].shape:
            raise ValueError(f"valid has shape {tuple(self.valid.shape)}, not "
                             f"{tuple(self.clean[:, :1].shape)}")

    @property
    def scale(self) -> tuple[float, float]:
        """How much higher and wider `clean` is than the degraded frames."""
        return tuple(clean / low for clean, low in zip(self.clean.shape[-2:], self.degraded.frames.shape[-2:],
                                                       strict=True))

    def save(self, folder: Path) -> None:
        """Write the folder, at once: `pair.safetensors` (pictures in 8 bit, depth in 32) and `pair.json`."""
        tensors = {name: _to_bytes(value) for name, value in self._pictures().items() if value is not None}
        if self.degraded.depth is not None:
            tensors["depth"] = self.degraded.depth.contiguous()
        about = {"name": self.name, "format": 1}
        if self.degraded.cameras is not None:
            cameras = self.degraded.cameras
            tensors |= {"camera_from_world": cameras.camera_from_world.contiguous(),
                        "K": cameras.K.contiguous()}
            about |= {"width": cameras.width, "height": cameras.height}
        with whole_folder(folder) as unfinished:
            save_file(tensors, unfinished / "pair.safetensors")
            (unfinished / "pair.json").write_text(json.dumps(about))

    def _pictures(self) -> dict[str, Tensor | None]:
        clip = self.degraded
        return {"frames": clip.frames, "alpha": clip.alpha, "mask": clip.mask, "references": clip.references,
                "reference_masks": clip.reference_masks, "clean": self.clean, "valid": self.valid}

    @staticmethod
    def load(folder: Path) -> Pair:
        """Read what `save` wrote. Raises UserError for anything else."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "pair.json").read_text())
            tensors = load_file(folder / "pair.safetensors")
            picture = {name: tensors[name].float() / 255 for name in tensors
                       if tensors[name].dtype == torch.uint8}
            cameras = None
            if "K" in tensors:
                cameras = Cameras(tensors["camera_from_world"], tensors["K"], about["width"], about["height"])
            clip = Clip(picture["frames"], cameras, picture.get("alpha"), tensors.get("depth"),
                        picture.get("mask"), picture.get("references"), picture.get("reference_masks"))
            return Pair(clip, picture["clean"], about["name"], picture.get("valid"))
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise UserError(f"The pair in {folder} cannot be read ({error}); delete the folder and make it "
                            "again.") from error


def load_pairs(folder: Path) -> list[Pair]:
    """All pairs in the sub-folders of `folder`, by name. Raises UserError where there are none."""
    folder = Path(folder)
    found = sorted(path.parent for path in folder.glob("*/pair.json")
                   if not path.parent.name.endswith(".part"))
    if not found:
        raise UserError(f"There are no pairs in {folder}; make some with chopgrad pairs --output {folder}.")
    return [Pair.load(path) for path in found]


def _to_bytes(value: Tensor) -> Tensor:
    return (value.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
