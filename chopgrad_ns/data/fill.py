"""Holes filled without learning, by OpenCV."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.video_pairs import HOLE

RADIUS = 3
"""Pixels around a hole's edge that are looked at; that of OpenCV's own example."""


def filled(frames: Float[Tensor, "t 3 h w"], mask: Float[Tensor, "t 1 h w"],
           method: Literal["telea", "navier-stokes"] = "navier-stokes") -> Float[Tensor, "t 3 h w"]:
    """Frames in 0…1 whose hole, where `mask` is above 0, is filled with what is around it in the same frame.

    "telea" is fast marching (Telea 2004), "navier-stokes" after Bertalmio et al. 2001. Works in 8 bit; what is outside the
    hole comes out as it went in. What is below the mask decides nothing; a frame that is all hole becomes `HOLE`.
    """
    flag = {"telea": cv2.INPAINT_TELEA, "navier-stokes": cv2.INPAINT_NS}[method]
    hole = mask > 0
    given = torch.where(hole, HOLE, frames)
    pictures = (given.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    found = np.stack([cv2.inpaint(np.ascontiguousarray(picture), np.ascontiguousarray(holes), RADIUS, flag)
                      for picture, holes in zip(pictures, hole[:, 0].byte().cpu().numpy())])
    inside = hole & ~hole.all(dim=(2, 3), keepdim=True)
    return torch.where(inside, torch.from_numpy(found).permute(0, 3, 1, 2).to(frames) / 255, given)
