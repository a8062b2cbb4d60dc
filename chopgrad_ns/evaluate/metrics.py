"""PSNR, SSIM and a perceptual distance of frames in 0…1."""

import torch
from jaxtyping import Float
from pytorch_msssim import ssim as _ssim
from torch import Tensor

from chopgrad_ns.losses.perceptual import Perceptual, perceptual

Frames = Float[Tensor, "t 3 h w"]
CHUNK = 8
"""Frames that go through the perceptual network at once: memory does not grow with a clip."""


def psnr(prediction: Frames, target: Frames) -> Float[Tensor, "t"]:
    """Peak signal-to-noise ratio of each frame in dB, peak 1."""
    return -10 * ((prediction - target) ** 2).mean(dim=(1, 2, 3)).clamp_min(1e-12).log10()


def ssim(prediction: Frames, target: Frames) -> Float[Tensor, "t"]:
    """Structural similarity of each frame (Wang et al. 2004; Gaussian window 11, σ 1.5, data range 1)."""
    return _ssim(prediction, target, data_range=1.0, size_average=False)


def perceptual_metric() -> Perceptual:
    """The perceptual distance of this machine; its `name` says which."""
    return perceptual()


@torch.no_grad()
def evaluate_frames(prediction: Frames, target: Frames, metric: Perceptual) -> dict[str, float]:
    """Means over frames: `psnr`, `ssim` and the perceptual distance under its own name."""
    prediction = prediction.clamp(0, 1)
    distances = [metric(p, t) for p, t in zip(prediction.split(CHUNK), target.split(CHUNK))]
    values = {"psnr": psnr(prediction, target), "ssim": ssim(prediction, target), metric.name: torch.cat(distances)}
    return {name: round(float(value.mean()), 5) for name, value in values.items()}
