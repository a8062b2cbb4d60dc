"""Metrics of single frames in 0…1, of whole pictures and inside masks: a value a frame.

With a mask, PSNR and SSIM count the mask's pixels only; networks, which need whole pictures, see the prediction
inside the mask and the truth outside. A frame whose mask is empty has no value: it gets NaN.
"""

import math
from collections.abc import Callable
from typing import Optional

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from chopgrad_ns.losses.frames import SSIM_WINDOW, structural_similarity
from chopgrad_ns.losses.perceptual import Perceptual, lpips, st_lpips
from chopgrad_ns.losses.textures import dists

Frames = Float[Tensor, "t 3 h w"]
Mask = Bool[Tensor, "t 1 h w"]
Values = Float[Tensor, "t"]
Measure = Callable[[Frames, Frames, Optional[Mask]], Values]
CHUNK = 8
"""Frames measured at once: memory does not grow with a clip."""
MEANS_OVER_PICTURE = ("lpips", "st_lpips")
HIGHEST_PSNR = 120.0
"""Of pictures that are the same, in dB."""


def psnr(prediction: Frames, target: Frames, mask: Mask | None = None) -> Values:
    """Peak signal-to-noise ratio of each frame in dB, peak 1; at most 120. With a mask, of the mask's pixels."""
    error = ((prediction - target) ** 2).mean(dim=1, keepdim=True)
    return -10 * mean_over(error, mask).clamp_min(10 ** (-HIGHEST_PSNR / 10)).log10()


def ssim(prediction: Frames, target: Frames, mask: Mask | None = None) -> Values:
    """Structural similarity of each frame (Wang et al. 2004; Gaussian window 11, σ 1.5, data range 1).

    The mean over windows wholly inside the frame, as nerfstudio's Splatfacto reports it. torchmetrics' mean takes
    in windows over reflected borders too, which makes hundredths of difference on small frames.
    With a mask, the mean over those of these windows whose middle is a mask pixel. A window near the mask's edge sees
    what lies outside, and mask pixels within 5 of the frame's border have no window; frames that have none at all, or
    a side under 11, get NaN.
    """
    if mask is None:
        return structural_similarity(prediction, target)
    margin = SSIM_WINDOW // 2
    if min(prediction.shape[-2:]) < SSIM_WINDOW:
        return prediction.new_full((len(prediction),), math.nan)
    _, everywhere = structural_similarity_index_measure(prediction, target, data_range=1.0, return_full_image=True)
    windows = (..., slice(margin, -margin), slice(margin, -margin))
    return mean_over(everywhere.mean(dim=1, keepdim=True)[windows], mask[windows])


def mean_over(values: Float[Tensor, "t 1 h w"], mask: Mask | None) -> Values:
    """Mean of each frame's values, of the mask's pixels where there is one; NaN where it is empty."""
    if mask is None:
        return values.mean(dim=(1, 2, 3))
    return values.masked_fill(~mask, 0.0).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))


def composite(prediction: Frames, target: Frames, mask: Mask | None) -> Frames:
    """The prediction inside the mask, the truth outside."""
    return prediction if mask is None else torch.where(mask, prediction, target)


def of_network(distance: Perceptual) -> Measure:
    """A network's distance as a measure that knows masks: of `composite` to the truth.

    LPIPS and ST-LPIPS are means over the picture, to which what agrees outside adds nothing: they are divided by the
    mask's share of it, and so of one size with those of whole pictures. DISTS compares statistics of the whole
    picture, which cannot be told apart like that: inside a small mask it is small.
    """

    def measure(prediction: Frames, target: Frames, mask: Mask | None = None) -> Values:
        values = distance(composite(prediction, target, mask), target)
        if mask is None:
            return values
        share = mask.float().mean(dim=(1, 2, 3))
        values = values / share.clamp_min(1e-9) if distance.name in MEANS_OVER_PICTURE else values
        return values.masked_fill(share == 0, math.nan)

    return measure


FRAME_METRICS: dict[str, Callable[[], Measure]] = {
    "psnr": lambda: psnr, "ssim": lambda: ssim, "lpips": lambda: of_network(lpips()),
    "st_lpips": lambda: of_network(st_lpips()), "dists": lambda: of_network(dists()),
}
"""By name, what gets the measure ready. Those with weights raise UserError where these are not to be had."""


def measured(measure: Measure, prediction: Frames, target: Frames, mask: Mask | None = None) -> Values:
    """A measure of all frames of a clip, a few at once."""
    masks = [None] * math.ceil(len(target) / CHUNK) if mask is None else mask.split(CHUNK)
    return torch.cat([measure(*some) for some in zip(prediction.split(CHUNK), target.split(CHUNK), masks)])


@torch.no_grad()
def evaluate_frames(prediction: Frames, target: Frames, metric: Perceptual) -> dict[str, float]:
    """Means over frames: `psnr`, `ssim` and the perceptual distance under its own name.

    Raises:
        ValueError: if the two are not of one shape, or hold no frames.
    """
    check_frames(prediction, target)
    measures = {"psnr": psnr, "ssim": ssim, metric.name: of_network(metric)}
    shown = prediction.clamp(0, 1)
    return {name: round(float(measured(measure, shown, target).mean()), 5) for name, measure in measures.items()}


def check_frames(prediction: Frames, target: Frames) -> None:
    """Raise ValueError unless both are the same [T, 3, H, W] with at least one frame, and all values are finite.

    What is not finite would be taken for frames that have nothing of a region, and be left out of means.
    """
    if prediction.shape != target.shape or prediction.ndim != 4 or prediction.shape[1] != 3 or not len(prediction):
        raise ValueError(f"predicted frames have shape {tuple(prediction.shape)}, true ones {tuple(target.shape)}; "
                         "both must be the same [T, 3, H, W] with at least one frame")
    for what, frames in (("predicted", prediction), ("true", target)):
        wrong = (~torch.isfinite(frames).flatten(1).all(dim=1)).nonzero().flatten().tolist()
        if wrong:
            raise ValueError(f"{what} frame {wrong[0]} has values that are not finite")
