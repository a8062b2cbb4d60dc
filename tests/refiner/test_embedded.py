"""The embedded refiners as they are shipped: what they are for, on scenes that no training has seen."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.degradations import Degradation
from chopgrad_ns.data.masks import MaskSettings, draw_masks
from chopgrad_ns.data.pairs import fit_ensemble, sparse_plan, splat_pair
from chopgrad_ns.data.video_pairs import inpainting_pair, super_resolution_pair
from chopgrad_ns.evaluate.baselines import enlarged
from chopgrad_ns.evaluate.metrics import evaluate_frames, psnr
from chopgrad_ns.losses import perceptual
from chopgrad_ns.refiner import Refiner
from chopgrad_ns.sim.pairs import views_of
from chopgrad_ns.sim.sample import sample_clip
from chopgrad_ns.splat.fit import FitSettings

SEED = 9700
"""Of no world that was trained on, or chosen by."""


@pytest.fixture(scope="module")
def seen():
    """A room fitted to every 6th of its photos, seen by one splat and by three, and which frames were held out."""
    world = sample_clip("room", SEED, 24, 144, 96, 0.0)
    plan, views = sparse_plan(24, 6, FitSettings(steps=400)), views_of(world)
    splats = fit_ensemble(views, plan, 3)
    pairs = splat_pair(views, plan, splats[0]), splat_pair(views, plan, splats)
    return *pairs, [index for index in plan.shown if index not in plan.fitted]


def measured(frames: torch.Tensor, pair: Pair, held: list[int]) -> tuple[float, float, float]:
    """PSNR, SSIM and perceptual distance of held-out views."""
    return tuple(evaluate_frames(frames[held], pair.clean[held], perceptual()).values())


def test_renders_are_mended(seen):
    """Together with an ensemble as much as is asked of it on captures; and by itself too, of one splat and of three."""
    one, three, held = seen
    refiner = Refiner.from_pretrained("tiny")
    assert refiner.pretrained
    for pair in (one, three):
        raw, refined = (measured(frames, pair, held) for frames in (pair.degraded.frames, refiner(pair.degraded)))
        assert refined[0] > raw[0] + 0.07 and refined[1] > raw[1] + 1e-3 and refined[2] < 0.99 * raw[2]
    psnr, ssim, distance = measured(one.degraded.frames, one, held)
    assert refined[0] > psnr + 0.4 and refined[1] > ssim + 5e-3 and refined[2] < 0.95 * distance


def test_without_photos_little_is_changed(seen):
    """Alone, a render says little: what the refiner then does must not be worse than nothing."""
    pair, _, held = seen
    bare = replace(pair.degraded, references=None, reference_masks=None)
    refined = Refiner.from_pretrained("tiny")(bare)
    raw, found = (measured(frames, pair, held) for frames in (bare.frames, refined))
    assert found[0] > raw[0] - 0.1


def test_they_are_small_and_say_what_they_are():
    folder = Path(str(resources.files("chopgrad_ns.assets"))) / "tiny"
    weights = list(folder.glob("*/model.safetensors"))
    assert weights and sum(path.stat().st_size for path in weights) <= 12e6
    card = (folder / "README.md").read_text()
    for path in weights:
        assert path.parent.name in card


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
    """Nearer to the truth than bicubic interpolation, by squares and by how it looks; where frames are noisy and compressed too,
    by how they look.
    """
    refiner = shipped("super-resolution")
    assert refiner.config.task == "super-resolution"
    for kind, gain, share in (("bicubic", 0.05, 0.9), ("second-order", -0.05, 0.95)):
        pair, _ = super_resolution_pair(photos, "room", Degradation(kind), 0)
        refined, larger = refiner(pair.degraded, pair.size), enlarged(pair.degraded.frames, pair.size)
        assert quality(refined, pair) > quality(larger, pair) + gain
        assert perceptual()(refined, pair.clean).mean() < share * perceptual()(larger, pair.clean).mean()


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
