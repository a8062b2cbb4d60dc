"""PSNR, SSIM and a perceptual distance of frames in 0…1."""

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.losses.frames import structural_similarity
from chopgrad_ns.losses.perceptual import Perceptual, perceptual

Frames = Float[Tensor, "t 3 h w"]
CHUNK = 8
"""Frames measured at once: memory does not grow with a clip."""


def psnr(prediction: Frames, target: Frames) -> Float[Tensor, "t"]:
    """Peak signal-to-noise ratio of each frame in dB, peak 1; at most 120."""
    return -10 * ((prediction - target) ** 2).mean(dim=(1, 2, 3)).clamp_min(1e-12).log10()


def ssim(prediction: Frames, target: Frames) -> Float[Tensor, "t"]:
    """Structural similarity of each frame (Wang et al. 2004; Gaussian window 11, σ 1.5, data range 1).

    The mean over windows wholly inside the frame, as nerfstudio's Splatfacto reports it. torchmetrics' mean takes
    in windows over reflected borders too, which makes hundredths of difference on small frames.
    """
    return structural_similarity(prediction, target)


def perceptual_metric() -> Perceptual:
    """The perceptual distance of this machine; its `name` says which."""
    return perceptual()


@torch.no_grad()
def evaluate_frames(prediction: Frames, target: Frames, metric: Perceptual) -> dict[str, float]:
    """Means over frames: `psnr`, `ssim` and the perceptual distance under its own name.

    Raises:
        ValueError: if the two are not of one shape, or hold no frames.
    """
    if prediction.shape != target.shape or prediction.ndim != 4 or not len(prediction):
        raise ValueError(f"predicted frames have shape {tuple(prediction.shape)}, true ones {tuple(target.shape)}; both "
                         "must be the same [T, 3, H, W] with at least one frame")
    values: dict[str, list[Tensor]] = {}
    for shown, true in zip(prediction.clamp(0, 1).split(CHUNK), target.split(CHUNK)):
        for name, measure in (("psnr", psnr), ("ssim", ssim), (metric.name, metric)):
            values.setdefault(name, []).append(measure(shown, true))
    return {name: round(float(torch.cat(parts).mean()), 5) for name, parts in values.items()}
