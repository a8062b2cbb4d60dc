"""Flicker along motion. Optical flow travels with the target, so that a loss sees that of the frames it is given.

Channels of a target with flow: 3 colours, weight, and the flow to the frame before: where a pixel of frame t was in
frame t − 1, as an offset (x to the right, y down) in pixels. The first frame's flow is not used.
"""

from collections.abc import Callable
from typing import Union

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from chopgrad_ns.losses.frames import at_least_float32, error_of, weighted_mean

Target = Union[Float[Tensor, "b _ t h w"], Callable[[slice], Tensor]]
Flow = Union[Float[Tensor, "b 2 t h w"], Callable[[slice], Tensor]]


def with_flow(target: Target, flow: Flow) -> Target:
    """A target for `pixel_loss` that carries `flow` beside its colours and weight (1 everywhere if it has none).

    Either can be a callable that gives the frames of a slice; then so is the result.

    Raises:
        ValueError: where the two are not of the same frames and size.
    """
    if callable(target) or callable(flow):
        return lambda span: with_flow(_frames(target, span), _frames(flow, span))
    if flow.shape != (target.shape[0], 2, *target.shape[2:]) or target.shape[1] not in (3, 4):
        raise ValueError(f"the flow has shape {tuple(flow.shape)}, the target {tuple(target.shape)}; [B, 2, T, H, W] for "
                         "[B, 3 or 4, T, H, W] is needed")
    weight = torch.ones_like(target[:, :1]) if target.shape[1] == 3 else target[:, 3:]
    return torch.cat([target[:, :3], weight, flow.to(target)], dim=1)


def _frames(of: Tensor | Callable[[slice], Tensor], span: slice) -> Tensor:
    return of(span) if callable(of) else of[:, :, span]


def warped_flicker(prediction: Float[Tensor, "b 3 t h w"], target: Float[Tensor, "b 6 t h w"]) -> Float[Tensor, "b t"]:
    """L1 between a frame's error and that of the frame before, warped to it by the flow; 0 for the first frame.

    That is the warping error of Lai et al. 2018, of changes that the target does not have. Looks one frame back. A
    pixel counts as much as its weight in both frames (give occluded pixels none), and not at all where the flow
    leaves the picture.

    Raises:
        ValueError: for a target without flow.
    """
    if target.shape[1] != 6:
        raise ValueError(f"the target has {target.shape[1]} channels and no flow; make it with `with_flow(target, flow)`")
    error = error_of(at_least_float32(prediction), at_least_float32(target))
    weight, flow = target[:, 3:4].to(error), target[:, 4:].to(error)
    warped, inside = warp(torch.cat([error * weight, weight], dim=1)[:, :, :-1], flow[:, :, 1:])
    weight_before = warped[:, 3:]
    before = warped[:, :3] / weight_before.clamp_min(1e-6)  # so that none is mixed in from neighbours without weight
    values = weighted_mean((error[:, :, 1:] - before).abs(), weight[:, :, 1:] * weight_before * inside)
    return torch.cat([values.new_zeros(len(values), 1), values], dim=1)


warped_flicker.context_frames = 1
warped_flicker.needs_flow = True


def warp(frames: Float[Tensor, "b c t h w"], flow: Float[Tensor, "b 2 t h w"]) -> tuple[Tensor, Tensor]:
    """Frames seen at each pixel's place moved by the flow (bilinear), and whether that place [B, 1, t, H, W] is inside."""
    b, c, t, h, w = frames.shape
    y, x = torch.meshgrid(torch.arange(h).to(flow), torch.arange(w).to(flow), indexing="ij")
    place = torch.stack([x, y])[:, None] + flow
    last = flow.new_tensor([w - 1, h - 1]).view(2, 1, 1, 1)
    inside = ((place >= 0) & (place <= last)).all(dim=1, keepdim=True).to(flow)
    grid = (2 * place / last.clamp_min(1) - 1).permute(0, 2, 3, 4, 1).reshape(b * t, h, w, 2)
    flat = frames.transpose(1, 2).reshape(b * t, c, h, w)
    warped = grid_sample(flat, grid, padding_mode="border", align_corners=True)
    return warped.reshape(b, t, c, h, w).transpose(1, 2), inside
