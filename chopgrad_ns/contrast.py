"""How rich in contrast the detail of pictures is, and raising it where something smoothed it."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

DETAIL, AROUND = 4, 6
"""Pixels on each side: detail is what differs from the mean over a square of that size, its contrast is taken over one."""
LARGEST_GAIN = 1.5


def contrast(pictures: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t 1 h w"]:
    """Mean square of the detail around each pixel, of pictures in 0…1."""
    return _contrast(_detail(pictures))


def raised(pictures: Float[Tensor, "t 3 h w"], to: Float[Tensor, "t 1 h w"]) -> Float[Tensor, "t 3 h w"]:
    """Pictures in 0…1 whose detail has this `contrast` wherever it had less, and is raised at most by half."""
    detail = _detail(pictures)
    gain = ((to + 1e-6) / (_contrast(detail) + 1e-6)).sqrt().clamp(1, LARGEST_GAIN)
    return (pictures + (gain - 1) * detail).clamp(0, 1)


def _detail(pictures: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t 3 h w"]:
    return pictures - _mean_around(pictures, DETAIL)


def _contrast(detail: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t 1 h w"]:
    return _mean_around(detail.square().mean(dim=1, keepdim=True), AROUND)


def _mean_around(x: Float[Tensor, "t c h w"], side: int) -> Float[Tensor, "t c h w"]:
    return F.avg_pool2d(F.pad(x, (side, side, side, side), mode="replicate"), 2 * side + 1, stride=1)
