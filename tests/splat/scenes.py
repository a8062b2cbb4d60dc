"""Small scenes of Gaussians on which rasterisers are compared, harmless ones and hard ones."""

import torch
from torch import Tensor

from chopgrad_ns.splat import Gaussians

WIDTH, HEIGHT = 52, 39  # neither a multiple of a tile
NAMES = ["means", "quats", "scales", "opacities", "sh", "viewmats"]


def cameras(count: int, width: int = WIDTH, height: int = HEIGHT) -> tuple[Tensor, Tensor]:
    """camera_from_world and K of cameras side by side, each turned its own way; principal points off centre."""
    generator = torch.Generator().manual_seed(5)
    turn = torch.linalg.matrix_exp(0.1 * _skew(torch.randn(count, 3, generator=generator)))
    view = torch.eye(4).repeat(count, 1, 1)
    view[:, :3, :3] = turn
    view[:, 0, 3] = torch.linspace(-0.2, 0.2, count)
    K = torch.tensor([[width * 0.9, 0, width * 0.48], [0, width * 0.85, height * 0.53], [0, 0, 1]])
    return view, K.repeat(count, 1, 1)


def _skew(w: Tensor) -> Tensor:
    zero = torch.zeros_like(w[:, 0])
    x, y, z = w.unbind(1)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)


def scene(kind: str = "plain", count: int = 120, degree: int = 3, views: int = 2, seed: int = 0
          ) -> list[Tensor]:
    """[means, quats, scales, opacities, sh, viewmats, Ks], float32."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=generator) * torch.tensor([1.5, 1.0, 1.0])
    means[:, 2] += 4
    quats = torch.randn(count, 4, generator=generator)
    scales = torch.exp(0.5 * torch.randn(count, 3, generator=generator)) * 0.08
    opacities = torch.rand(count, generator=generator)
    sh = torch.randn(count, (degree + 1) ** 2, 3, generator=generator) * 0.4
    if kind == "behind":
        means[::2, 2] = -means[::2, 2]
        some = means[::6, 2]
        means[::6, 2] = 0.01 + 0.02 * torch.rand(len(some), generator=generator)  # just past the near plane
    elif kind == "huge":
        scales[::10] *= 200
        scales[1::10, 0] *= 100  # needles
    elif kind == "tiny":
        scales *= 1e-4
    elif kind == "faint":
        opacities[::3] = 0
        opacities[1::3] = 0.0045
    elif kind == "opaque":
        opacities[:] = 1
        scales *= 4
    elif kind == "outside":
        means[:, 0] += 100
    elif kind == "close":
        means[:, 2] = 0.05 + 0.3 * torch.rand(count, generator=generator)  # far beyond the picture's borders
    elif kind == "degenerate":
        scales[::3] = 0  # points
        scales[1::3, 0] = 0  # discs
        scales[2::6, :2] = 0  # sticks
        quats[::7] *= 1e-6
        quats[1::7] *= 1e6
    elif kind != "plain":
        raise ValueError(kind)
    return [means, quats, scales, opacities, sh, *cameras(views)]


def splat(degree: int = 2, count: int = 120) -> Gaussians:
    """The plain scene as `Gaussians`."""
    means, quats, scales, opacities, sh, *_ = scene(count=count, degree=degree)
    return Gaussians(means, scales.log(), quats, opacities.logit(eps=1e-3), sh)


def leaves(tensors: list[Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Copies that gather gradients (but for the intrinsics)."""
    return [t.to(dtype).clone().requires_grad_() for t in tensors[:-1]] + [tensors[-1].to(dtype)]


def weigh(outputs: tuple, seed: int = 1) -> Tensor:
    """A scalar that depends on every pixel of image and alpha, with weights of both signs."""
    generator = torch.Generator().manual_seed(seed)
    return sum((output * torch.randn(output.shape, generator=generator).to(output)).sum()
               for output in outputs[:2])


def relative(measured: Tensor, truth: Tensor) -> float:
    """L2 error, relative; 0 where both vanish."""
    error = float((measured.double() - truth.double()).norm())
    return error / float(truth.double().norm()) if error else 0.0


def assert_same_picture(measured: Tensor, truth: Tensor, clear: Tensor, scale: float = 1.0) -> None:
    """Equal to 1e-4 of `scale` at every clear pixel, of which there must be nearly all."""
    error = (measured.double() - truth.double()).abs() / scale
    assert torch.isfinite(error).all() and clear.double().mean() >= 0.98
    assert error[clear.expand_as(error)].max() <= 1e-4, f"largest error {float(error[clear.expand_as(error)].max()):.2e}"
