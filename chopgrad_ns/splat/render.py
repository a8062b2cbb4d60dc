"""A splat, or a scene of which splats are parts, seen along a trajectory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.ensemble import median, together
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.rasterize import Backend, rasterize
from chopgrad_ns.splat.rolling import as_shown


@dataclass
class Rendered:
    """T frames: `rgb` [T, 3, H, W], `alpha` [T, 1, H, W] in 0…1; `depth` [T, 1, H, W], expected z, 0 if empty."""

    rgb: Float[Tensor, "t 3 h w"]
    alpha: Float[Tensor, "t 1 h w"]
    depth: Float[Tensor, "t 1 h w"]


class Scene(Protocol):
    """What changes with time, or has something behind it; `Gaussians` are the plain case."""

    def at(self, camera: Cameras) -> Gaussians:
        """What there is at the time of one camera, in the world; where it moves and the camera has a rolling shutter, each
        Gaussian where the line that shows it sees it.
        """

    def behind(self, camera: Cameras) -> Float[Tensor, "3 h w"] | None:
        """What one camera sees where Gaussians leave it free, 0…1; None for nothing."""


@torch.no_grad()
def render_frames(splat: Scene, cameras: Cameras, background: Float[Tensor, "3"] | None = None,
                  backend: Backend = "auto", sh_degree: int | None = None) -> Iterator[Rendered]:
    """Draw one camera after the other, each a `Rendered` of one frame; none is kept.

    On what the scene has behind it, else on black unless told otherwise, with harmonics of `sh_degree` at most. `alpha` is
    that of the Gaussians.
    """
    for index in range(len(cameras)):
        now = splat.at(cameras[index]).detach()
        camera = cameras[index].to(now.means)
        behind = splat.behind(camera)
        degree = now.sh_degree if sh_degree is None else min(sh_degree, now.sh_degree)
        image, alpha, _ = rasterize(
            as_shown(now.means, camera), now.quats, now.log_scales.exp(), now.opacity_logits.sigmoid(), now.sh,
            camera.camera_from_world, camera.K, cameras.width, cameras.height, sh_degree=degree, packed=False, render_mode="RGB+ED",
            backgrounds=None if background is None else background[None].to(now.means), backend=backend)
        image, alpha = image.permute(0, 3, 1, 2), alpha.permute(0, 3, 1, 2)
        rgb = image[:, :3] if behind is None else image[:, :3] + (1 - alpha) * behind
        yield Rendered(rgb.clamp(0, 1), alpha, image[:, 3:])


def render(splat: Scene | Sequence[Scene], cameras: Cameras, background: Float[Tensor, "3"] | None = None,
           backend: Backend = "auto", sh_degree: int | None = None) -> Rendered:
    """All frames of `render_frames` in memory; of an ensemble, several splats of the same photos, what they show together.

    What single splats got wrong each in its own way, floaters for instance, most of the others do not show: `rgb` is
    `ensemble.together`, alpha and depth are the median, depth's over those that have any there.
    """
    if isinstance(splat, Sequence):
        seen = [render(member, cameras, background, backend, sh_degree) for member in splat]
        rgb, alpha, depth = (torch.stack([getattr(one, name) for one in seen]) for name in ("rgb", "alpha", "depth"))
        return Rendered(together(rgb), median(alpha), median(depth.masked_fill(depth <= 0, torch.inf)))
    whole = Rendered(*(torch.empty(0, channels, cameras.height, cameras.width) for channels in (3, 1, 1)))
    for index, frame in enumerate(render_frames(splat, cameras, background, backend, sh_degree)):
        if not index:
            whole = Rendered(*(value.new_empty(len(cameras), *value.shape[1:]) for value in
                               (frame.rgb, frame.alpha, frame.depth)))
        for kept, value in ((whole.rgb, frame.rgb), (whole.alpha, frame.alpha), (whole.depth, frame.depth)):
            kept[index] = value[0]
    return whole
