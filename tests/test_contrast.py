"""Detail that a refiner smoothed gets its contrast back."""

from dataclasses import replace

import torch

from chopgrad_ns.contrast import LARGEST_GAIN, contrast, raised
from chopgrad_ns.refiner import Refiner
from chopgrad_ns.refiner.windows import Windows
from chopgrad_ns.sim.flaws import soften
from tests.refiner.clips import task_pair

PICTURES = torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(0)) / 2 + 0.25


def test_what_was_smoothed_is_raised_and_nothing_lowered():
    soft = 0.3 * PICTURES + 0.7 * soften(PICTURES, 0.5)
    found, wanted = raised(soft, contrast(PICTURES)), contrast(PICTURES)
    assert (contrast(soft) < 0.9 * wanted).all()
    assert ((contrast(found) / wanted - 1).abs() < 0.1).all()
    assert (raised(PICTURES, contrast(soft)) - PICTURES).abs().max() < 1e-6
    flat = soften(PICTURES, 3.0)
    assert (raised(flat, wanted) - flat).abs().max() > 1e-2, "by half, and no more"
    assert (contrast(raised(flat, wanted)) <= 1.02 * LARGEST_GAIN**2 * contrast(flat)).all()


def test_a_refiner_that_keeps_contrast():
    """The last thing of all, of each frame, in windows too; and kept with the weights."""
    refiner = Refiner.from_pretrained("tiny")
    assert refiner.config.keep_contrast
    clip = task_pair("artifact-removal", frames=9, height=32, width=48).degraded
    noise = 0.05 * torch.randn(clip.frames.shape, generator=torch.Generator().manual_seed(0))
    clip = replace(clip, frames=(clip.frames + noise).clamp(0, 1))
    for windows in (Windows(), Windows(frames=5, overlap=1)):
        refiner.config.keep_contrast = True
        kept = refiner(clip, windows=windows)
        refiner.config.keep_contrast = False
        plain = refiner(clip, windows=windows)
        assert torch.allclose(kept, raised(plain, contrast(clip.frames)), atol=1e-6)
        assert (kept - plain).abs().max() > 1e-3
