"""What the refiner makes of a clip, and where gradients reach."""

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, pixel_loss
from chopgrad_ns.data.clip import Clip
from chopgrad_ns.losses import l1
from chopgrad_ns.refiner import Refiner
from chopgrad_ns.refiner.condition import pool_time
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.refiner import WINDOW, collate
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


def test_untrained_refiner_moves_a_little_towards_references(fresh):
    example = pair(references=1)
    clip = example.degraded
    step = fresh(clip) - clip.frames
    towards = clip.reference_masks[:, 0] * (clip.references[:, 0] - clip.frames)
    torch.testing.assert_close(step, torch.sigmoid(torch.tensor(-1.5)) * towards, atol=1e-5, rtol=0)


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
    model, batch = stirred.model, collate([pair().degraded], stirred.config)
    with torch.no_grad():
        latents, side = model.latents_and_side(batch)
        changed = latents.clone()
        changed[:, :, -1] += 1
        first, second = (decoded(model.decoder, z, side) for z in (latents, changed))
    assert torch.equal(first[:, :, :5], second[:, :, :5])
    assert not torch.equal(first[:, :, 5:], second[:, :, 5:])


def test_long_clips_fade_between_windows(stirred):
    clip = pair(WINDOW + 20, 16, 16).degraded
    refined = stirred(clip)
    first, second = stirred(clip[:WINDOW]), stirred(clip[20:])
    torch.testing.assert_close(refined[:20], first[:20], atol=1e-6, rtol=0)
    torch.testing.assert_close(refined[WINDOW:], second[WINDOW - 20 :], atol=1e-6, rtol=0)
    # Where both are seen: from nearly all of the first to nearly all of the second, never a jump.
    both = torch.stack([first[20:], second[: WINDOW - 20]])
    share = (refined[20:WINDOW] - both[0]).flatten(1).norm(dim=1) / (both[1] - both[0]).flatten(1).norm(dim=1)
    assert share[0] < 0.15 and share[-1] > 0.85 and share.diff().min() > -1e-4 and share.diff().max() < 0.12


def test_windows_of_a_local_refiner_equal_one_pass(fresh):
    """Untrained, a frame depends on itself alone: windows must then not show at all."""
    clip = pair(2 * WINDOW + 3, 16, 16).degraded
    with torch.no_grad():
        whole = fresh.model(collate([clip], fresh.config))[0, : len(clip)].clamp(0, 1)
    torch.testing.assert_close(fresh(clip), whole, atol=1e-5, rtol=0)


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
    outputs = []
    with torch.no_grad():
        latents, _ = model.latents_and_side(collate([clip], stirred.config))
        for each in (clip, changed):
            _, side = model.latents_and_side(collate([each], stirred.config))
            outputs.append(decoded(model.decoder, latents, side))
    same = (outputs[0] == outputs[1]).flatten(3).all(-1)[0].all(0)
    assert same.tolist() == [True] * 5 + [False] * 4


def test_every_part_learns(stirred):
    example = pair()
    model = stirred.model
    latents, side = model.latents_and_side(collate([example.degraded], stirred.config))
    target = 2 * example.clean.transpose(0, 1)[None] - 1
    model.zero_grad()
    pixel_loss(latents, target, model.decoder, l1, Exact(), side=side).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or p.grad.norm() < 1e-8}
    assert silent == {name for name, _ in model.named_parameters() if _beyond_reach(name)}
    model.zero_grad(set_to_none=True)


def _beyond_reach(name: str) -> bool:
    """The prompt is one token of zeros: what multiplies it is not felt, nor how it is attended to."""
    parts = ("text_embedder.linear_1.weight", "attn2.to_q", "attn2.to_k", "attn2.norm_", ".norm2.")
    return name.startswith("transformer.") and any(part in name for part in parts)


def test_untrained_skips_and_head_have_gradients(fresh):
    """What starts at zero must be able to leave it."""
    example = pair()
    model = fresh.model
    latents, side = model.latents_and_side(collate([example.degraded], fresh.config))
    target = 2 * example.clean.transpose(0, 1)[None] - 1
    pixel_loss(latents, target, model.decoder, l1, Exact(), side=side).backward()
    assert model.head.delta.weight.grad.any() and model.head.weight.weight.grad.any()
    assert model.vae.decoder.conv_out.weight.grad.any()
    model.zero_grad(set_to_none=True)


def test_exact_is_full_in_double_precision(stirred):
    example = pair(frames=9, height=16, width=16)
    refiner = Refiner(RefinerConfig())
    refiner.model.load_state_dict(stirred.model.state_dict())
    model = refiner.model.double()
    target = 2 * example.clean.double().transpose(0, 1)[None] - 1
    parameters = [*model.decoder.parameters(), *model.skips.parameters(), *model.condition.parameters()]
    batch = collate([example.degraded.to(torch.float64)], refiner.config)
    values = []
    for strategy in (Full(), Exact(), Exact(checkpoint_blocks=True)):
        features = model._features(batch)
        posterior = model.vae.encode(2 * batch.render.transpose(1, 2) - 1).latent_dist
        z = posterior.mode().detach().requires_grad_()
        side = model._side(batch, features, z.shape[2])
        loss = pixel_loss(z, target, model.decoder, l1, strategy, side)
        values.append([loss, *torch.autograd.grad(loss, [z, *parameters])])
    for full, *others in zip(*values):
        assert full.norm() > 0 and all((full - exact).norm() <= 1e-9 * full.norm() for exact in others)
