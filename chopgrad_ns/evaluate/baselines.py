"""What a refiner for a task has to beat: the same task done without learning."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip

INPAINT_RADIUS = 3
"""Pixels around a hole's edge that OpenCV's methods look at; that of its own example."""


def enlarged(frames: Float[Tensor, "t 3 h w"], size: tuple[int, int],
             mode: Literal["bicubic", "bilinear"] = "bicubic") -> Float[Tensor, "t 3 h2 w2"]:
    """Frames in 0…1 at `size`, height and width in pixels, by interpolation."""
    return F.interpolate(frames, size, mode=mode).clamp(0, 1)


def masked_mean(clip: Clip) -> Float[Tensor, "t 3 h w"]:
    """Each hole (mask over a half) filled with the mean colour of what is seen of its frame; grey where nothing is."""
    hole = clip.mask > 0.5
    seen = (~hole).to(clip.frames)
    count = seen.sum(dim=(2, 3), keepdim=True)
    mean = (clip.frames * seen).sum(dim=(2, 3), keepdim=True) / count.clamp_min(1)
    return torch.where(hole, torch.where(count > 0, mean, 0.5), clip.frames)


def opencv_inpainted(clip: Clip, method: Literal["telea", "navier-stokes"]) -> Float[Tensor, "t 3 h w"]:
    """Each frame's hole (mask over a half) filled by OpenCV, in 8 bit, with what is around it; the rest is as given.

    "telea" is fast marching (Telea 2004), "navier-stokes" after Bertalmio et al. 2001.
    """
    flag = {"telea": cv2.INPAINT_TELEA, "navier-stokes": cv2.INPAINT_NS}[method]
    hole = clip.mask > 0.5
    pictures = (clip.frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    filled = [cv2.inpaint(np.ascontiguousarray(picture), mask.byte().cpu().numpy(), INPAINT_RADIUS, flag)
              for picture, mask in zip(pictures, hole[:, 0])]
    found = torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2).to(clip.frames) / 255
    return torch.where(hole, found, clip.frames)
