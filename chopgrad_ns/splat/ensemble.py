"""What several splats of the same photos show together: each is wrong in its own way, and most are right."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

DETAIL, AROUND = 4, 6
"""Pixels on each side: detail is what differs from the mean over a square of that size, its contrast is taken over one."""
LARGEST_GAIN = 1.5


def median(values: Float[Tensor, "k *shape"]) -> Float[Tensor, "*shape"]:
    """Of those that are finite, 0 where none is; the mean of the two in the middle of an even number."""
    ordered, count = values.sort(dim=0).values, values.isfinite().sum(dim=0, keepdim=True)
    middle = [ordered.gather(0, index.clamp_min(0)) for index in ((count - 1) // 2, count // 2 * (count > 1))]
    return ((middle[0] + middle[1]) / 2).where(count > 0, 0.0)[0]


def together(pictures: Float[Tensor, "k t 3 h w"]) -> Float[Tensor, "t 3 h w"]:
    """The median of pictures in 0…1, in each channel of each pixel, its detail as rich in contrast as theirs.

    Where edges lie elsewhere in each of them, the median is smoother than all: nearer to the truth by squares, and farther by
    how it looks. So what differs from its surroundings is raised to the contrast that it has in the pictures (the median of
    these again, for that of a floater is no detail), at most by half.
    """
    middle = median(pictures)
    usual = median(torch.stack([_contrast(_detail(one)) for one in pictures]))
    detail = _detail(middle)
    gain = ((usual + 1e-6) / (_contrast(detail) + 1e-6)).sqrt().clamp(1, LARGEST_GAIN)
    return (middle + (gain - 1) * detail).clamp(0, 1)


def _detail(pictures: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t 3 h w"]:
    return pictures - _mean_around(pictures, DETAIL)


def _contrast(detail: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t 1 h w"]:
    """Mean square around each pixel."""
    return _mean_around(detail.square().mean(dim=1, keepdim=True), AROUND)


def _mean_around(x: Float[Tensor, "t c h w"], side: int) -> Float[Tensor, "t c h w"]:
    return F.avg_pool2d(F.pad(x, (side, side, side, side), mode="replicate"), 2 * side + 1, stride=1)
