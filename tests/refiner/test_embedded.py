"""The embedded refiners as they are shipped: what they are for, on scenes that no training has seen."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from chopgrad_ns.data.pairs import fit_plan, sparse_plan, splat_pair
from chopgrad_ns.data.references import blend_baseline
from chopgrad_ns.evaluate.metrics import evaluate_frames
from chopgrad_ns.losses import perceptual
from chopgrad_ns.refiner import Refiner
from chopgrad_ns.sim.pairs import views_of
from chopgrad_ns.sim.sample import sample_clip
from chopgrad_ns.splat.fit import FitSettings

SEED = 9700
"""Of no world that was trained on, or chosen by."""


@pytest.fixture(scope="module")
def seen():
    """A room fitted to every 6th of its photos, and which frames were held out."""
    world = sample_clip("room", SEED, 24, 144, 96, 0.0)
    plan = sparse_plan(24, 6, FitSettings(steps=400))
    views = views_of(world)
    pair = splat_pair(views, plan, fit_plan(views, plan))
    return pair, [index for index in plan.shown if index not in plan.fitted]


def test_renders_are_mended_on_every_measure(seen):
    pair, held = seen
    refiner = Refiner.from_pretrained("tiny")
    assert refiner.pretrained
    metric = perceptual()
    raw, blend, refined = (evaluate_frames(frames[held], pair.clean[held], metric) for frames in
                           (pair.degraded.frames, blend_baseline(pair.degraded), refiner(pair.degraded)))
    assert refined["psnr"] > max(raw["psnr"], blend["psnr"]) + 0.15
    assert refined["ssim"] > max(raw["ssim"], blend["ssim"])
    assert refined[metric.name] < 0.95 * min(raw[metric.name], blend[metric.name])


def test_without_photos_little_is_changed(seen):
    """Alone, a render says little: what the refiner then does must not be worse than nothing."""
    pair, held = seen
    bare = replace(pair.degraded, references=None, reference_masks=None)
    refined = Refiner.from_pretrained("tiny")(bare)
    raw, found = (evaluate_frames(frames[held], pair.clean[held], perceptual()) for frames in (bare.frames, refined))
    assert found["psnr"] > raw["psnr"] - 0.1


def test_they_are_small_and_say_what_they_are():
    folder = Path(str(resources.files("chopgrad_ns.assets"))) / "tiny"
    weights = list(folder.glob("*/model.safetensors"))
    assert weights and sum(path.stat().st_size for path in weights) <= 12e6
    card = (folder / "README.md").read_text()
    for path in weights:
        assert path.parent.name in card
