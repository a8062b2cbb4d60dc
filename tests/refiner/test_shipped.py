"""The weights that come with the package: they load, and do better than what needs no learning on a clip made here."""

import pytest
import torch

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.degradations import Degradation
from chopgrad_ns.data.masks import MaskSettings, draw_masks
from chopgrad_ns.data.video_pairs import inpainting_pair, super_resolution_pair
from chopgrad_ns.evaluate.baselines import enlarged
from chopgrad_ns.evaluate.metrics import psnr
from chopgrad_ns.refiner import Refiner
from chopgrad_ns.sim.sample import sample_clip


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Five frames of a room that nobody has seen."""
    return sample_clip("room", 31, 20, 128, 96, exposure_change=0.0).frames[:5]


def shipped(task: str) -> Refiner:
    refiner = Refiner.from_pretrained("tiny", task=task)
    if not refiner.pretrained:
        pytest.skip(f"no weights are shipped for {task} yet")
    return refiner


def quality(frames: torch.Tensor, pair: Pair) -> float:
    """PSNR, of holes and of what was inserted only there."""
    mask = None if pair.degraded.mask is None else pair.degraded.mask > 0.5
    return float(psnr(frames, pair.clean, mask).mean())


def test_super_resolution(photos):
    refiner = shipped("super-resolution")
    assert refiner.config.task == "super-resolution"
    for kind in ("bicubic", "second-order"):
        pair, _ = super_resolution_pair(photos, "room", Degradation(kind), 0)
        refined = refiner(pair.degraded, pair.size)
        assert quality(refined, pair) > quality(enlarged(pair.degraded.frames, pair.size), pair)


def test_inpainting(photos):
    refiner = shipped("inpainting")
    masks, _ = draw_masks(MaskSettings("brush"), *photos[:, 0].shape, 0)
    pair = inpainting_pair(photos, "room", masks)
    assert quality(refiner(pair.degraded), pair) > quality(refiner.task.prepare(pair.degraded).frames, pair)


def test_driving(photos):
    """A patch of the picture in a light of its own goes toward what is around it."""
    refiner = shipped("driving")
    mask = torch.zeros_like(photos[:, :1])
    mask[:, :, 40:72, 48:88] = 1
    bright = torch.where(mask > 0, (1.25 * photos).clamp(0, 1), photos)
    refined = refiner(Clip(bright, mask=mask))
    assert refined.shape == photos.shape and (refined - bright).abs().max() > 1e-2
