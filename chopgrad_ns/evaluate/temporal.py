"""Flicker: what changes from frame to frame along the motion. Values of a frame are against the one before it.

The first frame has none before and gets NaN, and so does a frame of which nothing was seen before.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.metrics import CHUNK, Frames, Mask, Values, mean_over
from chopgrad_ns.losses.flow import warp, warped_flicker, with_flow

SMALLEST = 16
"""Pixels that DIS optical flow needs along each side."""


@dataclass(frozen=True)
class Motion:
    """Where each pixel was in the frame before, as an offset (x to the right, y down) in pixels; whether it was seen.

    The first frame has flow 0 and sees nothing.
    """

    flow: Float[Tensor, "t 2 h w"]
    visible: Bool[Tensor, "t 1 h w"]


def motion_of(frames: Frames) -> Motion:
    """Optical flow of frames in 0…1 to the frame before (DIS, Kroeger et al. 2016, OpenCV's), and what was seen there.

    A pixel was not seen where the flow forth and back disagree, at edges of the motion (both with the thresholds of
    Sundaram et al. 2010, as in Ruder et al. 2016 and Lai et al. 2018), and where the flow leaves the picture.

    Raises:
        UserError: for frames with a side under 16 pixels.
    """
    count, _, height, width = frames.shape
    if min(height, width) < SMALLEST:
        raise UserError(f"Frames of {width}×{height} px are too small for optical flow; give frames of at least "
                        f"{SMALLEST}×{SMALLEST} px, or leave out warp_error and flicker.")
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
            for picture in (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = frames.new_zeros(count, 2, height, width)
    visible = torch.zeros_like(flow[:, :1], dtype=torch.bool)
    for t in range(1, count):
        back, forth = (torch.from_numpy(np.moveaxis(dis.calc(first, second, None), 2, 0)).to(frames)
                       for first, second in ((grey[t], grey[t - 1]), (grey[t - 1], grey[t])))
        flow[t], visible[t] = back, seen_before(back, forth)
    return Motion(flow, visible)


def seen_before(back: Float[Tensor, "2 h w"], forth: Float[Tensor, "2 h w"]) -> Bool[Tensor, "1 h w"]:
    """Where a frame shows what the one before showed too; `back` is the flow to that, `forth` the flow from it.

    With w = `back` at a pixel and ŵ = `forth` where it points, a pixel is seen if |w + ŵ|² ≤ 0.01 (|w|² + |ŵ|²) + 0.5
    and |∇w|² ≤ 0.01 |w|² + 0.002 (Ruder et al. 2016) and w points into the picture.
    """
    returned, inside = warp(forth[None, :, None], back[None, :, None])
    returned, inside = returned[0, :, 0], inside[0, :, 0] > 0
    square = lambda flow: flow.square().sum(dim=0, keepdim=True)  # noqa: E731
    consistent = square(back + returned) <= 0.01 * (square(back) + square(returned)) + 0.5
    slope = sum(square(part) for part in torch.gradient(back, dim=(1, 2)))
    return consistent & (slope <= 0.01 * square(back) + 0.002) & inside


def warp_error(frames: Frames, motion: Motion, mask: Mask | None = None) -> Values:
    """Mean squared difference of each frame in 0…1 to the one before, warped to it (Lai et al. 2018).

    Over pixels that were seen before and, with a mask, are inside it; where they were before does not matter, so that
    what appears at a mask's edge counts. The mean over colours, a third of the sum that the paper writes. Real video
    has an error too, from noise, shading and flow that errs; blur has less. Compare with that of the truth, or take `flicker`. With
    the motion of the truth a frozen prediction is wrong; with its own it is perfect.
    """
    values = [frames.new_full((1,), math.nan)]
    for start in range(1, len(frames), CHUNK):
        now, before = slice(start, start + CHUNK), slice(start - 1, min(start + CHUNK, len(frames)) - 1)
        warped, _ = warp(frames[before].transpose(0, 1)[None], motion.flow[now].transpose(0, 1)[None])
        error = (frames[now] - warped[0].transpose(0, 1)).square().mean(dim=1, keepdim=True)
        values.append(mean_over(error, _counted(motion, mask)[now]))
    return torch.cat(values)


def flicker(prediction: Frames, truth: Frames, motion: Motion, mask: Mask | None = None) -> Values:
    """Mean absolute change, along the motion, of the prediction's error: changes that the truth does not have.

    `losses.warped_flicker` of each frame in 0…1 and the one before, over the pixels that `warp_error` counts. A still
    error, such as a constant blur of a still picture, does not flicker.
    """
    counted = _counted(motion, mask)
    values = [prediction.new_full((1,), math.nan)]
    for start in range(1, len(truth), CHUNK):
        now, before = slice(start, start + CHUNK), slice(start - 1, min(start + CHUNK, len(truth)) - 1)
        pairs = lambda x: torch.stack([x[before], x[now]], dim=2)  # noqa: E731
        weight = torch.stack([torch.ones_like(counted[before]), counted[now]], dim=2).to(truth)
        target = with_flow(torch.cat([2 * pairs(truth) - 1, weight], dim=1), pairs(motion.flow))
        some = warped_flicker(2 * pairs(prediction) - 1, target)[:, 1]
        values.append(some.masked_fill(~counted[now].flatten(1).any(dim=1), math.nan))
    return torch.cat(values)


def _counted(motion: Motion, mask: Mask | None) -> Mask:
    return motion.visible if mask is None else motion.visible & mask
