"""Splatfacto on any device, with the splat before refinement kept beside the current one."""

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Dict, Literal, Optional, Type, Union

import torch
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from torch import Tensor

from chopgrad_ns.plugin.cameras import to_opencv
from chopgrad_ns.plugin.compat import no_perceptual_download
from chopgrad_ns.plugin.drive_scene import actors_and_sky, in_metres, seconds_of, scaled_and_moved
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.fit import FitSettings, of_splat
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.mcmc import AnyDeviceMCMC
from chopgrad_ns.splat.rasterize import rasterize
from chopgrad_ns.splat.render import Scene
from chopgrad_ns.splat.rolling import as_shown
from chopgrad_ns.splat.sparse import DepthPrior, depth_loss, gaussian_regulariser, regularisation

PRIOR_DEPTH = "prior_depth"
"""Key of a prior depth map [H, W, 1] in a batch, and of the mark in its camera's metadata that depth will be needed."""
EXTENT = 1.0
"""Radius of the camera positions: nerfstudio's parsers scale scenes to it, and Splatfacto relies on that too."""


@dataclass
class RefinedSplatConfig(SplatfactoModelConfig):
    """Splatfacto with a schedule for sparse views and short runs."""

    _target: Type = field(default_factory=lambda: RefinedSplatModel)
    reconstruct_steps: int = 1500
    """steps of plain reconstruction; densification takes place in the first three quarters"""
    pseudo_weight: float = 1.0
    """weight of the loss on refined frames"""
    strategy: Literal["default", "mcmc"] = "default"
    """how Gaussians are made: 3DGS's densification by gradients, or Markov chain Monte Carlo"""
    max_gaussians: int = 60_000
    """MCMC makes no more once there are this many"""
    opacity_reg: Optional[float] = None
    """weight of the mean opacity in the loss; by default 0.01 with MCMC, which relies on it, and otherwise 0"""
    scale_reg: Optional[float] = None
    """weight of the mean scale in the loss; by default as above"""
    depth_weight: float = 0.3
    """weight of the difference from prior depths, where the scene has any; 0 to leave them out"""
    depth_prior: DepthPrior = "metric"
    """the scene's depth maps, in its units or only relative (monocular estimates), or instead depths of its points"""
    num_downscales: int = 0
    sh_degree: int = 2
    sh_degree_interval: int = 400
    warmup_length: int = 300
    background_color: Literal["random", "black", "white"] = "random"

    def fit_settings(self, steps: int) -> FitSettings:
        """The same options for splats that are fitted beside this one, in so many steps."""
        names = ("strategy", "max_gaussians", "opacity_reg", "scale_reg", "depth_weight", "depth_prior")
        return FitSettings(steps=steps, **{name: getattr(self, name) for name in names})


class RefinedSplatModel(SplatfactoModel):
    """A Splatfacto result in every respect (export, evaluation, rendering), drawn by `chopgrad_ns.splat.rasterize`.

    Of a drive, the Splatfacto result is what stands still; `beside` holds its actors and sky, trained and drawn with it.

    Outputs beside Splatfacto's: `rgb_before` [H, W, 3], the plain splat, and `error` [H, W, 1], the mean absolute
    difference of the two. Before refinement they are `rgb` itself and zero, so that the keys never change.
    """

    config: RefinedSplatConfig

    def populate_modules(self) -> None:
        self.config.stop_split_at = int(self.config.reconstruct_steps * 0.75)
        self.config.stop_screen_size_at = self.config.stop_split_at
        seed, self.seed_points = self.seed_points, None  # Splatfacto moves seed colours to CUDA unasked
        with no_perceptual_download(_LazyPerceptual()):
            super().populate_modules()
        self.strategy.verbose = False
        if self.config.strategy == "mcmc":
            self.strategy = AnyDeviceMCMC.for_run(self.config.reconstruct_steps, self.config.max_gaussians)
            self.strategy_state = self.strategy.initialize_state()
        self.background_color = torch.zeros(3)
        if seed is not None and not self.config.random_init:
            points, colors = seed
            colors = colors.float() / 255 if colors.dtype == torch.uint8 else colors.float().clamp_max(255) / 255
            self.set_gaussians(Gaussians.from_points(points.float(), colors, self.config.sh_degree))
        for name in ("means", "log_scales", "quats", "opacity_logits", "sh"):
            self.register_buffer(f"before_{name}", torch.empty(0))
        self.metadata = self.kwargs.get("metadata") or {}
        self.seconds = seconds_of(self.metadata)
        self.beside = actors_and_sky(self.metadata) if "drive" in self.metadata else None
        self.beside_before = copy.deepcopy(self.beside)

    def get_param_groups(self) -> Dict[str, list]:
        """Splatfacto's groups, and those of a drive's actors and sky."""
        groups = super().get_param_groups()
        return groups if self.beside is None else groups | self.beside.parameter_groups()

    # The splat as `Gaussians`, and back.

    def gaussians(self) -> Gaussians:
        """The current splat, detached."""
        return self._splat().detach()

    def _splat(self) -> Gaussians:
        p = self.gauss_params
        return Gaussians(p["means"], p["scales"], p["quats"], p["opacities"][:, 0],
                         torch.cat([p["features_dc"][:, None], p["features_rest"]], dim=1))

    def set_gaussians(self, splat: Gaussians) -> None:
        """Replace the splat before optimizers exist. SH bands are cut or filled with zeros to the model's degree."""
        sh = splat.with_sh_degree(self.config.sh_degree).sh
        values = {"means": splat.means, "scales": splat.log_scales, "quats": splat.quats,
                  "features_dc": sh[:, 0], "features_rest": sh[:, 1:], "opacities": splat.opacity_logits[:, None]}
        for name, value in values.items():
            self.gauss_params[name] = torch.nn.Parameter(value.clone().contiguous())

    def remember_before(self) -> None:
        """Keep the present splat as the one `rgb_before` shows; it is saved with the checkpoint."""
        now = self.gaussians()
        for name in ("means", "log_scales", "quats", "opacity_logits", "sh"):
            setattr(self, f"before_{name}", getattr(now, name).clone())
        if self.beside is not None:
            self.beside_before.load_state_dict(self.beside.state_dict())

    def scene(self) -> Scene:
        """The present splat, for a drive with its actors and sky, in the world of nerfstudio's cameras."""
        return self._whole(self.gaussians(), self.beside)

    def scene_before(self) -> Scene | None:
        """The scene that `rgb_before` shows, or None while it is still being reconstructed."""
        before = self.before()
        return None if before is None else self._whole(before, self.beside_before)

    def save_scene(self, folder: Path) -> None:
        """Write the scene graph of a drive, in its own world and metres, as `sim.scene_graph.SceneGraph.load` reads it;
        nothing where the scene is no drive.
        """
        if self.beside is not None:
            self._graph(self.gaussians(), self.beside).save(folder)

    def _whole(self, background: Gaussians, beside) -> Scene:
        if beside is None:
            return background
        return self._graph(background, beside).transformed(torch.eye(3), *in_metres(self.metadata))

    def _graph(self, background: Gaussians, beside):
        translation, scale = in_metres(self.metadata)
        return beside.graph(background.transformed(scaled_and_moved(-translation, 1 / scale)))

    def before(self) -> Gaussians | None:
        """The plain splat, or None while it is still being reconstructed."""
        if self.before_means.numel() == 0:
            return None
        return Gaussians(*(getattr(self, f"before_{name}")
                           for name in ("means", "log_scales", "quats", "opacity_logits", "sh")))

    def load_state_dict(self, dict, **kwargs):  # noqa: A002  (Splatfacto's own parameter name)
        for name in ("means", "log_scales", "quats", "opacity_logits", "sh"):
            key = f"before_{name}"
            dict.setdefault(key, torch.empty(0))  # a plain Splatfacto checkpoint has none
            setattr(self, key, torch.empty_like(dict[key], device=self.device))
        for beside in ("beside", "beside_before"):  # seeds may have come out in another number on another machine
            if getattr(self, beside) is not None and getattr(self, beside).tracked is not None:
                getattr(self, beside).tracked.make_room(dict, f"{beside}.tracked.")
        return super().load_state_dict(dict, **kwargs)

    # Drawing.

    def get_outputs(self, camera: NerfstudioCameras) -> Dict[str, Union[Tensor, list]]:
        """Render one camera; in training through the camera optimizer and with gradients kept for densification."""
        background = self._get_background_color()
        if self.training:
            assert camera.shape[0] == 1, "Only one camera at a time"
            camera_to_world = self.camera_optimizer.apply_to_camera(camera)
        else:
            camera_to_world = camera.camera_to_worlds
        view = to_opencv(camera, self.seconds)
        viewmat = _viewmat(camera_to_world)
        splat = self._cropped()
        if splat is None:
            return self._empty(view.height, view.width, background)
        degree = min(self.step // self.config.sh_degree_interval, self.config.sh_degree)
        guided = PRIOR_DEPTH in (camera.metadata or {})
        with_depth = not self.training or self.config.output_depth_during_training or guided
        mode = "RGB+ED" if with_depth else "RGB"
        rgb, alpha, depth, self.info = self._draw(splat, self.beside, viewmat, view, background, degree, mode)
        self.last_size = (view.height, view.width)
        if self.training:
            self.strategy.step_pre_backward(self.gauss_params, self.optimizers, self.strategy_state, self.step,
                                            self.info)
            return {"rgb": rgb, "depth": depth, "accumulation": alpha, "background": background}
        before = self.before()
        old = rgb if before is None else self._draw(before, self.beside_before, viewmat, view, background,
                                                    self.config.sh_degree, "RGB")[0]
        return {"rgb": rgb, "depth": depth, "accumulation": alpha,
                "background": background.expand(view.height, view.width, 3), "rgb_before": old,
                "error": (rgb - old).abs().mean(dim=-1, keepdim=True)}

    def _cropped(self) -> Gaussians | None:
        """The Gaussians inside the viewer's crop box, differentiable; None where it holds none."""
        splat = self._splat()
        if self.crop_box is None or self.training:
            return splat
        inside = self.crop_box.within(self.means).squeeze()
        return splat[inside] if inside.any() else None

    def _draw(self, splat: Gaussians, beside, viewmat, view: Cameras, background, degree, mode):
        behind = background
        if beside is not None:
            if view.times is None:
                view = replace(view, times=view.K.new_zeros(len(view)))
            splat = Gaussians.merged([splat, beside.at(view).with_sh_degree(splat.sh_degree)])
            behind = beside.behind(view).permute(1, 2, 0)
        drawn, alpha, info = rasterize(
            as_shown(splat.means, view), splat.quats, splat.log_scales.exp(), splat.opacity_logits.sigmoid(), splat.sh, viewmat,
            view.K.to(viewmat), view.width, view.height, sh_degree=degree, render_mode=mode,
            packed=False, absgrad=self.config.strategy == "default" and self.config.use_absgrad,
            rasterize_mode=self.config.rasterize_mode)
        rgb = (drawn[0, ..., :3] + (1 - alpha[0]) * behind).clamp(0, 1)
        depth = None
        if mode == "RGB+ED":
            depth = torch.where(alpha[0] > 0, drawn[0, ..., 3:4], drawn[0, ..., 3:4].detach().max())
        return rgb, alpha[0], depth, info

    def _empty(self, height: int, width: int, background: Tensor) -> Dict[str, Union[Tensor, list]]:
        outputs = self.get_empty_outputs(width, height, background)
        outputs["rgb_before"] = outputs["rgb"]
        outputs["error"] = torch.zeros_like(outputs["accumulation"])
        return outputs

    def step_post_backward(self, step: int) -> None:
        """Make, move and remove Gaussians as the strategy says; those of actors are not its own."""
        self.info = of_splat(self.info, len(self.means))
        if self.config.strategy == "default":
            super().step_post_backward(step)
            return
        self.strategy.step_post_backward(self.gauss_params, self.optimizers, self.strategy_state, step, self.info,
                                         lr=self.optimizers["means"].param_groups[0]["lr"])

    # Losses and metrics.

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> Dict[str, Tensor]:
        """Splatfacto's losses, with those of `splat.sparse` that the configuration asks for, each weighted."""
        losses = self._photometric(outputs, batch, metrics_dict)
        config = self.config
        weights = regularisation(config.opacity_reg, config.scale_reg, config.strategy == "mcmc")
        if any(weights):
            losses["gaussian_reg"] = gaussian_regulariser(self.opacities.sigmoid(), self.scales.exp(), EXTENT, *weights)
        if self.beside is not None:
            losses["beside"] = self.beside.penalty()
        if PRIOR_DEPTH in batch:
            drawn, alpha, prior = (image.permute(2, 0, 1) for image in
                                   (outputs["depth"], outputs["accumulation"], batch[PRIOR_DEPTH]))
            losses["depth_loss"] = config.depth_weight * depth_loss(drawn, alpha, prior, config.depth_prior, EXTENT)
        return losses

    def _photometric(self, outputs, batch, metrics_dict) -> Dict[str, Tensor]:
        if "pseudo_weight" not in batch:
            return super().get_loss_dict(outputs, batch, metrics_dict)
        # Where a refined frame is not trusted it is replaced by the render itself: no gradient from there, in the
        # photometric term and in SSIM's windows alike.
        weight = batch["pseudo_weight"]
        target = weight * self.get_gt_img(batch["image"]) + (1 - weight) * outputs["rgb"].detach()
        losses = super().get_loss_dict(outputs, {"image": target}, metrics_dict)
        losses["main_loss"] = losses["main_loss"] * self.config.pseudo_weight
        return losses

    def get_image_metrics_and_images(self, outputs, batch):
        """PSNR, SSIM and the perceptual metric at hand, under its own name (`lpips` or `st_lpips`)."""
        from chopgrad_ns.evaluate.metrics import evaluate_frames
        from chopgrad_ns.losses import perceptual

        truth = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        pair = (image.permute(2, 0, 1)[None] for image in (outputs["rgb"], truth))
        metrics = evaluate_frames(*pair, perceptual())
        return metrics, {"img": torch.cat([truth, outputs["rgb"]], dim=1)}


class _LazyPerceptual(torch.nn.Module):
    """Stands where Splatfacto keeps its LPIPS; `get_image_metrics_and_images` above measures by itself."""


def _viewmat(camera_to_world: Tensor) -> Tensor:
    """camera_from_world [1, 4, 4] in OpenCV axes from nerfstudio's c2w [1, 3, 4], differentiable (pose refinement)."""
    rotation = camera_to_world[:, :3, :3] * camera_to_world.new_tensor([1.0, -1.0, -1.0])
    inverse = rotation.transpose(1, 2)
    translation = -inverse @ camera_to_world[:, :3, 3:4]
    bottom = camera_to_world.new_tensor([[[0.0, 0.0, 0.0, 1.0]]]).expand(len(inverse), -1, -1)
    return torch.cat([torch.cat([inverse, translation], dim=2), bottom], dim=1)
