"""What several splats of the same photos show together: each is wrong in its own way, and most are right."""

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.contrast import contrast, raised


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
    return raised(median(pictures), median(torch.stack([contrast(one) for one in pictures])))
