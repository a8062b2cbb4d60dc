"""A splat seen along a trajectory."""

from collections.abc import Iterator
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
def render_frames(splat: Gaussians, cameras: Cameras, background: Float[Tensor, "3"] | None = None,
                  backend: Backend = "auto", sh_degree: int | None = None) -> Iterator[Rendered]:
    """Draw one camera after the other, each a `Rendered` of one frame; none is kept.

    On black unless told otherwise, with harmonics of `sh_degree` at most.
    """
    splat = splat.detach()
    scales, opacities = splat.log_scales.exp(), splat.opacity_logits.sigmoid()
    degree = splat.sh_degree if sh_degree is None else min(sh_degree, splat.sh_degree)
    backgrounds = None if background is None else background[None].to(splat.means)
    for index in range(len(cameras)):
        camera = cameras[index].to(splat.means)
        image, alpha, _ = rasterize(
            splat.means, splat.quats, scales, opacities, splat.sh, camera.camera_from_world, camera.K,
            cameras.width, cameras.height, sh_degree=degree, packed=False, render_mode="RGB+ED",
            backgrounds=backgrounds, backend=backend)
        image = image.permute(0, 3, 1, 2)
        yield Rendered(image[:, :3].clamp(0, 1), alpha.permute(0, 3, 1, 2), image[:, 3:])


def render(splat: Gaussians, cameras: Cameras, background: Float[Tensor, "3"] | None = None,
           backend: Backend = "auto", sh_degree: int | None = None) -> Rendered:
    """All frames of `render_frames` in memory."""
    size = cameras.height, cameras.width
    whole = Rendered(*(splat.means.new_empty(len(cameras), channels, *size) for channels in (3, 1, 1)))
    for index, frame in enumerate(render_frames(splat, cameras, background, backend, sh_degree)):
        for kept, value in ((whole.rgb, frame.rgb), (whole.alpha, frame.alpha), (whole.depth, frame.depth)):
            kept[index] = value[0]
    return whole
