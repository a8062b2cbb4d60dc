"""What each application makes of clips and pairs."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.data.degradations import Degradation, degrade
from chopgrad_ns.data.fill import filled
from chopgrad_ns.data.stored import StoredPair, save_pair
from chopgrad_ns.data.video_pairs import inpainting_pair
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner import FinetuneSettings, Refiner
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.tasks import TASKS, task_named
from tests.refiner.clips import pair, stir, task_pair


@pytest.mark.parametrize("name", ["artifact-removal", "super-resolution", "driving", "inpainting"])
def test_each_pair_is_for_one_task(name, tmp_path):
    """Told from what is in memory and from what is on disk alike."""
    example = task_pair(name)
    save_pair(example, tmp_path / "pair")
    for one in (example, StoredPair(tmp_path / "pair")):
        assert [task.name for task in TASKS.values() if task.fits(one)] == [name]


@pytest.mark.parametrize("name", ["artifact-removal", "super-resolution", "driving", "inpainting"])
def test_an_untrained_refiner_gives_back_the_prepared_clip(name):
    example = task_pair(name)
    refiner = Refiner(RefinerConfig(task=name))
    prepared = refiner.task.prepare(example.degraded, example.size)
    assert prepared.frames.shape == example.clean.shape
    assert refiner.task.extra(prepared).shape == (len(prepared), refiner.task.extra_channels, *example.size)
    bare = replace(example.degraded, references=None, reference_masks=None)  # photos are blended in from the start
    torch.testing.assert_close(refiner(bare, example.size), prepared.frames, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["driving", "inpainting"])
def test_the_mask_matters_after_training(name):
    example = task_pair(name)
    refiner = Refiner(RefinerConfig(task=name))
    stir(refiner.model)
    other = replace(example.degraded, mask=example.degraded.mask.flip(-1))
    assert (refiner(other) - refiner(example.degraded)).abs().max() > 1e-3


def test_no_task_of_that_name_and_no_mask_are_refused():
    with pytest.raises(UserError, match="no task 'dancing'"):
        task_named("dancing")
    with pytest.raises(UserError, match="has no mask"):
        Refiner(RefinerConfig(task="inpainting"))(pair().degraded)
    with pytest.raises(UserError, match="give a scale of 1 or more"):
        Refiner(RefinerConfig(task="super-resolution"))(pair().degraded, (16, 64))


# Artifact removal

def test_depth_has_no_unit():
    clip = pair().degraded
    task = task_named("artifact-removal")
    once, twice = (task.extra(task.prepare(replace(clip, depth=clip.depth * scale))) for scale in (1.0, 7.0))
    torch.testing.assert_close(once, twice)
    torch.testing.assert_close(once[:, 1], torch.full_like(once[:, 1], 0.5), msg="what is at the median depth")
    one_far = replace(clip, depth=torch.where(torch.arange(32) < 8, 3 * clip.depth, clip.depth))
    torch.testing.assert_close(task.extra(task.prepare(one_far))[:, 1, :, :8], torch.full((9, 32, 8), 0.25))
    empty = replace(clip, depth=torch.zeros_like(clip.depth))
    assert not task.extra(task.prepare(empty))[:, 1].any()


def test_photos_are_taken_as_the_frames_are_exposed():
    clip = pair().degraded
    task = task_named("artifact-removal")
    usual, bright = (task.prepare(replace(clip, references=clip.references * gain)).references for gain in (1.0, 1.3))
    seen = clip.reference_masks.expand_as(usual) > 0
    assert (bright - usual)[seen].abs().mean() < 0.2 * (0.3 * clip.references)[seen].abs().mean()


def test_how_photos_are_exposed_is_not_learnt():
    """The target of a photo that is brighter than the render is the photo as the render is exposed, if asked for."""
    example = pair()
    example.degraded.frames[:] = example.clean
    bright = replace(example, clean=(example.clean * 1.25).clamp(0, 1))
    task, settings = task_named("artifact-removal"), FinetuneSettings()
    learnt = task.target(bright, settings)
    assert (learnt - example.clean).abs().mean() < 0.2 * (bright.clean - example.clean).abs().mean()
    assert torch.equal(task.target(bright, replace(settings, match_exposure=False)), bright.clean)


def test_what_a_splat_does_not_show_is_not_learnt():
    example = pair(frames=2)
    example.degraded.alpha[:, :, :5] = 0.4
    example.valid = torch.ones(2, 1, 32, 32)
    example.valid[0] = 0
    weight = task_named("artifact-removal").weight(example, FinetuneSettings())
    assert not weight[0].any() and not weight[1, :, :5].any() and weight[1, :, 5:].all()


# Super-resolution

@pytest.mark.parametrize("size", [(32, 48), (37, 51), (16, 24)])
def test_clips_are_enlarged_to_any_size(size):
    low = Clip(torch.rand(3, 3, 16, 24))
    prepared = task_named("super-resolution").prepare(low, size)
    torch.testing.assert_close(prepared.frames, F.interpolate(low.frames, size, mode="bilinear"))


def test_degradations_are_drawn_anew():
    task, example = task_named("super-resolution"), task_pair("super-resolution")
    settings = FinetuneSettings(degradation="second-order", scale=2.5)
    first, second, again = (task.redraw(example, random.Random(seed), settings) for seed in (1, 2, 1))
    assert torch.equal(first.clean, example.clean)
    assert first.degraded.frames.shape[-2:] == (round(32 / 2.5), round(32 / 2.5))
    assert torch.equal(first.degraded.frames, again.degraded.frames)
    assert not torch.equal(first.degraded.frames, second.degraded.frames)
    plain = task.redraw(example, random.Random(1), replace(settings, degradation="bicubic"))
    assert torch.equal(plain.degraded.frames, degrade(example.clean, Degradation("bicubic", 2.5), 0)[0])


# Inpainting

def test_what_the_mask_does_not_cover_is_unchanged_to_the_bit():
    example = task_pair("inpainting")
    refiner = Refiner(RefinerConfig(task="inpainting"))
    stir(refiner.model)
    refined = refiner(example.degraded)
    kept = (example.degraded.mask == 0).expand_as(refined)
    assert torch.equal(refined[kept], example.degraded.frames[kept])
    assert (refined[~kept] - example.degraded.frames[~kept]).abs().mean() > 1e-3


@pytest.mark.parametrize("value", [-0.5, 255.0])
def test_masks_of_other_ranges_are_refused(value):
    mask = torch.zeros(5, 1, 32, 32)
    mask[2, 0, 3, 4] = value
    with pytest.raises(UserError, match=f"has values from {min(value, 0):g} to {max(value, 0):g}; give 0"):
        Refiner(RefinerConfig(task="inpainting"))(Clip(torch.rand(5, 3, 32, 32), mask=mask))


def test_nothing_shines_through_a_mask():
    """The same is made of two clips that differ below the mask alone, and of soft masks a part is kept."""
    mask = torch.zeros(5, 1, 32, 32)
    mask[:, :, 8:24, 8:24] = 1
    one, other = torch.rand(5, 3, 32, 32), torch.rand(5, 3, 32, 32)
    other = torch.where(mask > 0, other, one)
    refiner = Refiner(RefinerConfig(task="inpainting"))
    stir(refiner.model)
    assert torch.equal(refiner(Clip(one, mask=mask)), refiner(Clip(other, mask=mask)))
    hard, soft = (task_named("inpainting").prepare(Clip(one, mask=share * mask)).frames for share in (1, 0.5))
    torch.testing.assert_close(soft, 0.5 * hard + 0.5 * one)
    torch.testing.assert_close(hard, filled(one, mask))


def test_holes_are_drawn_anew_or_kept():
    task, example = task_named("inpainting"), task_pair("inpainting")
    settings, kept = FinetuneSettings(), 0
    for seed in range(12):
        drawn = task.redraw(example, random.Random(seed), settings)
        again = task.redraw(example, random.Random(seed), settings)
        assert torch.equal(drawn.degraded.mask, again.degraded.mask) and torch.equal(drawn.clean, example.clean)
        expected = inpainting_pair(drawn.clean, "", drawn.degraded.mask).degraded.frames
        assert torch.equal(drawn.degraded.frames, expected)
        kept += torch.equal(drawn.degraded.mask, example.degraded.mask)
    assert 2 <= kept <= 10
    assert torch.equal(task.weight(example, settings), example.degraded.mask)


# Driving

def test_actor_ids_stand_in_for_a_mask():
    example = task_pair("driving")
    task, clip = task_named("driving"), example.degraded
    assert torch.equal(task.extra(clip), clip.mask)
    named = replace(clip, mask=None)
    assert torch.equal(task.extra(named), (clip.actor_ids > 0).float())
    assert not task.extra(Clip(clip.frames)).any()

