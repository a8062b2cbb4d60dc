"""Refined frames that join the training set, kept on disk between interruptions."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.cameras import Cameras


@dataclass
class PseudoObservations:
    """Frames nobody photographed: refined renders, where they were taken from, and how far to trust each pixel.

    `frames` [M, 3, H, W] in 0…1; `weight` [M, 1, H, W] in 0…1 multiplies the photometric loss.
    """

    frames: Float[Tensor, "m 3 h w"]
    weight: Float[Tensor, "m 1 h w"]
    cameras: Cameras

    def __post_init__(self) -> None:
        count, _, height, width = self.frames.shape
        if self.weight.shape != (count, 1, height, width):
            raise ValueError(f"weight has shape {tuple(self.weight.shape)}, frames {tuple(self.frames.shape)}")
        if (len(self.cameras), self.cameras.height, self.cameras.width) != (count, height, width):
            raise ValueError(f"{len(self.cameras)} cameras of {self.cameras.width}×{self.cameras.height} for {count} "
                             f"frames of {width}×{height}")

    def __len__(self) -> int:
        return len(self.frames)

    def save(self, path: Path) -> None:
        """Write one safetensors file (frames and weights as 8 bit), atomically."""
        tensors = {
            "frames": (self.frames * 255).round().to(torch.uint8).cpu().contiguous(),
            "weight": (self.weight * 255).round().to(torch.uint8).cpu().contiguous(),
            "camera_from_world": self.cameras.camera_from_world.cpu().contiguous(),
            "K": self.cameras.K.cpu().contiguous(),
        }
        if self.cameras.times is not None:
            tensors["times"] = self.cameras.times.cpu().contiguous()
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        size = json.dumps({"width": self.cameras.width, "height": self.cameras.height})
        save_file(tensors, temporary, metadata={"size": size})
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> "PseudoObservations":
        """Read what `save` wrote. Raises UserError for a damaged file."""
        try:
            with safe_open(path, framework="pt") as file:
                size = json.loads(file.metadata()["size"])
                frames, weight = (file.get_tensor(name).float() / 255 for name in ("frames", "weight"))
                times = file.get_tensor("times") if "times" in file.keys() else None
                cameras = Cameras(file.get_tensor("camera_from_world"), file.get_tensor("K"), size["width"], size["height"],
                                  times)
            return cls(frames, weight, cameras)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"The refined frames in {path} cannot be read ({error}); delete the file and run again.") from error
