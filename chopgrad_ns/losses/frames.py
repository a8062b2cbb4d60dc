"""Per-frame losses: `loss(prediction, target) -> [B, t]`, smaller is better.

Prediction [B, 3, t, H, W] and the first three channels of the target are in −1…1. A fourth channel of the target, where
there is one, is a weight in 0…1 for each pixel; a fully weighted picture gives the same value as one without weights.
(Two more are optical flow: see flow.py.)
Losses are expected to be of differences of pictures in 0…1, so errors are halved before anything else.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from pytorch_msssim import ms_ssim, ssim
from torch import Tensor

Frames = Float[Tensor, "b _ t h w"]
PerFrame = Float[Tensor, "b t"]
SSIM_WINDOW = 11
"""Pixels of SSIM's window; smaller pictures get the largest odd one that fits."""
MS_SSIM_SMALLEST = 16 * (SSIM_WINDOW - 1) + 1
"""Pictures with a shorter side are enlarged until it has this many pixels: the window must fit in the fifth scale."""


def error_of(prediction: Tensor, target: Tensor) -> Tensor:
    """Difference in units of pictures in 0…1."""
    return (prediction - target[:, :3]) / 2


def weighted_mean(error: Tensor, weight: Tensor | None) -> PerFrame:
    """Mean over channels and pixels, weighted [B, 1, t, H, W] where there are weights; 0 for a frame without any."""
    if weight is None:
        return error.mean(dim=(1, 3, 4))
    return (error * weight).mean(dim=1).sum(dim=(2, 3)) / weight.sum(dim=(1, 3, 4)).clamp_min(1.0)


def weight_of(target: Tensor) -> Tensor | None:
    return None if target.shape[1] == 3 else target[:, 3:4]


def l1(prediction: Frames, target: Frames) -> PerFrame:
    """Mean absolute error."""
    return weighted_mean(error_of(prediction, target).abs(), weight_of(target))


def mse(prediction: Frames, target: Frames) -> PerFrame:
    """Mean squared error."""
    return weighted_mean(error_of(prediction, target) ** 2, weight_of(target))


def charbonnier(prediction: Frames, target: Frames, epsilon: float = 1e-3) -> PerFrame:
    """Smooth L1: √(error² + ε²) − ε (Charbonnier et al. 1994)."""
    return weighted_mean((error_of(prediction, target) ** 2 + epsilon**2).sqrt() - epsilon, weight_of(target))


def robust_l1(prediction: Frames, target: Frames, threshold: float = 0.3) -> PerFrame:
    """L1 that leaves out pixels whose mean error exceeds `threshold`: people, cars, other exposures in the photo."""
    error = error_of(prediction, target).abs()
    plausible = (error.detach().mean(dim=1, keepdim=True) <= threshold).to(error)
    weight = weight_of(target)
    return weighted_mean(error, plausible if weight is None else plausible * weight)


def frame_difference(prediction: Frames, target: Frames) -> PerFrame:
    """L1 between changes from one frame to the next; 0 for the first frame. Looks one frame back.

    A pixel counts as much as its weight in both frames.
    """
    error = error_of(prediction, target)
    weight = weight_of(target)
    if weight is not None:
        weight = weight[:, :, 1:] * weight[:, :, :-1]
    values = weighted_mean((error[:, :, 1:] - error[:, :, :-1]).abs(), weight)
    return torch.cat([values.new_zeros(len(values), 1), values], dim=1)


frame_difference.context_frames = 1


def ssim_loss(prediction: Frames, target: Frames) -> PerFrame:
    """1 − SSIM (Wang et al. 2004; Gaussian window 11, σ 1.5). Pixels without weight are taken from the target."""
    return of_pictures(lambda x, y: 1 - structural_similarity(x, y), prediction, target)


def structural_similarity(prediction: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
    """SSIM of each pair of pictures in 0…1 (data range 1), over windows that lie wholly inside."""
    shortest = min(prediction.shape[-2:])
    window = min(SSIM_WINDOW, shortest - 1 + shortest % 2)
    return ssim(prediction, target, data_range=1.0, size_average=False, win_size=window)


def ms_ssim_loss(prediction: Frames, target: Frames) -> PerFrame:
    """1 − MS-SSIM (Wang et al. 2003; five scales). Pixels without weight are taken from the target.

    A channel of a frame whose structures are opposite to the target's at some scale has MS-SSIM 0, where the slope is
    infinite; it gets no gradient. So use this beside a loss that always has one.
    """
    return of_pictures(_ms_ssim_distance, prediction, target)


def _ms_ssim_distance(prediction: Tensor, target: Tensor) -> Tensor:
    if prediction.requires_grad:
        prediction = prediction.clone()
        prediction.register_hook(lambda gradient: gradient.nan_to_num(0.0, 0.0, 0.0))
    first, second = (enlarged(x, MS_SSIM_SMALLEST) for x in (prediction, target))
    return 1 - ms_ssim(first, second, data_range=1.0, size_average=False, win_size=SSIM_WINDOW)


def enlarged(pictures: Float[Tensor, "n 3 h w"], smallest: int) -> Float[Tensor, "n 3 h2 w2"]:
    """Pictures whose shorter side has at least `smallest` pixels; those that have it are left as they are."""
    sides = pictures.shape[-2:]
    if min(sides) >= smallest:
        return pictures
    size = [round(side * smallest / min(sides)) for side in sides]
    return torch.nn.functional.interpolate(pictures, size=size, mode="bilinear")


def of_pictures(distance: Callable[[Tensor, Tensor], Tensor], prediction: Frames, target: Frames) -> PerFrame:
    """A distance between pictures [n, 3, H, W] in 0…1 → [n] as a per-frame loss.

    It sees full precision, whatever autocast is doing: variances and distances of features cancel in half
    precision. Pixels are taken from the target as far as the weight leaves them out, and so are perfect there.
    """
    weight = weight_of(target)
    prediction, target = at_least_float32(prediction), at_least_float32(target[:, :3])
    if weight is not None:
        prediction = target + weight * (prediction - target)
    b, _, t, h, w = prediction.shape
    first, second = (x.transpose(1, 2).reshape(b * t, 3, h, w) / 2 + 0.5 for x in (prediction, target))
    with torch.autocast(first.device.type, enabled=False):
        return distance(first, second).reshape(b, t)


def at_least_float32(frames: Tensor) -> Tensor:
    """At least single precision."""
    return frames.to(torch.promote_types(frames.dtype, torch.float32))
