"""What a step of training is made of: buckets, shares, what is trained, precision, losses of latents, memory."""

import re
from dataclasses import replace

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, SpatialTiles
from chopgrad_ns.chopgrad.meter import peak_bytes
from chopgrad_ns.data.degradations import Degradation
from chopgrad_ns.data.fill import filled
from chopgrad_ns.data.video_pairs import inpainting_pair, super_resolution_pair
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.finetune.buckets import Bucket, bucket_of, parse_buckets
from chopgrad_ns.refiner.finetune.examples import Examples
from chopgrad_ns.refiner.finetune.losses import training_losses
from chopgrad_ns.refiner.finetune.parts import Parts, frozen_in_bfloat16, part_of, set_trained
from chopgrad_ns.refiner.finetune.run import Run
from chopgrad_ns.refiner.finetune.schedule import factor
from chopgrad_ns.refiner.finetune.settings import bytes_of
from chopgrad_ns.refiner.model import collate
from chopgrad_ns.refiner.tasks import task_named
from tests.refiner.clips import pair, stir

QUICK = FinetuneSettings(steps=3, buckets="5x16x16", losses="l1=1", lr=1e-3)


def stirred(**config) -> Refiner:
    refiner = Refiner(RefinerConfig(**config))
    stir(refiner.model)
    return refiner


def weights(refiner: Refiner) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in refiner.model.named_parameters()}


def test_buckets_come_as_often_as_their_shares_and_evenly():
    buckets = parse_buckets("9x48x64x3=4, whole=1,17x32x32=2")
    assert buckets == [Bucket(9, 48, 64, 3, 4), Bucket(None, None, None, 1, 1), Bucket(17, 32, 32, 1, 2)]
    order = [buckets.index(bucket_of(buckets, step)) for step in range(14)]
    assert order[:7] == order[7:] and [order[:7].count(k) for k in range(3)] == [4, 1, 2]
    assert 2 in order[:4] and 2 in order[4:7], "not all at the end"
    usual = parse_buckets(FinetuneSettings().buckets)
    assert [bucket_of(usual, step).frames for step in range(8)] == [9] * 7 + [None]


@pytest.mark.parametrize("text", ["", "9x48", "9x48x48x3=0", "0x48x48", "whole=two", "9x48x48=1.5", "9x48x48,,whole"])
def test_bad_buckets_are_refused(text):
    with pytest.raises(UserError, match="is not of the form FRAMESxHEIGHTxWIDTHxBATCH=SHARE") as caught:
        FinetuneSettings(buckets=text).check()
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("bucket, sizes, expected", [
    ("10x50x70", [(20, 64, 80)], (9, 48, 64)), ("10x50x70x2", [(20, 64, 80), (5, 40, 100)], (9, 40, 64)),
    ("1x48x48", [(1, 30, 6)], (1, 24, 6)), ("whole", [(20, 50, 70)], (None, 50, 70)),
])
def test_sizes_are_multiples_where_pictures_have_as_many_pixels(bucket, sizes, expected):
    assert parse_buckets(bucket)[0].fitted(sizes, 4, 8) == expected


def test_processes_share_a_batch():
    pairs = [pair(seed=i, name=str(i)) for i in range(5)]
    examples = Examples(pairs, task_named("artifact-removal"), FinetuneSettings(buckets="5x16x16x3"), 4, 8)
    everything, counts = examples.draw(7)
    assert counts == 1 and len(everything) == 3
    (first, a), (second, b), (third, c), (idle, d) = (examples.draw(7, 0, rank, 4) for rank in range(4))
    for alone, example in zip((first, second, third), everything):
        assert torch.equal(alone[0].clip.frames, example.clip.frames) and torch.equal(alone[0].target, example.target)
    assert (a, b, c, d) == (4 / 3, 4 / 3, 4 / 3, 0) and len(idle) == 1
    (two, e), (one, f) = (examples.draw(7, 0, rank, 2) for rank in range(2))
    assert (len(two), e, len(one), f) == (2, 4 / 3, 1, 2 / 3)
    assert not torch.equal(examples.draw(7, 1)[0][0].clip.frames, everything[0].clip.frames), "a part has examples of its own"


def test_fresh_degradations_differ_from_step_to_step():
    clean = pair(frames=5, height=32, width=32).clean
    low, _ = super_resolution_pair(clean, "low", Degradation(kind="bicubic", scale=2), 0)
    task = task_named("super-resolution")
    for fresh in (False, True):
        settings = FinetuneSettings(buckets="whole", fresh=fresh, scale=2, degradation="first-order")
        examples = [Examples([low], task, settings, 4, 8).draw(step)[0][0] for step in range(6)]
        assert all(example.clip.frames.shape == (5, 3, 32, 32) for example in examples)
        differences = [example.clip.frames - (example.target[:, :3] / 2 + 0.5) for example in examples]
        errors = {round(float(difference.square().mean()), 7) for difference in differences}
        assert (len(errors) == 6) == fresh and (len(errors) == 1) != fresh


def test_everything_of_a_clip_is_cut_alike():
    """Masks of inpainting, and what they are filled with, in crops that are turned over."""
    clean = pair(frames=6).clean
    holes = (clean[:, :1] > 0.5).float()
    one = inpainting_pair(clean, "holes", holes)
    task = task_named("inpainting")
    whole = torch.stack([clean[:, :1], task.prepare(one.degraded).frames[:, :1]], dim=-1).flatten(0, -2)
    for step in range(6):
        (example,), _ = Examples([one], task, FinetuneSettings(buckets="5x16x16", fresh=False), 4, 8).draw(step)
        red = example.target[:, :1] / 2 + 0.5
        assert torch.equal(example.clip.mask, (red > 0.5).float()) and torch.equal(example.target[:, 3:], example.clip.mask)
        cut = torch.stack([red, example.clip.frames[:, :1]], dim=-1).flatten(0, -2)
        assert torch.cdist(cut, whole, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1).max() < 1e-5


def test_fresh_holes_are_in_the_crop():
    clean = pair(frames=5).clean
    one = inpainting_pair(clean, "whole", torch.zeros(5, 1, 32, 32))
    for fresh in (False, True):
        settings = FinetuneSettings(buckets="5x16x16", fresh=fresh)
        drawn = [Examples([one], task_named("inpainting"), settings, 4, 8).draw(step)[0][0] for step in range(12)]
        assert sum(bool(example.target[:, 3:].any()) for example in drawn) in (range(3, 12) if fresh else (0,))
        for example in drawn:
            mended = filled(example.target[:, :3] / 2 + 0.5, example.clip.mask)
            torch.testing.assert_close(example.clip.frames, mended)


def test_learning_rates():
    assert [factor(share, 0.1, "cosine") for share in (0.05, 0.1, 1.0)] == pytest.approx([0.5, 1, 0.02])
    assert [factor(share, 0.1, "constant") for share in (0.05, 0.1, 1.0)] == pytest.approx([0.5, 1, 1])
    assert factor(0.0, 0.0, "cosine") == 1 and factor(0.55, 0.1, "cosine") == pytest.approx(0.51)


@pytest.mark.parametrize("parts", [
    Parts("full", "frozen", "frozen"), Parts("frozen", "full", "frozen"), Parts("frozen", "frozen", "full"),
    Parts("full", "frozen", "frozen", "frozen")])
def test_what_is_frozen_stays_and_keeps_no_graph(parts):
    refiner = stirred()
    before, places = weights(refiner), part_of(refiner.model)
    assert set(places.values()) == {"transformer", "decoder", "encoder", "head", "conditioning"}
    finetune(refiner, [pair()], replace(QUICK, **vars(parts)))
    after = weights(refiner)
    moved = {places[name] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"conditioning", *(place for place, way in vars(parts).items() if way == "full")}
    assert all(parameter.requires_grad for parameter in refiner.model.parameters()), "as it was before"
    set_trained(refiner.model, parts)
    z = refiner.model.encode(pair(frames=5).clean[None])
    assert z.requires_grad == (parts.encoder == "full")


def test_frozen_weights_come_back_from_bfloat16_as_they_were():
    refiner = stirred()
    trained = set_trained(refiner.model, Parts("frozen", "full", "frozen"))
    before = weights(refiner)
    with frozen_in_bfloat16(refiner.model):
        kinds = {name: value.dtype for name, value in refiner.model.named_parameters()}
    assert all(kinds[name] == torch.float32 for name in trained)
    assert kinds["backbone.vae.encoder.conv_in.weight"] == torch.bfloat16
    assert kinds["backbone.transformer.blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert kinds["backbone.transformer.blocks.0.scale_shift_table"] == torch.float32, "diffusers keeps it"
    assert all(torch.equal(value, before[name]) for name, value in weights(refiner).items())


def test_bfloat16_trains_like_float32():
    """Nearly the same gradients; weights, averages and AdamW's means in float32."""
    found = {}
    for precision in ("fp32", "bf16"):
        settings = replace(QUICK, precision=precision, encoder="frozen")
        with Run(stirred(), [pair()], settings, Exact()) as run:
            run._gradients()
            found[precision] = torch.cat([value.grad.flatten() for value in run.trained.values() if value.grad is not None])
            run.train_step()
            state = [tensor for entry in run.optimizer.state.values() for tensor in entry.values()]
            assert {tensor.dtype for tensor in [*state, *run.average.values(), *run.trained.values()]} == {torch.float32}
    one, two = found["fp32"], found["bf16"]
    assert torch.nn.functional.cosine_similarity(one, two, dim=0) > 0.98 and not torch.equal(one, two)


def gradients(settings: FinetuneSettings, **config) -> dict[str, torch.Tensor]:
    pairs = [pair(seed=i, name=str(i)) for i in range(4)]
    with Run(stirred(**config), pairs, replace(settings, clip_gradient=1e9), Exact()) as run:
        run._gradients()
        return {name: value.grad.clone() for name, value in run.trained.items() if value.grad is not None}


def test_gradient_checkpointing_changes_no_gradient():
    plain, again = gradients(QUICK), gradients(replace(QUICK, gradient_checkpointing=True))
    assert all(torch.allclose(value, again[name], atol=1e-7) for name, value in plain.items())


def test_accumulated_batches_are_averaged():
    parts, examples = [], Examples.draw
    for part in range(2):
        settings = replace(QUICK)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Examples, "draw", lambda self, step, _part=0, *rest, part=part: examples(self, step, part, *rest))
            parts.append(gradients(settings))
    both = gradients(replace(QUICK, accumulate=2))
    assert all(torch.allclose(value, (parts[0][name] + parts[1][name]) / 2, atol=1e-6) for name, value in both.items())
    assert not all(torch.allclose(value, parts[0][name], atol=1e-6) for name, value in both.items())


def test_the_loss_of_latents_is_their_mean_square(monkeypatch):
    """By the plain formula; and alone it decodes nothing."""
    refiner, one = stirred(), pair(frames=5, height=16, width=16, references=0)
    settings = replace(QUICK, losses="latent=0.5", buckets="whole")
    with Run(refiner, [one], settings, Exact()) as run:
        monkeypatch.setattr(type(run.model.decoder), "decode_group", None)
        (example,), _ = run.examples.draw(0)
        loss = run.loss([example])
        batch = collate([example.clip], refiner.config, run.model.backbone)
        clean = run.model.backbone.encode(example.target[None, :, :3].transpose(1, 2))
        expected = (run.model.predict(batch).z - clean).square().mean()
        torch.testing.assert_close(loss, 0.5 * expected)
        torch.testing.assert_close(run.noted["losses/latent"], expected.detach())
        loss.backward()
        reached = {place for name, place in part_of(run.model).items() if run.model.get_parameter(name).grad is not None}
    assert reached == {"conditioning", "transformer", "encoder"}


@pytest.mark.parametrize("strategy", [Exact(), *(way(tiles=SpatialTiles(3, 8, 1)) for way in (Exact, Full))])
def test_losses_are_noted_one_by_one_and_without_context(strategy):
    """Of tiles too, which are of 2, 3 and 3 rows of latents here."""
    settings = replace(QUICK, losses="l1=2,frame_difference=0.5,latent=0.1", buckets="9x32x32")
    with Run(stirred(), [pair()], settings, strategy) as run:
        examples, _ = run.examples.draw(0)
        loss = run.loss(examples)
        named = {name.removeprefix("losses/"): value for name, value in run.noted.items()}
        loss.backward()
        assert {name.removeprefix("losses/"): value for name, value in run.noted.items()} == named, "backward adds nothing"
    torch.testing.assert_close(2 * named["l1"] + 0.5 * named["frame_difference"] + 0.1 * named["latent"], loss.detach())


@pytest.mark.parametrize("strategy", [Exact(), Full(SpatialTiles(16, 16, 8))])
def test_relative_losses_count_by_how_wrong_a_clip_is(strategy):
    """A batch's loss is the mean of its clips', each over how wrong it was given; what is noted of them stays as it is."""
    good, bad = pair(frames=5), pair(frames=5, seed=1)
    good = replace(good, degraded=replace(good.degraded, frames=0.9 * good.clean + 0.1 * good.degraded.frames))
    settings = replace(QUICK, buckets="5x32x32x2", losses="l1=1,mse=1", relative=True, flips=False, match_exposure=False,
                       unaligned=0, reference_dropout=0, reference_disorder=0)

    def loss(settings, *examples) -> tuple[float, float]:
        with Run(stirred(), [good, bad], settings, strategy) as run:
            return float(run.loss(list(examples)).detach()), float(run.noted["losses/l1"])

    with Run(stirred(), [good, bad], settings, strategy) as run:
        examples, _ = run.examples.draw(0)
    weights = [example.importance for example in examples]
    error = [float((one.clip.frames - (one.target[:, :3] / 2 + 0.5)).abs().mean()) for one in examples]
    assert weights == pytest.approx([0.03 / (each + 0.005) for each in error], rel=1e-4) and max(weights) > 3 * min(weights)
    alone = [loss(replace(settings, relative=False), example) for example in examples]
    total, noted = loss(settings, *examples)
    assert total == pytest.approx(sum(w * value for w, (value, _) in zip(weights, alone)) / 2, rel=1e-4)
    assert noted == pytest.approx(sum(value for _, value in alone) / 2, rel=1e-4)


def test_latents_count_as_their_pixels_do():
    """By the plain formula in float64; borders and frames that are padded, and places that are not known, count nothing."""
    one = pair(frames=6, height=20, width=16)  # of 9 frames and 24 rows when padded
    one.valid = (one.clean[:, :1] > 0.3).float()
    one.valid[:, :, :8, :8] = 0
    refiner = stirred()
    refiner.model.double()
    with Run(refiner, [one], replace(QUICK, losses="latent=1", buckets="whole", unaligned=0), Exact()) as run:
        (example,), _ = run.examples.draw(0)
        z = run.model.predict(collate([example.clip.to(run.model.prompt)], refiner.config, run.model.backbone)).z[0]
        factor, clean = run.model.backbone.latent_factor, replace(example.clip, frames=example.target[:, :3] / 2 + 0.5)
        wanted = run.model.encode(collate([clean.to(run.model.prompt)], refiner.config, run.model.backbone).frames)[0]
        weight = torch.zeros(9, *(side * factor for side in z.shape[2:]), dtype=torch.float64)
        weight[:6, :20, :16] = example.target[:, 3]
        total = known = 0
        for t, frames in enumerate((slice(0, 1), slice(1, 5), slice(5, 9))):
            for row in range(z.shape[2]):
                for column in range(z.shape[3]):
                    here = weight[frames, row * factor:(row + 1) * factor, column * factor:(column + 1) * factor].mean()
                    total += here * ((z - wanted)[:, t, row, column] ** 2).mean()
                    known += here
        torch.testing.assert_close(run.loss([example]), total / known, rtol=1e-9, atol=0)
        example.target[:, 3] = 0
        nothing = run.loss([example])
        nothing.backward()
        assert nothing == 0 and not any(value.grad.any() for value in run.trained.values() if value.grad is not None)


@pytest.mark.parametrize("text, message", [
    ("latent=1@5", "no loss has started at step 0"), ("latent=0", "all weights are zero"),
    ("latent=1,lattice=1", "no loss 'lattice'"), ("latent=1,latent=2", "name latent twice"),
])
def test_bad_losses_with_latents(text, message):
    with pytest.raises(UserError, match=message):
        training_losses(text)


def test_pixels_may_start_after_latents():
    losses = training_losses("latent=1,l1=0.5@3+2")
    assert losses.at(0) == (None, 1.0)
    assert [losses.at(step)[0].weights["l1"].value for step in (3, 4, 9)] == [0.25, 0.5, 0.5]
    assert losses.greatest().weights["l1"].value == 0.5


@pytest.mark.parametrize("text, expected", [("22GB", 22 * 10**9), ("1.5 MiB", 3 * 2**19), ("300", 300), (5, 5), ("2k", 2000)])
def test_sizes_of_memory(text, expected):
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-2GB", "2.5.1GB", "22 apples", "0"])
def test_what_is_no_size_of_memory(text):
    with pytest.raises(UserError, match="is no size of memory"):
        FinetuneSettings(memory_budget=text).check()


def test_a_budget_chooses_the_strategy_which_is_kept(tmp_path, capsys):
    """What the message says is needed, is what a step takes, references included."""
    once, one = replace(QUICK, steps=1, buckets="5x32x32,5x16x16", memory_budget="1MB", reference_dropout=0), pair(references=8)
    with pytest.raises(UserError, match=r"train on 1 × 5 frames of 32×32 pixels; give --memory-budget \d") as caught:
        finetune(stirred(), [one], once)
    enough = replace(once, memory_budget=re.search(r"budget (\S+GB)", str(caught.value))[1])
    with Run(stirred(), [one], enough, Exact(), tmp_path) as run:
        run.plan()
        assert isinstance(run.backprop, Exact) and run.backprop != Exact()
        shown = capsys.readouterr().out
        assert "1 × 5 frames of 32×32 pixels" in shown and f"{run.backprop}" in shown and "Full(" in shown
        run.train_step()
        held = sum(value.nbytes for value in (*run.model.parameters(), *run.model.buffers(), *4 * [*run.trained.values()]))
        run.step = 0
        taken = held + peak_bytes(run.train_step, run.refiner.device)
        assert taken == pytest.approx(bytes_of(enough.memory_budget), rel=0.1)
        run.save()
    with Run(stirred(), [one], enough, Exact(), tmp_path) as again:
        assert again.resume() and again.backprop == run.backprop


@pytest.mark.parametrize("change, message", [
    ({"rank": 0}, "rank is 0; give 1 or more"), ({"steps": 0}, "steps is 0"), ({"lr": -1.0}, "lr is -1.0; give a number above"),
    ({"ema": 1.0}, "ema is 1.0"), ({"warmup": 1.5}, "warmup is 1.5"), ({"scale": 0.5}, "scale is 0.5"),
    ({"fsdp": True}, "--fsdp divides weights among processes, and there is one"),
])
def test_settings_that_cannot_be_trained_with(change, message):
    with pytest.raises(UserError, match=message):
        finetune(stirred(), [pair()], replace(QUICK, **change))


def test_pairs_of_another_task_are_refused_by_name():
    clean = pair().clean
    low, _ = super_resolution_pair(clean, "low", Degradation(kind="bicubic", scale=2), 0)
    with pytest.raises(UserError, match="The pair low is not for artifact-removal; it suits super-resolution: leave"):
        finetune(stirred(), [pair(), low], QUICK)
    holes = inpainting_pair(clean, "holes", torch.ones(9, 1, 32, 32))
    with pytest.raises(UserError, match="The pair holes is not for artifact-removal; it suits inpainting"):
        finetune(stirred(), [pair()], QUICK, validation=[holes])


def test_single_frames_are_trained_on():
    one = pair(frames=1)
    for buckets in ("9x16x16x2", "1x16x16", "whole"):
        assert finetune(stirred(), [one], replace(QUICK, buckets=buckets, steps=1))["skipped"] == 0


def test_frame_by_frame_losses_see_each_frame_alone():
    """Against the losses written out, of pixels and of latents, and not those of the clip."""
    one, losses = pair(frames=5, height=16, width=16), {}
    for decoding in ("causal", "frame-by-frame"):
        settings = replace(QUICK, buckets="5x16x16", losses="l1=1,latent=0.5", decoding=decoding, unaligned=0.0,
                           reference_dropout=0.0)
        refiner = stirred()
        with Run(refiner, [one], settings, Exact()) as run:
            (example,), _ = run.examples.draw(0)
            losses[decoding] = float(run.loss([example]).detach())
            batch = collate([example.clip], refiner.config, refiner.model.backbone)
            alone = refiner.model.predict(batch, frame_by_frame=True)
            clean = example.target[:, :3] / 2 + 0.5
            latents = torch.cat([refiner.model.encode(clean[None, k : k + 1]) for k in range(5)], dim=2)
            decoder = refiner.model.frame_by_frame
            shown = torch.stack([decoder.decode_group(alone.latents[:, :, k : k + 1], None, alone.side[k])[0][0, :, 0]
                                 for k in range(5)])
    pixels = (shown - example.target[:, :3]).abs().mean() / 2
    expected = float((pixels + 0.5 * (alone.z - latents).square().mean()).detach())
    assert losses["frame-by-frame"] == pytest.approx(expected, rel=1e-5)
    assert losses["causal"] != pytest.approx(expected, rel=1e-3)
