"""Metrics against torchmetrics on the same frames."""

import json
import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from chopgrad_ns.evaluate.metrics import evaluate_frames, psnr, ssim
from chopgrad_ns.losses import perceptual


def frames(count: int = 3, height: int = 40, width: int = 56, noise: float = 0.1):
    generator = torch.Generator().manual_seed(1)
    steps = torch.arange(1, count + 1).view(-1, 1, 1, 1)
    x = torch.linspace(0, 6, width) + torch.linspace(0, 4, height)[:, None] * steps
    target = (torch.sin(x) * 0.4 + 0.5).expand(count, 3, height, width)
    return (target + noise * torch.randn(target.shape, generator=generator)).clamp(0, 1), target.contiguous()


def test_psnr():
    prediction, target = frames()
    for value, shown, true in zip(psnr(prediction, target), prediction, target):
        assert value == pytest.approx(float(peak_signal_noise_ratio(shown, true, data_range=1.0)), abs=1e-4)
    assert psnr(target, target).tolist() == pytest.approx([120.0] * 3)


@pytest.mark.parametrize("size", [(40, 56), (11, 30), (33, 12)])
def test_ssim(size):
    prediction, target = frames(3, *size)
    _, everywhere = structural_similarity_index_measure(prediction, target, data_range=1.0, return_full_image=True)
    inside = everywhere[..., 5:-5, 5:-5]  # torchmetrics reflects the pictures at their borders as well
    assert ssim(prediction, target).tolist() == pytest.approx(inside.mean(dim=(1, 2, 3)).tolist(), abs=1e-5)
    assert ssim(target, target).tolist() == pytest.approx([1.0] * 3)


def test_ssim_of_pictures_smaller_than_its_window():
    prediction, target = frames(2, 8, 9)
    assert (ssim(prediction, target) < 0.999).all() and ssim(target, target).tolist() == pytest.approx([1.0] * 2)


def test_evaluate_frames_means_over_all_frames():
    metric = perceptual()
    prediction, target = frames(11)  # more than go through at once
    values = evaluate_frames(prediction, target, metric)
    assert set(values) == {"psnr", "ssim", metric.name} and metric.name in ("lpips", "st_lpips")
    assert values["psnr"] == pytest.approx(float(psnr(prediction, target).mean()), abs=1e-4)
    assert values["ssim"] == pytest.approx(float(ssim(prediction, target).mean()), abs=1e-4)
    assert values[metric.name] == pytest.approx(float(metric(prediction, target).mean()), abs=1e-4)
    same = evaluate_frames(target, target, metric)
    assert same == {"psnr": 120.0, "ssim": 1.0, metric.name: 0.0}
    assert all(math.isfinite(value) for value in json.loads(json.dumps(same)).values())


def test_predictions_are_clamped_and_better_ones_score_better():
    metric = perceptual()
    noisy, target = frames(2, noise=0.2)
    better, _ = frames(2, noise=0.05)
    worse, good = evaluate_frames(noisy, target, metric), evaluate_frames(better, target, metric)
    assert good["psnr"] > worse["psnr"] and good["ssim"] > worse["ssim"] and good[metric.name] < worse[metric.name]
    white = torch.ones(1, 3, 16, 16)
    assert evaluate_frames(white + 3, white, metric)["psnr"] == 120.0


@pytest.mark.parametrize("shapes", [((2, 3, 16, 16), (2, 3, 16, 20)), ((2, 3, 16, 16), (3, 3, 16, 16)),
                                    ((0, 3, 16, 16), (0, 3, 16, 16)), ((3, 16, 16), (3, 16, 16))])
def test_frames_that_cannot_be_compared(shapes):
    with pytest.raises(ValueError, match=r"predicted frames have shape .* the same \[T, 3, H, W\]"):
        evaluate_frames(*(torch.zeros(shape) for shape in shapes), perceptual())


def test_frames_that_are_not_finite_are_refused_by_number():
    """They would be taken for frames that have nothing of a region."""
    frames = torch.rand(3, 3, 16, 16)
    broken = frames.clone()
    broken[2, 0, 0, 0] = torch.nan
    for pair, message in (((broken, frames), "predicted frame 2"), ((frames, broken), "true frame 2")):
        with pytest.raises(ValueError, match=message):
            evaluate_frames(*pair, perceptual())
