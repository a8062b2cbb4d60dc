"""What a refiner for a task has to beat: the same task done without learning. Holes are also filled by `data.fill`."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def enlarged(frames: Float[Tensor, "t 3 h w"], size: tuple[int, int],
             mode: Literal["bicubic", "bilinear"] = "bicubic") -> Float[Tensor, "t 3 h2 w2"]:
    """Frames in 0…1 at `size`, height and width in pixels, by interpolation; bicubic as MATLAB and Pillow have it."""
    # Of the two bicubic kernels in torch, a = −0.75 and, with antialiasing, a = −0.5, the latter keeps ramps and is closer.
    return F.interpolate(frames, size, mode=mode, antialias=True).clamp(0, 1)


def masked_mean(frames: Float[Tensor, "t 3 h w"], mask: Float[Tensor, "t 1 h w"]) -> Float[Tensor, "t 3 h w"]:
    """Frames in 0…1 whose hole, where `mask` is above 0, has the mean colour of what is seen of the same frame; grey where
    nothing is.
    """
    hole = mask > 0
    seen = (~hole).to(frames)
    count = seen.sum(dim=(2, 3), keepdim=True)
    mean = (frames * seen).sum(dim=(2, 3), keepdim=True) / count.clamp_min(1)
    return torch.where(hole, torch.where(count > 0, mean, 0.5), frames)
