"""LPIPS where its weights can be had, ST-LPIPS where not; whichever it is says its name."""

import functools
import socket
import sys
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

VGG_FILE = "vgg16-397923af.pth"
"""torchvision's ImageNet weights of VGG16, which LPIPS builds on (about 530 MB)."""
SMALLEST = 64
"""Pictures with a shorter side are enlarged to this: the networks' last layers would vanish."""


class Perceptual(torch.nn.Module):
    """A frozen perceptual distance. `name` is "lpips" (Zhang et al. 2018, VGG) or "st_lpips" (Ghildyal & Liu 2022, AlexNet)."""

    def __init__(self, network: torch.nn.Module, name: str):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.name = name

    def forward(self, prediction: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        """Distance of each pair of pictures in 0…1; differentiable."""
        pictures = [prediction, target]
        shortest = min(prediction.shape[-2:])
        if shortest < SMALLEST:
            pictures = [torch.nn.functional.interpolate(x, scale_factor=SMALLEST / shortest, mode="bilinear") for x in pictures]
        return self.network(*pictures, normalize=True).flatten()


@functools.lru_cache(maxsize=None)
def perceptual() -> Perceptual:
    """The perceptual distance of this machine; says once if it is not LPIPS, and how to get that."""
    weights = Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    if weights.exists() or _online("download.pytorch.org"):
        import lpips

        return Perceptual(lpips.LPIPS(net="vgg", verbose=False), "lpips")
    print(f"LPIPS needs {VGG_FILE} (torchvision), which is neither in {weights.parent} nor to be downloaded now; measuring "
          "ST-LPIPS (st_lpips) instead. Put the file there to measure LPIPS.", file=sys.stderr)
    from stlpips_pytorch import stlpips

    return Perceptual(stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False), "st_lpips")


def _online(host: str, seconds: float = 3.0) -> bool:
    try:
        socket.create_connection((host, 443), timeout=seconds).close()
        return True
    except OSError:
        return False


def perceptual_loss(prediction: Float[Tensor, "b 3 t h w"], target: Float[Tensor, "b _ t h w"]) -> Float[Tensor, "b t"]:
    """The same distance as a per-frame loss on frames in −1…1; pixels without weight are taken from the target."""
    shown = prediction
    if target.shape[1] == 4:
        weight = target[:, 3:4]
        shown = weight * prediction + (1 - weight) * target[:, :3]
    b, _, t, h, w = prediction.shape
    flat = lambda x: x[:, :3].transpose(1, 2).reshape(b * t, 3, h, w) / 2 + 0.5  # noqa: E731
    return perceptual()(flat(shown).clamp(0, 1), flat(target).clamp(0, 1)).reshape(b, t)
