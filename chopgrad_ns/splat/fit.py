"""Fit a splat to posed photos without nerfstudio: for folds, sample worlds and the command line."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal, Protocol

import torch
from gsplat.strategy import DefaultStrategy
from jaxtyping import Bool, Float
from pytorch_msssim import ssim
from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.mcmc import AnyDeviceMCMC
from chopgrad_ns.splat.rasterize import rasterize
from chopgrad_ns.splat.rolling import as_shown
from chopgrad_ns.splat.sparse import DepthPrior, depth_loss, gaussian_regulariser, regularisation


@dataclass
class FitSettings:
    """Schedule of a fit; learning rates are Splatfacto's."""

    steps: int = 600
    """training steps"""
    sh_degree: int = 2
    """highest degree of spherical harmonics; few views cannot tell more apart"""
    ssim_weight: float = 0.2
    """share of 1 − SSIM in the loss, the rest is L1"""
    strategy: Literal["default", "mcmc"] = "default"
    """how Gaussians are made: 3DGS's densification by gradients, or Markov chain Monte Carlo"""
    grow_gradient: float = 0.0008
    """mean absolute gradient of a 2D mean above which densification splits or duplicates a Gaussian"""
    max_gaussians: int = 60_000
    """no more are made once there are this many"""
    random_background: bool = True
    """a new background colour each step, so that dark surfaces are not left transparent"""
    opacity_reg: float | None = None
    """weight of the mean opacity in the loss; by default 0.01 with MCMC, which relies on it, and otherwise 0"""
    scale_reg: float | None = None
    """weight of the mean scale, in units of the cameras' extent; by default as above"""
    depth_weight: float = 0.3
    """weight of the difference from prior depths, where there are any; 0 to leave them out"""
    depth_prior: DepthPrior = "metric"
    """what prior depths are: in world units, or relative (their inverse known up to scale and shift), or of points"""
    seed: int = 0
    """of view order, backgrounds and what is drawn at random in making Gaussians"""


Progress = Callable[[int, int, Callable[[], str]], None]
"""Told after each step: steps done, steps in all, and a function that says how it goes (loss, Gaussians)."""

class Beside(Protocol):
    """What is drawn with a splat and trained together with it: moving things, a sky."""

    def at(self, camera: Cameras) -> Gaussians:
        """Gaussians that one camera may see beside the splat's, in the world, differentiable; can be none."""

    def behind(self, camera: Cameras) -> Float[Tensor, "3 h w"] | None:
        """What the camera sees where all Gaussians leave it free, differentiable; None for a random colour."""

    def penalty(self) -> Float[Tensor, ""]:
        """What is added to the loss of each step."""

    def optimizer(self, extent: float) -> torch.optim.Optimizer:
        """For all of its parameters, in a scene whose cameras have this radius."""


LEARNING_RATES = {"means": 1.6e-4, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3,
                  "shN": 2.5e-3 / 20}


def fit(images: Float[Tensor, "t 3 h w"], cameras: Cameras, points: Float[Tensor, "p 3"],
        colors: Float[Tensor, "p 3"], settings: FitSettings | None = None,
        progress: Progress | None = None, depths: Float[Tensor, "t 1 h w"] | None = None,
        masks: Bool[Tensor, "t 1 h w"] | None = None, alphas: Float[Tensor, "t 1 h w"] | None = None,
        extent: float | None = None, beside: Beside | None = None) -> Gaussians:
    """Gaussians that reproduce `images` (0…1) at `cameras`, started from coloured points (0…1).

    Args:
        depths: priors of z in world units, 0 or not finite where unknown; `settings.depth_weight` weighs them.
        masks: where an image and its depth count. What they hold elsewhere is never looked at: there, image and
            render are taken to agree, and nothing pulls on the Gaussians, so that a pixel that counts weighs as
            much as it does without masks.
        alphas: opacity of the images, 0…1, for things cut out: each step lays them over its own background, as the
            splat is laid, so that nothing is left where they are transparent. Needs `settings.random_background`.
        extent: radius of what is fitted, in world units, the measure of learning rates and of scales; by default of
            the camera positions.
        beside: what is trained and drawn together with them; it is changed in place.

    Deterministic on the CPU for given inputs and seed. Raises UserError without views or finite points, ValueError
    for masks or alphas of another shape and for alphas without random backgrounds.
    """
    settings = settings or FitSettings()
    start = Gaussians.from_points(points, colors, settings.sh_degree)
    if not len(images) or not len(start):
        raise UserError(f"No splat can be fitted to {len(images)} views and {len(start)} points; give both.")
    _check(images, masks, alphas, settings)
    cameras = cameras.to(images.device)
    extent = _extent(cameras) if extent is None else extent
    params, optimizers, decay = _prepare(start.to(images.device), settings, extent)
    if beside is not None:
        optimizers["beside"] = beside.optimizer(extent)
    strategy = _strategy(settings)
    state = strategy.initialize_state(*([] if settings.strategy == "mcmc" else [extent]))
    draw = random.Random(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    order: list[int] = []
    with _reproducible(settings.seed):
        for step in range(settings.steps):
            order = order or draw.sample(range(len(images)), len(images))
            view = order.pop()
            target = _target(view, images, cameras, depths if settings.depth_weight else None, masks, alphas)
            loss, meta = _loss(params, target, step, extent, settings, generator, beside)
            strategy.step_pre_backward(params, optimizers, state, step, meta)
            loss.backward()
            for optimizer in optimizers.values():
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            decay.step()
            meta = of_splat(meta, len(params["means"]))
            if isinstance(strategy, AnyDeviceMCMC):
                # Noise is lr·Σ·η with Σ an area and lr a length: divided by an area it scales with the world.
                strategy.step_post_backward(params, optimizers, state, step, meta, decay.get_last_lr()[0] / extent**2)
            else:
                strategy.step_post_backward(params, optimizers, state, step, meta, packed=False)
            if progress is not None:
                progress(step + 1, settings.steps, lambda: f"loss {loss.item():.4f}, {len(params['means'])} Gaussians")
    return _result(params)


def _check(images, masks, alphas, settings: FitSettings) -> None:
    expected = (len(images), 1, *images.shape[-2:])
    for name, value in {"masks": masks, "alphas": alphas}.items():
        if value is not None and value.shape != expected:
            raise ValueError(f"{name} have shape {tuple(value.shape)}, not {expected}")
    if masks is not None and masks.dtype != torch.bool:
        raise ValueError(f"masks are {masks.dtype}, not bool")
    if alphas is not None and not settings.random_background:
        raise ValueError("images with alphas need settings.random_background: over one colour, that colour would be "
                         "as good as nothing")


def _prepare(start: Gaussians, settings: FitSettings, extent: float):
    values = {"means": start.means, "scales": start.log_scales, "quats": start.quats,
              "opacities": start.opacity_logits, "sh0": start.sh[:, :1], "shN": start.sh[:, 1:]}
    params = torch.nn.ParameterDict({name: torch.nn.Parameter(value.clone()) for name, value in values.items()})
    rates = {**LEARNING_RATES, "means": LEARNING_RATES["means"] * extent}
    optimizers = {name: torch.optim.Adam([params[name]], lr=rates[name], eps=1e-15, fused=True) for name in params}
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizers["means"], gamma=0.1 ** (1 / settings.steps))
    return params, optimizers, decay


@dataclass
class _CappedStrategy(DefaultStrategy):
    """3DGS's densification up to a number of Gaussians; the steepest gradients are served first."""

    max_gaussians: int = 0

    def _grow_gs(self, params, optimizers, state, step):
        gradient = state["grad2d"] / state["count"].clamp_min(1)
        room, usual = self.max_gaussians - len(gradient), self.grow_grad2d
        if room <= 0:
            return 0, 0
        if room < len(gradient):
            self.grow_grad2d = max(usual, float(gradient.kthvalue(len(gradient) - room).values))
        grown = super()._grow_gs(params, optimizers, state, step)
        self.grow_grad2d = usual
        return grown


def _strategy(settings: FitSettings) -> DefaultStrategy | AnyDeviceMCMC:
    """Densification shrunk to the run, from a fifth to three quarters of its steps and without resets; or MCMC."""
    if settings.strategy == "mcmc":
        return AnyDeviceMCMC.for_run(settings.steps, settings.max_gaussians)
    return _CappedStrategy(
        prune_opa=0.05, grow_grad2d=settings.grow_gradient, refine_start_iter=settings.steps // 5,
        refine_stop_iter=settings.steps * 3 // 4, refine_every=max(settings.steps // 12, 50),
        reset_every=10 * settings.steps, absgrad=True, max_gaussians=settings.max_gaussians)


@dataclass
class _Target:
    """One view to reproduce: its image, and what is known of it besides."""

    image: Float[Tensor, "1 3 h w"]
    camera: Cameras
    depth: Float[Tensor, "1 h w"] | None
    mask: Bool[Tensor, "1 h w"] | None
    alpha: Float[Tensor, "1 h w"] | None


def _target(view: int, images, cameras: Cameras, depths, masks, alphas) -> _Target:
    depth, alpha = (None if value is None else value[view].to(images) for value in (depths, alphas))
    mask = None if masks is None else masks[view].to(images.device)
    if depth is not None and mask is not None:
        depth = torch.where(mask, depth, 0)
    return _Target(images[view][None], cameras[view], depth, mask, alpha)


def _loss(params, target: _Target, step, extent, settings, generator, beside: Beside | None):
    """Loss of one view, with the priors that `settings` asks for, and what `rasterize` tells of it."""
    camera, depth, truth = target.camera, target.depth, target.image
    degree = min(step * 2 * (settings.sh_degree + 1) // settings.steps, settings.sh_degree)
    background = torch.rand(1, 3, generator=generator).to(truth) if settings.random_background else None
    splat = Gaussians(params["means"], params["scales"], params["quats"], params["opacities"],
                      torch.cat([params["sh0"], params["shN"]], dim=1))
    scene = splat if beside is None else Gaussians.merged([splat, beside.at(camera).with_sh_degree(settings.sh_degree)])
    behind = None if beside is None else beside.behind(camera)
    drawn, alpha, meta = rasterize(
        as_shown(scene.means, camera), scene.quats, scene.log_scales.exp(), scene.opacity_logits.sigmoid(), scene.sh,
        camera.camera_from_world,
        camera.K, camera.width, camera.height, sh_degree=degree, packed=False,
        backgrounds=background if behind is None else None, absgrad=settings.strategy == "default",
        render_mode="RGB" if depth is None else "RGB+ED")
    shown = drawn[..., :3].permute(0, 3, 1, 2)
    if behind is not None:
        shown = shown + (1 - alpha.permute(0, 3, 1, 2)) * behind
    if target.alpha is not None:
        truth = target.alpha * truth + (1 - target.alpha) * background[..., None, None]
    if target.mask is not None:
        # The render itself stands in for what is masked: SSIM's windows then see no edge where the mask ends.
        stand_in = shown.detach()
        shown, truth = torch.where(target.mask, shown, stand_in), torch.where(target.mask, truth, stand_in)
    loss = _photometric(shown, truth, settings.ssim_weight)
    weights = regularisation(settings.opacity_reg, settings.scale_reg, settings.strategy == "mcmc")
    if any(weights):
        loss = loss + gaussian_regulariser(splat.opacity_logits.sigmoid(), splat.log_scales.exp(), extent, *weights)
    if beside is not None:
        loss = loss + beside.penalty()
    if depth is not None:
        z, alpha = drawn[0, ..., 3][None], alpha[0, ..., 0][None]
        loss = loss + settings.depth_weight * depth_loss(z, alpha, depth, settings.depth_prior, extent)
    return loss, meta


def of_splat(meta: dict, count: int) -> dict:
    """What `rasterize` told, after the backward pass, of the first `count` Gaussians: those that the strategy looks after."""
    means, radii = meta["means2d"], meta["radii"]
    if radii.shape[1] == count:
        return meta
    gradients = {name: value[:, :count] for name in ("grad", "absgrad") if (value := getattr(means, name, None)) is not None}
    return {**meta, "radii": radii[:, :count], "means2d": SimpleNamespace(**gradients)}


def _photometric(shown: Float[Tensor, "1 3 h w"], truth: Float[Tensor, "1 3 h w"], ssim_weight: float) -> Tensor:
    similarity = ssim(shown, truth, data_range=1.0, win_size=_window(truth))
    return (1 - ssim_weight) * (shown - truth).abs().mean() + ssim_weight * (1 - similarity)


def _window(image: Tensor) -> int:
    """SSIM's window: 11 pixels, less on pictures smaller than that."""
    shortest = min(image.shape[-2:])
    return 11 if shortest >= 11 else shortest - 1 + shortest % 2


def _extent(cameras: Cameras) -> float:
    """Radius of the camera positions, as 3DGS scales its learning rate; 1 where they coincide."""
    centers = cameras.centers
    radius = float((centers - centers.mean(dim=0)).norm(dim=1).max()) * 1.1
    return radius if radius > 1e-6 else 1.0


class _reproducible:
    """gsplat's splitting draws from torch's global generator: seed it, and give the caller's state back."""

    def __init__(self, seed: int):
        self.seed = seed

    def __enter__(self) -> None:
        self.state = torch.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *_) -> None:
        torch.set_rng_state(self.state)


def _result(params) -> Gaussians:
    p = {name: value.detach() for name, value in params.items()}
    geometry = torch.cat([p["means"], p["scales"], p["quats"], p["opacities"][:, None]], dim=1)
    whole = torch.isfinite(geometry).all(dim=1)
    sh = torch.cat([p["sh0"], p["shN"]], dim=1)
    return Gaussians(*(p[name][whole] for name in ("means", "scales", "quats", "opacities")), sh[whole])
