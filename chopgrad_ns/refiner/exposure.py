"""Photos of one scene are exposed differently; that is neither an artifact nor to be learnt as one."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LARGEST_GAIN = 2.0
PRIOR = 0.05
"""How strongly a gain is drawn to 1 and an offset to 0: as if a picture had this much contrast (standard deviation, 0…1)."""
FEWEST = 64
"""Pixels, in sum of weights, from which on a fit is believed; below it fades to none."""
CELL = 8
"""Pixels, width and height, whose means are compared. One by one, a sharp photo would lose contrast to a blurred render, and
what is not quite aligned would look like noise."""


def exposure_between(source: Float[Tensor, "*n 3 h w"], target: Float[Tensor, "*n 3 h w"],
                     weight: Float[Tensor, "*n 1 h w"]) -> tuple[Float[Tensor, "*n 3 1 1"], Float[Tensor, "*n 3 1 1"]]:
    """Gain and offset of each channel that bring `source` nearest to `target` in the weighted least squares sense.

    Pictures are in 0…1; means over cells are compared. Cells that differ a lot after a first fit (things that are not the
    same) are left out of a second. Gains are within 1/2…2.
    """
    source, target, weight = _cells(source, target.expand_as(source), weight)
    gain, offset = _fit(source, target, weight)
    error = (source * gain + offset - target).abs().mean(dim=-3, keepdim=True)
    total = weight.sum(dim=(-2, -1), keepdim=True).clamp_min(1e-6)
    usual = (error * weight).sum(dim=(-2, -1), keepdim=True) / total
    return _fit(source, target, weight * (error <= 2 * usual + 1e-3))


def _cells(source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted means over cells, and the sums of weights in them."""
    shape, (height, width) = source.shape[:-3], source.shape[-2:]
    more = (0, -width % CELL, 0, -height % CELL)  # without weight
    values = torch.cat([source * weight, target * weight, weight], dim=-3).flatten(0, -4)
    sums = F.avg_pool2d(F.pad(values, more), CELL).unflatten(0, shape) * CELL**2
    total = sums[..., 6:, :, :]
    means = sums[..., :6, :, :] / total.clamp_min(1e-6)
    return means[..., :3, :, :], means[..., 3:, :, :], total


def _fit(source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = weight.sum(dim=(-2, -1), keepdim=True)
    mean = lambda value: (value * weight).sum(dim=(-2, -1), keepdim=True) / total.clamp_min(1e-6)  # noqa: E731
    here, there = mean(source), mean(target)
    variance = mean((source - here) ** 2)
    covariance = mean((source - here) * (target - there))
    gain = ((covariance + PRIOR**2) / (variance + PRIOR**2)).clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    offset = there - gain * here
    belief = (total / FEWEST).clamp(max=1)
    return 1 + belief * (gain - 1), belief * offset


def matched(source: Float[Tensor, "*n 3 h w"], target: Float[Tensor, "*n 3 h w"],
            weight: Float[Tensor, "*n 1 h w"]) -> Float[Tensor, "*n 3 h w"]:
    """`source` as `target` was exposed, unchanged where that is not finite. Gradients go through the pictures, not the fit."""
    if not source.numel():
        return source
    with torch.no_grad():
        gain, offset = exposure_between(source, target, weight)
        known = gain.isfinite() & offset.isfinite()  # a broken render says nothing about its exposure
    return source * torch.where(known, gain, torch.ones_like(gain)) + torch.where(known, offset, torch.zeros_like(offset))
