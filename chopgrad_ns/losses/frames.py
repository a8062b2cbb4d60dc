"""Per-frame losses: `loss(prediction, target) -> [B, t]`, smaller is better.

Prediction [B, 3, t, H, W] and the first three channels of the target are in −1…1. A fourth channel of the target, where
there is one, is a weight in 0…1 for each pixel; a fully weighted picture gives the same value as one without weights.
Frames are expected to be differences of pictures in 0…1, so errors are halved before anything else.
"""

import torch
from jaxtyping import Float
from pytorch_msssim import ssim
from torch import Tensor

Frames = Float[Tensor, "b _ t h w"]
PerFrame = Float[Tensor, "b t"]


def _error(prediction: Tensor, target: Tensor) -> Tensor:
    """Difference in units of pictures in 0…1."""
    return (prediction - target[:, :3]) / 2


def _mean(error: Tensor, target: Tensor) -> PerFrame:
    """Mean over channels and pixels, weighted where the target says so; 0 for a frame without weight."""
    if target.shape[1] == 3:
        return error.mean(dim=(1, 3, 4))
    weight = target[:, 3:4]
    return (error * weight).mean(dim=1).sum(dim=(2, 3)) / weight.sum(dim=(1, 3, 4)).clamp_min(1.0)


def l1(prediction: Frames, target: Frames) -> PerFrame:
    """Mean absolute error."""
    return _mean(_error(prediction, target).abs(), target)


def mse(prediction: Frames, target: Frames) -> PerFrame:
    """Mean squared error."""
    return _mean(_error(prediction, target) ** 2, target)


def charbonnier(prediction: Frames, target: Frames, epsilon: float = 1e-3) -> PerFrame:
    """Smooth L1: √(error² + ε²) − ε."""
    return _mean((_error(prediction, target) ** 2 + epsilon**2).sqrt() - epsilon, target)


def robust_l1(prediction: Frames, target: Frames, threshold: float = 0.3) -> PerFrame:
    """L1 that leaves out pixels whose mean error exceeds `threshold`: people, cars, other exposures in the photo."""
    error = _error(prediction, target).abs()
    plausible = (error.detach().mean(dim=1, keepdim=True) <= threshold).to(error)
    weight = plausible if target.shape[1] == 3 else plausible * target[:, 3:4]
    return _mean(error, torch.cat([target[:, :3], weight], dim=1))


def ssim_loss(prediction: Frames, target: Frames) -> PerFrame:
    """1 − SSIM (Gaussian window 11, σ 1.5). Pixels without weight are taken from the target, and so are perfect."""
    shown = prediction
    if target.shape[1] == 4:
        weight = target[:, 3:4]
        shown = weight * prediction + (1 - weight) * target[:, :3]
    b, _, t, h, w = prediction.shape
    window = 11 if min(h, w) >= 11 else min(h, w) - 1 + min(h, w) % 2
    flat = lambda x: x[:, :3].transpose(1, 2).reshape(b * t, 3, h, w) / 2 + 0.5  # noqa: E731
    return (1 - ssim(flat(shown), flat(target), data_range=1.0, size_average=False, win_size=window)).reshape(b, t)


def frame_difference(prediction: Frames, target: Frames) -> PerFrame:
    """L1 between changes from one frame to the next; 0 for the first frame. Looks one frame back."""
    change = lambda x: x[:, :, 1:] - x[:, :, :-1]  # noqa: E731
    error = (change(prediction) - change(target[:, :3])).abs() / 2
    values = error.mean(dim=(1, 3, 4))
    return torch.cat([torch.zeros_like(values[:, :1]), values], dim=1)


frame_difference.context_frames = 1
