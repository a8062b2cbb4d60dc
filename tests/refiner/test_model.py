"""What the refiner makes of a clip, and where gradients reach."""

from dataclasses import replace

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, as_causal_decoder, pixel_loss
from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.losses import l1
from chopgrad_ns.refiner import Refiner
from chopgrad_ns.refiner.condition import pool_time
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.model import Batch, collate
from tests.refiner.clips import pair, stir


@pytest.fixture(scope="module")
def fresh() -> Refiner:
    return Refiner(RefinerConfig())


@pytest.fixture(scope="module")
def stirred() -> Refiner:
    refiner = Refiner(RefinerConfig())
    stir(refiner.model)
    return refiner


def without_references(clip: Clip) -> Clip:
    return Clip(clip.frames, alpha=clip.alpha, depth=clip.depth)


def batch_of(refiner: Refiner, clip: Clip) -> Batch:
    return collate([refiner.task.prepare(clip)], refiner.config, refiner.model.backbone)


def decoded(decoder, latents: torch.Tensor, side: list) -> torch.Tensor:
    """Frames [B, 3, T, H, W] in −1…1 of all groups in turn."""
    state, frames = decoder.initial_state(), []
    for index, group in enumerate(decoder.groups(latents.shape[2])):
        part, state = decoder.decode_group(latents[:, :, group], state, side[index])
        frames.append(part)
    return torch.cat(frames, dim=2)


def test_untrained_refiner_changes_nothing_without_references(fresh):
    clip = without_references(pair().degraded)
    torch.testing.assert_close(fresh(clip), clip.frames, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["alpha", "depth", "photos"])
def test_what_goes_with_the_frames_changes_nothing_before_training(fresh, name):
    clip = pair().degraded
    given = {name: getattr(clip, name) for name in clip.carries} | {"photos": torch.rand(2, 3, 40, 50)}
    bare = Clip(clip.frames)
    one = replace(bare, **{key: value for key, value in given.items() if key.startswith(name.rstrip("s"))})
    torch.testing.assert_close(fresh(one), fresh(bare), atol=1e-6, rtol=0)


def test_what_goes_with_the_frames_matters_after_training(stirred):
    clip = pair().degraded
    bare = stirred(Clip(clip.frames))
    for name in ("depth", "photos"):
        value = torch.rand(2, 3, 40, 50) if name == "photos" else clip.depth
        assert (stirred(Clip(clip.frames, **{name: value})) - bare).abs().max() > 1e-4


def test_frames_and_references_alone_are_enough(fresh):
    clip = pair().degraded
    bare = Clip(clip.frames)
    torch.testing.assert_close(fresh(bare), clip.frames, atol=1e-6, rtol=0)


def test_nothing_is_changed_where_the_splat_shows_nothing(stirred):
    clip = pair().degraded
    clip.alpha[:, :, 10:] = 0
    refined = stirred(clip)
    torch.testing.assert_close(refined[:, :, 10:], clip.frames[:, :, 10:], atol=1e-6, rtol=0)
    assert (refined[:, :, :10] - clip.frames[:, :, :10]).abs().mean() > 1e-3


def test_order_of_references_does_not_matter(stirred):
    clip = pair(references=3).degraded
    turned = Clip(clip.frames, alpha=clip.alpha, depth=clip.depth, references=clip.references.flip(1),
                  reference_masks=clip.reference_masks.flip(1))
    torch.testing.assert_close(stirred(turned), stirred(clip), atol=1e-5, rtol=0)


def test_colour_of_a_masked_reference_does_not_matter(stirred):
    clip = pair().degraded
    other = Clip(clip.frames, alpha=clip.alpha, depth=clip.depth, reference_masks=clip.reference_masks,
                 references=torch.where(clip.reference_masks > 0, clip.references, torch.ones(())))
    assert torch.equal(stirred(other), stirred(clip))


@pytest.mark.parametrize("shape", [(1, 32, 32), (6, 32, 32), (5, 27, 41), (2, 9, 130), (1, 3, 5)])
def test_any_length_height_and_width(stirred, shape):
    clip = pair(*shape).degraded
    refined = stirred(clip)
    assert refined.shape == clip.frames.shape
    assert refined.isfinite().all() and refined.min() >= 0 and refined.max() <= 1


def test_later_frames_do_not_change_earlier_ones_in_the_decoder(stirred):
    """No frame of the decoder's output may see a latent of a later group (the transformer may)."""
    model, batch = stirred.model, batch_of(stirred, pair().degraded)
    with torch.no_grad():
        prediction = model.predict(batch)
        changed = prediction.latents.clone()
        changed[:, :, -1] += 1
        first, second = (decoded(model.decoder, z, prediction.side) for z in (prediction.latents, changed))
    assert torch.equal(first[:, :, :5], second[:, :, :5])
    assert not torch.equal(first[:, :, 5:], second[:, :, 5:])


def test_pool_time_keeps_the_first_frame_and_groups_the_rest():
    x = torch.arange(9.0).view(1, 9, 1, 1, 1)
    assert pool_time(x, 4).flatten().tolist() == [0, 2.5, 6.5]
    assert pool_time(x, 2).flatten().tolist() == [0, 1.5, 3.5, 5.5, 7.5]
    assert pool_time(x[:, :1], 4).flatten().tolist() == [0]


def test_side_tensors_land_on_the_frames_they_were_pooled_from(stirred):
    """A change of what goes with frame t never shows before t's group."""
    clip = without_references(pair(frames=9).degraded)
    changed = Clip(clip.frames.clone(), alpha=clip.alpha.clone(), depth=clip.depth)
    changed.alpha[5:] = 0.7
    model = stirred.model
    with torch.no_grad():
        first, second = (model.predict(batch_of(stirred, each)) for each in (clip, changed))
        outputs = [decoded(model.decoder, first.latents, each.side) for each in (first, second)]
    same = (outputs[0] == outputs[1]).flatten(3).all(-1)[0].all(0)
    assert same.tolist() == [True] * 5 + [False] * 4


def loss_of(refiner: Refiner, example: Pair, strategy=Exact(), photos: torch.Tensor | None = None) -> torch.Tensor:
    prediction = refiner.model.predict(batch_of(refiner, replace(example.degraded, photos=photos)))
    target = 2 * example.clean.transpose(0, 1)[None] - 1
    return pixel_loss(prediction.latents, target, refiner.model.decoder, l1, strategy, side=prediction.side)


@pytest.mark.parametrize("output", ["correct", "residual"])
def test_frame_by_frame_is_a_clip_of_each_frame(output):
    """But for the transformer, which sees all frames at once; nothing else does."""
    refiner, clip = Refiner(RefinerConfig(output=output)), pair(frames=5).degraded
    stir(refiner.model)
    model, batch = refiner.model, batch_of(refiner, clip)

    def alone() -> list[torch.Tensor]:
        return [2 * model(batch_of(refiner, clip[k : k + 1]))[0, 0] - 1 for k in range(5)]

    with torch.no_grad():
        together, whole = model.predict(batch, frame_by_frame=True), 2 * model(batch)[0] - 1
        assert together.z.shape[2] == 5 and model.predict(batch).z.shape[2] == 2
        seen = decoded(model.frame_by_frame, together.latents, together.side)[0].transpose(0, 1)
        assert not torch.allclose(seen, torch.stack(alone()), atol=1e-5)
        assert not torch.allclose(seen[1:], whole[1:], atol=1e-3)
        for parameter in model.backbone.transformer.proj_out.parameters():
            parameter.zero_()
        together = model.predict(batch, frame_by_frame=True)
        seen = decoded(model.frame_by_frame, together.latents, together.side)[0].transpose(0, 1)
        torch.testing.assert_close(seen, torch.stack(alone()), atol=1e-5, rtol=0)


def test_every_part_learns(stirred):
    model = stirred.model
    model.zero_grad()
    loss_of(stirred, pair(), photos=torch.rand(2, 3, 40, 50)).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or p.grad.norm() < 1e-8}
    assert silent == {name for name, _ in model.named_parameters() if _beyond_reach(name)}
    model.zero_grad(set_to_none=True)


def _beyond_reach(name: str) -> bool:
    """The prompt is one token of zeros: what multiplies it is not felt, nor how it is attended to.

    Nor is what shifts all logits of an attention alike.
    """
    parts = ("text_embedder.linear_1.weight", "attn2.to_q", "attn2.to_k", "attn2.norm_", ".norm2.")
    return name == "photo_attention.key.bias" or (
        name.startswith("backbone.transformer.") and any(part in name for part in parts))


def test_what_starts_at_zero_can_leave_it(fresh):
    model = fresh.model
    loss_of(fresh, pair()).backward()
    assert model.head.delta.weight.grad.any() and model.head.weight.weight.grad.any()
    assert model.backbone.vae.decoder.conv_out.weight.grad.any()
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("output", ["correct", "decode", "residual"])
def test_exact_is_full_in_double_precision(output):
    refiner = Refiner(RefinerConfig(output=output))
    stir(refiner.model)
    model = refiner.model.double()
    example = pair(frames=9, height=16, width=16)
    example = Pair(example.degraded.to(torch.float64), example.clean.double(), "double")
    parameters = list(model.decoder.parameters()) + list(model.condition.parameters())
    values = []
    for strategy in (Full(), Exact(), Exact(checkpoint_blocks=True)):
        loss = loss_of(refiner, example, strategy)
        values.append([loss, *torch.autograd.grad(loss, parameters)])
    for full, *others in zip(*values):
        assert full.norm() > 0 and all((full - exact).norm() <= 1e-9 * full.norm() for exact in others)


def test_an_untouched_base_is_decoded_or_kept():
    """Without a correction at the end: "decode" gives the base's own single step, "residual" what it changes."""
    clip = pair().degraded
    decode, residual = (Refiner(RefinerConfig(output=output)) for output in ("decode", "residual"))
    batch = batch_of(decode, clip)
    backbone = decode.model.backbone
    with torch.no_grad():
        z = backbone.encode(2 * batch.frames.transpose(1, 2) - 1)
        inner = as_causal_decoder(backbone.vae)
        mended, plain = (decoded(inner, backbone.to_decoder(value), [None] * 3)[:, :3].transpose(1, 2) / 2 + 0.5
                         for value in (backbone.denoise(z, 250, decode.model.prompt[None]), z))
        torch.testing.assert_close(decode.model(batch), mended, atol=1e-5, rtol=0)
        torch.testing.assert_close(residual.model(batch), batch.frames + mended - plain, atol=1e-5, rtol=0)
        assert (mended - plain).abs().max() > 1e-3


def test_example_side_is_of_the_shapes_of_a_prediction(stirred):
    prediction = stirred.model.predict(batch_of(stirred, without_references(pair(frames=9).degraded)))
    made = stirred.model.example_side(tuple(prediction.latents.shape))
    assert [{name: value.shape for name, value in side.items()} for side in made] == [
        {name: value.shape for name, value in side.items()} for side in prediction.side]
