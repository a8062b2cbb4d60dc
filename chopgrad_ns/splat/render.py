"""A splat seen along a trajectory."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.rasterize import Backend, rasterize


@dataclass
class Rendered:
    """T frames: `rgb` [T, 3, H, W], `alpha` [T, 1, H, W] in 0…1; `depth` [T, 1, H, W], expected z, 0 if empty."""

    rgb: Float[Tensor, "t 3 h w"]
    alpha: Float[Tensor, "t 1 h w"]
    depth: Float[Tensor, "t 1 h w"]


@torch.no_grad()
def render(splat: Gaussians, cameras: Cameras, background: Float[Tensor, "3"] | None = None,
           backend: Backend = "auto", sh_degree: int | None = None) -> Rendered:
    """Draw every camera, on black unless told otherwise, with `sh_degree` at most; one by one, to save memory."""
    splat = splat.detach()
    scales, opacities = splat.log_scales.exp(), splat.opacity_logits.sigmoid()
    degree = splat.sh_degree if sh_degree is None else min(sh_degree, splat.sh_degree)
    backgrounds = None if background is None else background[None].to(splat.means)
    rgb, alphas, depth = [], [], []
    for index in range(len(cameras)):
        camera = cameras[index].to(splat.means)
        image, alpha, _ = rasterize(
            splat.means, splat.quats, scales, opacities, splat.sh, camera.camera_from_world, camera.K,
            cameras.width, cameras.height, sh_degree=degree, packed=False, render_mode="RGB+ED", backgrounds=backgrounds,
            backend=backend)
        rgb.append(image[0, ..., :3].clamp(0, 1).permute(2, 0, 1))
        alphas.append(alpha[0].permute(2, 0, 1))
        depth.append(image[0, ..., 3:].permute(2, 0, 1))
    return Rendered(torch.stack(rgb), torch.stack(alphas), torch.stack(depth))
