"""What keeps a splat sane where few views constrain it: regularisers of the Gaussians, and a prior for their depth.

Plain functions of what is trained and drawn, used by `fit` and by the plugin's model alike.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

DepthPrior = Literal["metric", "relative", "points"]
"""`metric`: maps of z in world units. `relative`: maps whose inverse is known up to scale and shift only, as monocular
estimates are. `points`: z of the scene's own points, at the few pixels that they fall on."""

MCMC_REGULARISATION = 0.01
"""Weight of opacities and of scales in MCMC's loss (Kheradmand et al. 2024), which relies on both."""


def gaussian_regulariser(opacities: Float[Tensor, "n"], scales: Float[Tensor, "n 3"], extent: float,
                         opacity_weight: float, scale_weight: float) -> Float[Tensor, ""]:
    """Weighted mean opacity and mean scale: the regularisers of Kheradmand et al. 2024, averaged over Gaussians.

    Args:
        opacities: 0…1.
        scales: standard deviations in world units, not their logarithms.
        extent: radius of the camera positions, the unit that scales are measured in.
    """
    loss = opacities.new_zeros(())
    if opacity_weight:
        loss = loss + opacity_weight * opacities.mean()
    if scale_weight:
        loss = loss + scale_weight * scales.mean() / extent
    return loss


def depth_loss(depth: Float[Tensor, "1 h w"], alpha: Float[Tensor, "1 h w"], prior: Float[Tensor, "1 h w"],
               kind: DepthPrior, extent: float) -> Float[Tensor, ""]:
    """Difference of the disparity (inverse depth) drawn and the prior's, where the prior is known.

    For metric priors and points, the absolute difference times `extent`, which makes it free of units, as in gsplat's
    trainer. For a relative one, 1 − Pearson's correlation (FSGS, Zhu et al. 2024), which no scale and shift of the
    prior's disparity changes. Either is averaged over all pixels, weighted by alpha: a prior that knows few
    pixels, or one of what is see-through, counts for little.

    Args:
        depth: expected z in world units (render mode "ED"), 0 where empty.
        alpha: 0…1; no gradient flows into it.
        prior: z, 0 or not finite where unknown.
        extent: radius of the camera positions in world units.
    """
    known = torch.isfinite(prior) & (prior > 0) & (alpha > 0) & (depth > 0)
    if not known.any():
        return depth.new_zeros(())
    weight = alpha.detach()[known]
    drawn, true = 1 / depth[known], 1 / prior[known].to(depth)
    if kind != "relative":
        return extent * (weight * (drawn - true).abs()).sum() / depth.numel()
    drawn, true = (value - (weight * value).sum() / weight.sum() for value in (drawn, true))
    spread = ((weight * drawn.square()).sum() * (weight * true.square()).sum()).clamp_min(1e-20).sqrt()
    return (1 - (weight * drawn * true).sum() / spread) * weight.sum() / depth.numel()


def regularisation(opacity_weight: float | None, scale_weight: float | None, mcmc: bool) -> tuple[float, float]:
    """Weights with what None stands for: MCMC's own where it is used, else 0."""
    usual = MCMC_REGULARISATION if mcmc else 0.0
    return tuple(usual if weight is None else weight for weight in (opacity_weight, scale_weight))
