"""Slow, plain rasterisation of one camera in float64: every Gaussian at every pixel, one after the other.

Projection and harmonics are gsplat's own torch twins, which it tests its CUDA code against; compositing is the
textbook recursion. Only gsplat's rule of which tiles a Gaussian may touch (a box of three standard deviations,
widened to whole tiles of 16 pixels) is kept, as a mask: it changes the picture, because alpha is still 0.011 at the
edge of that box.
"""

import torch
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics
from jaxtyping import Bool, Float
from torch import Tensor

TILE = 16


def rasterize_dense(means: Float[Tensor, "n 3"], quats: Float[Tensor, "n 4"], scales: Float[Tensor, "n 3"],
                    opacities: Float[Tensor, "n"], sh: Float[Tensor, "n k 3"], view: Float[Tensor, "4 4"],
                    K: Float[Tensor, "3 3"], width: int, height: int, degree: int, antialiased: bool = False,
                    eps2d: float = 0.3, near_plane: float = 0.01, far_plane: float = 1e10, radius_clip: float = 0.0
                    ) -> tuple[Float[Tensor, "h w 4"], Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Colour and Σ weight·depth, and alpha; differentiable in everything but `K`.

    The third is where every decision was clear: no alpha within a ten-thousandth of 1/255, no transmittance within
    a thousandth of 1e-4. Elsewhere a float32 rasteriser may rightly decide otherwise.
    """
    planes = {"eps2d": eps2d, "near_plane": near_plane, "far_plane": far_plane}
    covariances, _ = _quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    with torch.no_grad():
        radii = _fully_fused_projection(means, covariances, view[None], K[None], width, height, **planes)[0][0]
    drawn = torch.nonzero(radii > radius_clip)[:, 0]
    radii, means2d, depths, conics, blur = _fully_fused_projection(
        means[drawn], covariances[drawn], view[None], K[None], width, height, calc_compensations=True,
        **planes)
    opacity = opacities[drawn] * (blur[0] if antialiased else 1)
    position = torch.linalg.inv(view)[:3, 3]
    colors = (_spherical_harmonics(degree, means[drawn] - position, sh[drawn]) + 0.5).clamp_min(0)
    features = torch.cat([colors, depths[0, :, None]], dim=1)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    xs, ys = columns.to(means) + 0.5, rows.to(means) + 0.5
    image = means.new_zeros(height, width, 4)
    transmittance, finished = means.new_ones(height, width), torch.zeros(height, width, dtype=torch.bool)
    clear = ~finished
    for i in torch.argsort(depths[0].detach(), stable=True).tolist():
        dx, dy = means2d[0, i, 0] - xs, means2d[0, i, 1] - ys
        a, b, c = conics[0, i]
        alpha = (opacity[i] * torch.exp(-(0.5 * (a * dx**2 + c * dy**2) + b * dx * dy))).clamp_max(0.999)
        touched = _touched(means2d[0, i].detach(), float(radii[0, i]), rows, columns)
        counts = touched & (alpha >= 1 / 255) & ~finished
        after = transmittance * (1 - alpha)
        clear &= finished | ~touched | ((255 * alpha - 1).abs() > 1e-4)
        clear &= ~counts | ((1e4 * after - 1).abs() > 1e-3)
        finished = finished | (counts & (after <= 1e-4))
        counts = counts & (after > 1e-4)
        image = image + torch.where(counts, alpha * transmittance, 0)[..., None] * features[i]
        transmittance = torch.where(counts, after, transmittance)
    return image, 1 - transmittance, clear


def _touched(mean: Float[Tensor, "2"], radius: float, rows: Tensor, columns: Tensor) -> Bool[Tensor, "h w"]:
    low, high = torch.floor((mean - radius) / TILE), torch.ceil((mean + radius) / TILE)
    x, y = columns // TILE, rows // TILE
    return (x >= low[0]) & (x < high[0]) & (y >= low[1]) & (y < high[1])
