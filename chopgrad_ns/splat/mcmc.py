"""Densification by Markov chain Monte Carlo on any device (gsplat's own calls CUDA kernels).

Kheradmand et al., "3D Gaussian Splatting as Markov Chain Monte Carlo", NeurIPS 2024 (arXiv 2404.09591): Gaussians that
have faded are moved to where opaque ones are, a few are added there, and faint ones wander by noise.
"""

import math
from dataclasses import dataclass

import torch
from gsplat.strategy import MCMCStrategy
from gsplat.strategy.ops import _multinomial_sample, _update_param_with_optimizer
from jaxtyping import Float, Int
from torch import Tensor

from chopgrad_ns.splat.torch_backend import rotations

MOST_SHARES = 51
"""One Gaussian is divided into no more than this many at a time."""

NOISE_GATE = (100.0, 0.005)
"""Steepness and threshold of the sigmoid that keeps noise off opaque Gaussians (the paper's k and 1 − t)."""


def _share_weights() -> Float[Tensor, "n j"]:
    """Row N, column j−1: C(N, j)·(−1)^(j+1)/√j for j ≤ N, in double precision because the signs alternate."""
    table = torch.zeros(MOST_SHARES + 1, MOST_SHARES, dtype=torch.float64)
    for shares in range(1, MOST_SHARES + 1):
        for j in range(1, shares + 1):
            table[shares, j - 1] = math.comb(shares, j) * (-1) ** (j + 1) / math.sqrt(j)
    return table


SHARE_WEIGHTS = _share_weights()


@torch.no_grad()
def divide(opacities: Float[Tensor, "n"], scales: Float[Tensor, "n 3"],
           shares: Int[Tensor, "n"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n 3"]]:
    """Opacity and scales of each of N = `shares` coinciding Gaussians that together look like one of those given.

    The paper's equation 9. Opacities: 1 − (1 − o)^(1/N), so that they composite to o at the centre. Scales: such
    that the composite's integral along a line stays o·σ·√(2π); its double sum over C(i−1, k), i = 1…N, is the
    single sum over C(N, k+1) taken here.

    Args:
        opacities: 0…1, below 1.
        scales: standard deviations in world units, not their logarithms.
        shares: 1 or more; beyond `MOST_SHARES` counted as that many.
    """
    shares = shares.clamp(1, MOST_SHARES)
    old = opacities.double().clamp_max(1 - 1e-7)
    new = 1 - (1 - old) ** (1 / shares)
    powers = new[:, None] ** torch.arange(1, MOST_SHARES + 1, device=new.device)
    width = (SHARE_WEIGHTS.to(new.device)[shares] * powers).sum(dim=1)
    return new.to(opacities), scales * (old / width).to(scales)[:, None]


@torch.no_grad()
def wander(opacities: Float[Tensor, "n"], scales: Float[Tensor, "n 3"], quats: Float[Tensor, "n 4"],
           size: float) -> Float[Tensor, "n 3"]:
    """Random steps size·gate(o)·Σ·η in world units, η standard normal and Σ = R S² Rᵀ the Gaussian's covariance.

    The gate is σ(100·(0.005 − o)): only what has nearly faded moves. Draws from torch's global generator.

    Args:
        opacities: 0…1.
        scales: standard deviations, not their logarithms.
        quats: wxyz, any length but zero.
    """
    steepness, threshold = NOISE_GATE
    gate = torch.sigmoid(steepness * (threshold - opacities))
    rotation = rotations(quats)
    local = torch.einsum("nji,nj->ni", rotation, torch.randn_like(scales))
    return size * gate[:, None] * torch.einsum("nij,nj->ni", rotation, scales.square() * local)


@dataclass
class AnyDeviceMCMC(MCMCStrategy):
    """gsplat's `MCMCStrategy` with the same settings, parameters and schedule, in plain torch.

    A Gaussian that is moved or added starts with clean optimizer moments, and the one it joins keeps its own: clearing
    those too would make Adam overshoot everywhere, for its count of steps goes on. The table of binomials that gsplat
    hands around (`binoms`) is not used; `SHARE_WEIGHTS` holds them in double precision.
    """

    @classmethod
    def for_run(cls, steps: int, most: int) -> "AnyDeviceMCMC":
        """The strategy on a schedule for a run of `steps`, with `most` Gaussians at the end."""
        return cls(cap_max=most, refine_start_iter=steps // 20, refine_stop_iter=steps * 9 // 10,
                   refine_every=max(steps // 50, 10))

    def step_post_backward(self, params, optimizers, state, step, info, lr: float) -> None:
        """Move and add Gaussians every `refine_every` steps; then let faint ones wander by `lr · noise_lr`."""
        if self.refine_start_iter < step < self.refine_stop_iter and step % self.refine_every == 0:
            moved = self._relocate_gs(params, optimizers, state["binoms"])
            added = self._add_new_gs(params, optimizers, state["binoms"])
            if self.verbose:
                print(f"Step {step}: {moved} Gaussians moved, {added} added, now {len(params['means'])}.")
        steps = wander(params["opacities"].detach().flatten().sigmoid(), params["scales"].detach().exp(),
                       params["quats"].detach(), lr * self.noise_lr)
        params["means"].data.add_(steps)

    @torch.no_grad()
    def _relocate_gs(self, params, optimizers, binoms) -> int:
        """Move Gaussians below `min_opacity` to live ones, drawn by their opacity; returns how many."""
        opacities = params["opacities"].flatten().sigmoid()
        faded = ~(opacities > self.min_opacity)  # what is not a number too
        dead, alive = faded.nonzero().flatten(), (~faded).nonzero().flatten()
        if not len(dead) or not len(alive):
            return 0
        joined = alive[_multinomial_sample(opacities[alive], len(dead))]
        self._share(params, joined)

        def move(name: str, value: Tensor) -> Tensor:
            return torch.nn.Parameter(value.index_copy(0, dead, value[joined]))

        def forget(key: str, value: Tensor) -> Tensor:
            return value.index_fill(0, dead, 0)

        _update_param_with_optimizer(move, forget, params, optimizers)
        return len(dead)

    @torch.no_grad()
    def _add_new_gs(self, params, optimizers, binoms) -> int:
        """Add up to 5 % more, no more than `cap_max` in all, at ones drawn by their opacity; returns how many."""
        count = len(params["means"])
        more = min(self.cap_max, int(1.05 * count)) - count
        if more <= 0:
            return 0
        joined = _multinomial_sample(params["opacities"].flatten().sigmoid(), more)
        self._share(params, joined)

        def extend(name: str, value: Tensor) -> Tensor:
            return torch.nn.Parameter(torch.cat([value, value[joined]]))

        def forget(key: str, value: Tensor) -> Tensor:
            return torch.cat([value, value.new_zeros(more, *value.shape[1:])])

        _update_param_with_optimizer(extend, forget, params, optimizers)
        return more

    def _share(self, params, joined: Int[Tensor, "m"]) -> None:
        """Make room: each Gaussian in `joined` becomes one of as many as it will be (itself and those that join)."""
        opacity_logits, log_scales = params["opacities"], params["scales"]
        which, joining = joined.unique(return_counts=True)
        opacities, scales = divide(opacity_logits[which].flatten().sigmoid(), log_scales[which].exp(), joining + 1)
        eps = torch.finfo(torch.float32).eps
        opacities = opacities.clamp(self.min_opacity, 1 - eps).logit()
        opacity_logits[which] = opacities.view_as(opacity_logits[which])
        log_scales[which] = scales.log()
