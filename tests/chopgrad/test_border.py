"""What `pixel_loss` refuses, and that nothing is left half-way."""

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, SpatialTiles, Truncated, pixel_loss
from tests.chopgrad.decoders import Echo, curved, example, wan

EVERY = pytest.mark.parametrize("backprop", [Full(), Truncated(1), Exact(), Exact(tiles=SpatialTiles(3, 3, 0))], ids=str)


def refused(message: str, backprop=Exact(), loss_fn=curved, **changed):
    decoder, latents, target, side = example(wan(), latent_frames=3)
    given = {"latents": latents, "target": target, "side": side, **changed}
    with pytest.raises(ValueError, match=message):
        pixel_loss(given["latents"], given["target"], decoder, loss_fn, backprop, side=given["side"]).backward()
    assert latents.grad is None and all(p.grad is None for p in decoder.parameters())
    assert all(value.grad is None for group in side for value in group.values())


def frames(*shape, dtype=torch.float64):
    return torch.zeros(*shape, dtype=dtype)


@EVERY
def test_targets_that_do_not_fit(backprop):
    refused("3 latent frames decode to frames 0…4, but the target has 4 frames, not 5", backprop, target=frames(1, 3, 4, 12, 12))
    refused("the target has batch 2, the latents 1", backprop, target=frames(2, 3, 5, 12, 12))
    refused(r"group 0, frames 0…0: the target has shape \(1, 3, 1, 8, 8\)", backprop, target=frames(1, 3, 5, 8, 8))
    refused(r"shape \(1, 1, 5, 12, 12\)", backprop, target=frames(1, 1, 5, 12, 12))
    refused(r"shape \(3, 5, 12, 12\)", backprop, target=frames(3, 5, 12, 12))


@EVERY
def test_targets_out_of_range(backprop):
    refused("reaches ±255", backprop, target=frames(1, 3, 5, 12, 12) + 255)
    refused("reaches ±nan", backprop, target=frames(1, 3, 5, 12, 12) * float("nan"))
    refused("torch.uint8", backprop, target=frames(1, 3, 5, 12, 12, dtype=torch.uint8))


@EVERY
def test_targets_by_the_slice_are_looked_at_too(backprop):
    bad = lambda value: lambda span: frames(1, 3, span.stop - span.start, 12, 12) + value * (span.stop > 3)  # noqa: E731
    refused("group 2, frames 3…4: the target reaches ±2", backprop, target=bad(2))
    refused("group 1, frames 1…2: the target is torch.int64", backprop,
            target=lambda span: frames(1, 3, span.stop - span.start, 12, 12).to(torch.int64 if span.start else torch.float64))
    refused("group 1, frames 1…2: the target has shape", backprop, target=lambda span: frames(1, 3, 1, 12, 12))


@EVERY
def test_losses_that_are_not_one_finite_value_a_frame(backprop):
    refused(r"group 0, frames 0…0: the loss has shape \(\); one value a frame, \(1, 1\), is needed", backprop,
            loss_fn=lambda prediction, target: (prediction - target).abs().mean())

    def breaks_later(prediction, target):
        value = curved(prediction, target)
        return value * float("inf") if prediction.shape[2] == 2 else value

    refused("group 1, frames 1…2: the loss is not finite", backprop, loss_fn=breaks_later)


@EVERY
def test_latents_and_side_tensors_that_do_not_fit(backprop):
    _, latents, _, side = example(wan(), latent_frames=3)
    refused("latents are torch.int64", backprop, latents=latents.detach().long())
    refused(r"of shape \(4, 3, 3, 3\)", backprop, latents=latents[0])
    refused("latents have no frames", backprop, latents=latents[:, :, :0])
    refused("side has 2 mappings for 3 groups", backprop, side=side[:2])
    refused("group 1, frames 1…2: there is no block 'up'", backprop, side=[side[0], {"up": latents}, side[2]])
    refused("group 0, frames 0…0: the side tensor for mid_block", backprop, side=[side[1] | {"mid_block": latents}, *side[1:]])
    refused("group 0, frames 0…0: the loss is not finite", backprop, latents=latents / 0)


def test_decoders_whose_frames_are_not_what_they_say():
    decoder, latents, target, side = example(Echo())
    decoder.frames_of = lambda group: slice(2 * group.start, 2 * group.stop)
    with pytest.raises(ValueError, match="group 0, frames 0…3: the decoder gave 6 frames"):
        pixel_loss(latents, target[:, :, :8], decoder, curved, side=side)


@pytest.mark.parametrize("make, message", [
    (lambda: Truncated(-1), "distance is -1"), (lambda: Exact(keep_every=0), "keep_every is 0"),
    (lambda: Exact(offload="disk"), "offload is 'disk'"),
])
def test_strategies_check_their_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_strategy_is_needed():
    decoder, latents, target, side = example(Echo())
    with pytest.raises(TypeError, match=r"backprop is 'exact'; give Full\(\), Truncated\(distance\) or Exact\(\)"):
        pixel_loss(latents, target, decoder, curved, "exact", side=side)
