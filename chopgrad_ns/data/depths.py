"""Prior depths for views from the scene's own points."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chopgrad_ns.data.references import project
from chopgrad_ns.splat.cameras import Cameras

CELL = 8
"""Side in pixels of the cells in which nearer points hide farther ones."""
HIDDEN = 0.1
"""A point is hidden if it lies this much (relative) behind the nearest one in its cell or a neighbouring cell."""


def near_front(z: Float[Tensor, "p"], column: Int[Tensor, "p"], row: Int[Tensor, "p"], width: int, height: int
               ) -> Bool[Tensor, "p"]:
    """Which points, given by their pixels in a picture and their depths, no other one clearly hides: for few points."""
    front = _front(z, column // CELL, row // CELL, math.ceil(width / CELL), math.ceil(height / CELL))
    return z <= (1 + HIDDEN) * front


def depths_from_points(points: Float[Tensor, "p 3"], cameras: Cameras, seen: Callable[..., Bool[Tensor, "p"]] = near_front
                       ) -> Float[Tensor, "t 1 h w"]:
    """Depth z in world units at the pixels that points fall on (where rolling shutters show them), and 0, unknown, elsewhere.

    Points that others clearly hide are left out, as `seen` tells; so are all that are not finite. Of several in a pixel the
    nearest counts.
    """
    width, height = cameras.width, cameras.height
    points = points[torch.isfinite(points).all(dim=1)].to(cameras.K)
    depths = points.new_zeros(len(cameras), 1, height, width)
    for view in range(len(cameras)):
        (uv,), (z,) = project(points, cameras[view])
        column, row = uv.floor().long().unbind(dim=1)
        inside = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        column, row, near = column[inside], row[inside], z[inside]
        chosen = seen(near, column, row, width, height)
        nearest = points.new_full((height * width,), torch.inf)
        nearest.scatter_reduce_(0, (row * width + column)[chosen], near[chosen], "amin")
        depths[view, 0] = nearest.nan_to_num(posinf=0.0).view(height, width)
    return depths


def _front(z: Float[Tensor, "p"], column: Tensor, row: Tensor, width: int, height: int) -> Float[Tensor, "p"]:
    """For each point the least z in its cell and the eight around it."""
    least = z.new_full((height * width,), torch.inf).scatter_reduce_(0, row * width + column, z, "amin")
    around = -torch.nn.functional.max_pool2d(-least.view(1, 1, height, width), 3, stride=1, padding=1)
    return around.flatten()[row * width + column]
