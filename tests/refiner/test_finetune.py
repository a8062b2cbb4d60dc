"""Training: it learns, can be interrupted, and survives what is broken."""

import json
from dataclasses import replace

import pytest
import torch

from chopgrad_ns.chopgrad import Full, Truncated
from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.stored import StoredPair, save_pair
from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.metrics import psnr
from chopgrad_ns.losses import LOSSES
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune, training_losses
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.finetune.checkpoint import fingerprint_of_pairs
from chopgrad_ns.refiner.finetune.examples import Example, Examples
from chopgrad_ns.refiner.finetune.validation import Validation
from chopgrad_ns.refiner.tasks import task_named
from tests.refiner.clips import pair

QUICK = FinetuneSettings(steps=4, buckets="5x16x16x2", losses="robust_l1=1,ssim=0.2", checkpoint_every=2)


def driven() -> Pair:
    """A pair for the task driving."""
    made = pair()
    there = torch.zeros(9, 1, 32, 32)
    there[:, :, 8:24, 8:24] = 1
    return Pair(Clip(made.degraded.frames, mask=there, actor_ids=there.to(torch.uint8)), made.clean, "drive")


def weights(refiner: Refiner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in refiner.model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_overfits_a_clip_by_several_decibels():
    refiner, example = Refiner(RefinerConfig()), pair(frames=5, height=24, width=24)
    before = psnr(refiner(example.degraded), example.clean).mean()
    settings = FinetuneSettings(steps=60, lr=3e-3, buckets="5x24x24", ema=0.9)
    result = finetune(refiner, [example], settings, validation=[example])
    after = psnr(refiner(example.degraded), example.clean).mean()
    assert after > before + 3 and refiner.pretrained
    assert result["psnr_before"] == pytest.approx(float(before), abs=0.01)
    assert result["psnr_after"] == pytest.approx(float(after), abs=0.01)
    render = psnr(example.degraded.frames, example.clean).mean()
    assert result["psnr_render"] == pytest.approx(float(render), abs=0.01)
    assert result["skipped"] == 0 and result["ssim_after"] > result["ssim_before"] > 0


@pytest.mark.parametrize("losses", [QUICK.losses, "robust_l1=1,ssim=0.5@1+3,frame_difference=1@3"])
def test_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, losses):
    pairs, settings = [pair(seed=i, name=str(i)) for i in range(3)], replace(QUICK, losses=losses)
    whole, parts = Refiner(RefinerConfig()), Refiner(RefinerConfig())
    finetune(whole, pairs, settings)

    def interrupt(step, steps):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(parts, pairs, settings, progress=interrupt, checkpoint_dir=tmp_path)
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == 2
    resumed, seen = Refiner(RefinerConfig()), []
    finetune(resumed, pairs, settings, lambda step, steps: seen.append((step, steps)), checkpoint_dir=tmp_path)
    assert seen == [(3, 4), (4, 4)]
    assert same(weights(whole), weights(resumed))
    assert not same(weights(whole), weights(Refiner(RefinerConfig())))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress.json", "step-4.safetensors"]


def steps_of(losses: str) -> list[dict[str, torch.Tensor]]:
    """The refiner's weights after each step of training with `losses`."""
    refiner, after = Refiner(RefinerConfig()), []
    finetune(refiner, [pair()], replace(QUICK, losses=losses), lambda step, steps: after.append(weights(refiner)))
    return after


def test_each_step_has_the_weights_of_its_own():
    alone, late, rising = (steps_of(f"robust_l1=1{more}") for more in ("", ",ssim=0.25@2", ",ssim=0.5@2+2"))
    assert [same(one, two) for one, two in zip(alone, late)] == [True, True, False, False]
    assert [same(one, two) for one, two in zip(late, rising)] == [True, True, True, False]


def test_frames_before_a_group_are_seen_from_the_step_that_needs_them(monkeypatch):
    """Clips of 5 frames are groups of 1 and 4; for a loss between frames the second is seen with the frame before it."""
    seen, most, l1 = [], [], LOSSES["l1"]

    def watched(prediction, target):
        seen.append(prediction.shape[2])
        return l1(prediction, target)

    def progress(step, steps):
        most.append(max(seen))
        seen.clear()

    monkeypatch.setitem(LOSSES, "l1", watched)
    finetune(Refiner(RefinerConfig()), [pair()], replace(QUICK, losses="l1=1,frame_difference=0.5@2"), progress)
    assert most == [4, 4, 5, 5]


@pytest.mark.parametrize("losses, message", [
    ("robust_l1", "'robust_l1' in the losses 'robust_l1' is not of the form"),
    ("robust_l1=1,warped_flicker=0.1@900", "warped_flicker needs optical flow"),
    ("robust_l1=1,lpips=1@900", "LPIPS needs vgg16"), ("robust_l1=1,dists=1@900+10", "DISTS needs vgg16"),
    ("robust_l1=1,vgg_gram=1@900", "VGG-Gram needs vgg16"),
])
def test_losses_that_cannot_be_had_are_refused_before_training(empty_hub, tmp_path, losses, message):
    refiner = Refiner(RefinerConfig())
    before, seen = weights(refiner), []
    with pytest.raises(UserError, match=message) as caught:
        finetune(refiner, [pair()], replace(QUICK, losses=losses), lambda *step: seen.append(step), tmp_path / "progress")
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert not seen and same(before, weights(refiner)) and not list(tmp_path.iterdir())


def test_losses_that_need_no_download_are_ready(empty_hub):
    wanted = sorted(set(LOSSES) - {"warped_flicker", "lpips", "dists", "vgg_gram"})
    assert sorted(training_losses("l1=1," + ",".join(f"{name}=1@5" for name in wanted if name != "l1")).weights) == wanted
    training_losses("l1=1,lpips=0@5,warped_flicker=0")


def test_unusable_progress_is_refused(tmp_path):
    once = replace(QUICK, steps=1)

    def train(config=RefinerConfig(), settings=once, **options):
        finetune(Refiner(config), [pair()], settings, checkpoint_dir=tmp_path, **options)

    train()
    train(settings=replace(once, losses="robust_l1=1.0, ssim=0.20@0", buckets="5x16x16x2=1", checkpoint_every=7))
    with pytest.raises(UserError, match=r"other settings \(lr\)"):
        train(settings=replace(once, lr=5e-4))
    with pytest.raises(UserError, match=r"other settings \(losses\)"):
        train(settings=replace(once, losses=once.losses + "@0+5"))
    with pytest.raises(UserError, match=r"other settings \(backprop\)"):
        train(backprop=Full())
    with pytest.raises(UserError, match=r"another refiner \(timestep\)"):
        train(RefinerConfig(timestep=100))
    with pytest.raises(UserError, match="other pairs"):
        finetune(Refiner(RefinerConfig()), [pair(frames=7)], once, checkpoint_dir=tmp_path)
    with pytest.raises(UserError, match="other pairs"):
        finetune(Refiner(RefinerConfig()), [pair(seed=1)], once, checkpoint_dir=tmp_path)
    with pytest.raises(UserError, match="another base"):
        other = Refiner(RefinerConfig())
        with torch.no_grad():
            other.model.backbone.vae.decoder.conv_in.weight[1, 1] += 1e-3
        finetune(other, [pair()], once, checkpoint_dir=tmp_path)
    with pytest.raises(UserError, match="is for artifact-removal, not driving"):
        finetune(Refiner(RefinerConfig(task="driving")), [driven()], once, checkpoint_dir=tmp_path)
    file = tmp_path / "step-1.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        train()
    (tmp_path / "progress.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        train()


def test_pairs_on_disk_count_by_what_they_were_made_from(tmp_path):
    """Not by when."""
    pairs = {}
    for name, about in {"one": {"seed": 1, "made": {"at": "noon"}}, "again": {"seed": 1, "made": {"at": "two"}},
                        "two": {"seed": 2}}.items():
        save_pair(pair(frames=5), tmp_path / name, about)
        pairs[name] = StoredPair(tmp_path / name)
    save_pair(pair(frames=5, seed=1), tmp_path / "other", {"seed": 1})
    one, again, two, other = (fingerprint_of_pairs([found]) for found in (*pairs.values(), StoredPair(tmp_path / "other")))
    assert one == again and len({one, two, other}) == 3


def test_a_refused_training_changes_nothing_and_judges_nothing(tmp_path, monkeypatch):
    settings = replace(QUICK, steps=2, checkpoint_every=1, transformer="lora", rank=2)
    measured, measure = [], Validation.measure

    def counted(self, *rest):
        measured.append(rest)
        return measure(self, *rest)

    monkeypatch.setattr(Validation, "measure", counted)
    whole = finetune(Refiner(RefinerConfig()), [pair()], settings, checkpoint_dir=tmp_path, validation=[pair(frames=1, seed=3)])
    assert len(measured) == 3, "as given, before, after"
    refiner = Refiner(RefinerConfig())
    before = weights(refiner)
    with pytest.raises(UserError, match=r"other settings \(lr\)"):
        finetune(refiner, [pair()], replace(settings, lr=0.5), checkpoint_dir=tmp_path, validation=[pair(frames=1, seed=3)])
    assert len(measured) == 3 and not any(refiner.config.lora.values()) and weights(refiner).keys() == before.keys()
    assert finetune(refiner, [pair()], settings, checkpoint_dir=tmp_path, validation=[pair(frames=1, seed=3)]) == whole
    assert len(measured) == 4, "after alone"
    finetune(Refiner(RefinerConfig()), [pair()], settings, checkpoint_dir=tmp_path, validation=[pair(frames=1, seed=4)])
    assert len(measured) == 7, "others are judged anew"


def test_broken_frames_are_skipped_and_weights_stay_finite(capsys):
    broken = pair(name="broken")
    broken.degraded.frames[:] = float("nan")
    refiner = Refiner(RefinerConfig())
    settings = replace(QUICK, steps=6, buckets="5x16x16", seed=1)
    result = finetune(refiner, [broken, pair()], settings)
    assert 0 < result["skipped"] < 6
    assert all(value.isfinite().all() for value in weights(refiner).values())
    assert capsys.readouterr().err.count("skipped") == result["skipped"]


def test_training_that_only_fails_gives_up():
    broken = pair(name="broken")
    broken.degraded.frames[:] = float("nan")
    with pytest.raises(UserError, match="10 steps in a row"):
        finetune(Refiner(RefinerConfig()), [broken], replace(QUICK, steps=30, buckets="5x16x16"))


def test_no_pairs_is_refused():
    with pytest.raises(UserError, match="no pairs"):
        finetune(Refiner(RefinerConfig()), [], QUICK)


def test_time_limit_ends_the_training(tmp_path):
    seen = []
    settings = replace(QUICK, steps=10_000, max_seconds=0.3)
    finetune(Refiner(RefinerConfig()), [pair()], settings, lambda step, steps: seen.append(step), tmp_path)
    assert 1 <= len(seen) < 100
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == seen[-1]


def test_whole_trajectories_and_other_strategies():
    bare = Pair(Clip(pair().clean), pair().clean, "bare")
    pairs = [pair(frames=7, seed=0), pair(frames=2, seed=1, references=0), bare]
    for settings in (replace(QUICK, buckets="whole", steps=2), replace(QUICK, steps=1, buckets="5x16x16x3")):
        refiner = Refiner(RefinerConfig())
        before = weights(refiner)
        result = finetune(refiner, pairs, settings, backprop=Truncated(1))
        assert result["skipped"] == 0 and not same(before, weights(refiner))


def test_pictures_smaller_than_a_block():
    small = pair(frames=3, height=6, width=5)
    assert finetune(Refiner(RefinerConfig()), [small], replace(QUICK, steps=1))["skipped"] == 0


def draw(pairs: list, settings: FinetuneSettings, step: int = 0) -> list[Example]:
    return Examples(pairs, task_named("artifact-removal"), settings, 4, 8).draw(step)[0]


def test_a_step_mixes_pairs_and_can_be_drawn_again():
    # Every picture of pair i has the one value i / 10, which flips and crops keep.
    pairs = []
    for i in range(4):
        shade = torch.full((12, 3, 24, 40), i / 10)
        pairs.append(Pair(Clip(shade), shade.clone(), str(i)))
    settings = FinetuneSettings(buckets="9x20x30x3=3,whole=1")
    for step in range(8):
        examples = draw(pairs, settings, step)
        shades = [round(float(example.clip.frames.mean()), 3) for example in examples]
        assert len(set(shades)) == len(examples) == (1 if step % 4 == 3 else 3)
        expected = (12, 3, 24, 40) if step % 4 == 3 else (9, 3, 16, 24)
        assert all(example.clip.frames.shape == expected for example in examples)
        again = draw(pairs, settings, step)
        assert all(torch.equal(a.clip.frames, b.clip.frames) for a, b in zip(examples, again))
        for example, shade in zip(examples, shades):
            assert torch.allclose(example.target[:, :3], torch.tensor(2 * shade - 1))


def test_targets_stay_beside_their_frames_and_weights():
    """Crops, flips and waiting cut everything alike."""
    frames, size = 6, 24
    marks = torch.rand(frames, 3, size, size, generator=torch.Generator().manual_seed(0))
    alpha = (marks[:, :1] > 0.3).float()
    clip = Clip(marks, alpha=alpha, references=marks[:, None].clone(),
                reference_masks=marks[:, None, :1].clone())
    one = Pair(clip, marks.clone(), "marks", valid=(marks[:, 1:2] > 0.2).float())
    seen = set()
    for step in range(12):
        settings = FinetuneSettings(buckets="9x16x16", reference_dropout=0, reference_disorder=0)
        (example,) = draw([one], settings, step)
        shown = example.clip.frames
        torch.testing.assert_close(example.target[:, :3], 2 * shown - 1)
        assert torch.equal(example.clip.references[:, 0], shown)
        assert torch.equal(example.clip.reference_masks[:, 0], shown[:, :1])
        expected = (shown[:, :1] > 0.3) & (shown[:, 1:2] > 0.2)
        assert torch.equal(example.target[:frames, 3:], expected[:frames].float())
        assert not example.target[frames:, 3:].any()
        seen.add(float(shown[0, 0, 0, 0]))
    assert len(seen) > 6, "crops differ from step to step"


def test_references_drop_out():
    counts = set()
    settings = FinetuneSettings(buckets="5x16x16", reference_dropout=0.7)
    for step in range(20):
        (example,) = draw([pair()], settings, step)
        counts.add(0 if example.clip.references is None else example.clip.references.shape[1])
    assert counts == {0, 1, 2}


def test_disorder_changes_references_alone_and_the_same_way_in_every_frame():
    shade = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0)).expand(5, -1, -1, -1)
    masks = torch.ones(5, 2, 1, 24, 24)
    one = Pair(Clip(shade, references=shade[:, None].expand(-1, 2, -1, -1, -1), reference_masks=masks), shade, "still")
    settings = FinetuneSettings(buckets="5x24x24", reference_dropout=0)
    tidy, messy = (draw([one], replace(settings, reference_disorder=chance))[0] for chance in (0.0, 1.0))
    assert torch.equal(tidy.clip.references[:, 0], tidy.clip.frames)
    assert torch.equal(messy.clip.frames, tidy.clip.frames) and torch.equal(messy.target, tidy.target)
    assert torch.equal(messy.clip.references[0], messy.clip.references[4])
    difference = (messy.clip.references - tidy.clip.references).abs().mean(dim=(0, 2, 3, 4))
    assert (difference > 0.02).all() and messy.clip.references.min() >= 0 and messy.clip.references.max() <= 1
    assert not torch.equal(messy.clip.references[:, 0], messy.clip.references[:, 1])
