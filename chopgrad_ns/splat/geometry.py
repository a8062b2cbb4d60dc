"""What rotations, scalings and translations do to quaternions and spherical harmonics."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.splat.torch_backend import harmonics


def similarity(target_from_source: Float[Tensor, "4 4"]
               ) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"], Float[Tensor, ""]]:
    """Rotation, translation and scale of x ↦ scale · rotation · x + translation, in float64.

    Raises ValueError for another shape and for what is none: shears, mirrors, scales that differ between axes (by
    more than 1e-4, which float32 needs), projections, numbers that are not finite.
    """
    if target_from_source.shape != (4, 4):
        raise ValueError(f"target_from_source must be [4, 4], not {list(target_from_source.shape)}")
    matrix = target_from_source.double()
    linear, translation = matrix[:3, :3], matrix[:3, 3]
    volume = torch.linalg.det(linear)
    if not torch.isfinite(matrix).all() or volume <= 0:
        raise ValueError("target_from_source is not a similarity: it mirrors, flattens or is not finite")
    scale = volume ** (1 / 3)
    rotation = linear / scale
    identity = torch.eye(4, dtype=torch.float64, device=matrix.device)
    skewed = (rotation @ rotation.T - identity[:3, :3]).abs().max() > 1e-4
    if skewed or not torch.equal(matrix[3], identity[3]):
        raise ValueError("target_from_source is not a similarity: it shears, scales axes differently or projects")
    return rotation, translation, scale


def quaternions(rotations: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 4"]:
    """Unit quaternions wxyz of rotation matrices, of either sign; differentiable."""
    m = rotations
    xx, yy, zz = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    wx, wy, wz = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    xy, xz, yz = m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1]
    rows = [1 + xx + yy + zz, wx, wy, wz, wx, 1 + xx - yy - zz, xy, xz, wy, xy, 1 - xx + yy - zz, yz,
            wz, xz, yz, 1 - xx - yy + zz]
    products = torch.stack(rows, dim=-1).reshape(-1, 4, 4)  # 4 · q qᵀ: every row is a multiple of q
    largest = products.diagonal(dim1=1, dim2=2).argmax(dim=1)
    row = products[torch.arange(len(m), device=m.device), largest]
    return torch.nn.functional.normalize(row, dim=-1)


def rotate_quaternions(rotation: Float[Tensor, "3 3"], quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Quaternions wxyz of `rotation` after the ones of `quats`, whose lengths are kept."""
    return multiply(quaternions(rotation[None]).to(quats), quats)


def multiply(first: Float[Tensor, "*n 4"], second: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Products of quaternions wxyz: the rotations of `first` after those of `second`."""
    w, x, y, z = first.unbind(-1)
    a, b, c, d = second.unbind(-1)
    return torch.stack([w * a - x * b - y * c - z * d, w * b + x * a + y * d - z * c,
                        w * c - x * d + y * a + z * b, w * d + x * c - y * b + z * a], dim=-1)


def rotate_harmonics(rotation: Float[Tensor, "3 3"], sh: Float[Tensor, "n k 3"]) -> Float[Tensor, "n k 3"]:
    """Coefficients of the same colours seen from rotated directions; K = (degree + 1)², degree ≤ 3, else ValueError."""
    turn = harmonic_turns(rotation[None], round(sh.shape[1] ** 0.5) - 1)[0]
    return torch.einsum("jk,nkc->njc", turn.to(sh), sh)


def harmonic_turns(rotations: Float[Tensor, "a 3 3"], degree: int) -> Float[Tensor, "a k k"]:
    """Matrices that turn harmonic coefficients along with rotations; K = (degree + 1)², degree ≤ 3, else ValueError.

    The new coefficients c' satisfy Y(d) c' = Y(Rᵀ d) c for every direction d. Harmonics of one degree only mix with
    each other under a rotation, so that solving for c' at enough directions is exact, up to rounding.
    """
    if degree > 3:
        raise ValueError(f"harmonics of degree {degree} cannot be rotated; 3 is the highest")
    directions = _spread(64).to(rotations)
    turned = harmonics(degree, (directions @ rotations).flatten(0, 1)).unflatten(0, (len(rotations), -1))
    return _unmixed(degree).to(rotations) @ turned


@lru_cache
def _unmixed(degree: int) -> Float[Tensor, "k n"]:
    return torch.linalg.pinv(harmonics(degree, _spread(64)))


def _spread(count: int) -> Float[Tensor, "n 3"]:
    """Unit directions about evenly spread: a spiral that turns by the golden angle, float64."""
    index = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * index + 1) / count
    angle = math.pi * (3 - 5 ** 0.5) * index
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=1)
