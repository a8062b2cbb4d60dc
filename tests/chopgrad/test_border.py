"""What `pixel_loss` refuses, and that nothing is left half-way."""

import re

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, SpatialTiles, Truncated, pixel_loss
from tests.chopgrad.decoders import Echo, curved, example, gradients, wan

STRATEGIES = [Full(), Truncated(1), Exact(), Exact("cpu", 2, True), Exact(tiles=SpatialTiles(3, 3, 0))]
EVERY = pytest.mark.parametrize("backprop", STRATEGIES, ids=str)


def refused(message: str, backprop=Exact(), loss_fn=curved, error=ValueError, **changed):
    """The error that `pixel_loss` or its backward raised; no gradient is left."""
    decoder, latents, target, side = example(wan(), latent_frames=3)
    given = {"latents": latents, "target": target, "side": side, **changed}
    with pytest.raises(error) as raised:
        pixel_loss(given["latents"], given["target"], decoder, loss_fn, backprop, side=given["side"]).backward()
    assert re.search(message, told(raised.value)), told(raised.value)
    assert_no_gradient(latents, decoder, side)
    return raised.value


def told(error: Exception) -> str:
    """What a traceback shows of an error: its message, its notes and, in Python 3.10, its cause."""
    return "\n".join([str(error), *getattr(error, "__notes__", ()), str(error.__cause__ or "")])


def assert_no_gradient(latents, decoder, side):
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
    for dtype in (torch.uint8, torch.int64, torch.bool, torch.complex64):
        refused(f"{dtype}; floating point in −1…1", backprop, target=frames(1, 3, 5, 12, 12, dtype=dtype))


@EVERY
def test_targets_by_the_slice_are_looked_at_too(backprop):
    bad = lambda value: lambda span: frames(1, 3, span.stop - span.start, 12, 12) + value * (span.stop > 3)  # noqa: E731
    refused("group 2, frames 3…4: the target reaches ±2", backprop, target=bad(2))
    refused("group 1, frames 1…2: the target is torch.int64", backprop,
            target=lambda span: frames(1, 3, span.stop - span.start, 12, 12).to(torch.int64 if span.start else torch.float64))
    for shape in ((1, 3, 1, 12, 12), (1, 3, 3, 12, 12), (2, 3, 2, 12, 12), (1, 3, 2, 12, 13), (1, 2, 2, 12, 12)):
        refused(r"group 1, frames 1…2: the target has shape .*, the decoded frames \(1, 3, 2, 12, 12\)", backprop,
                target=lambda span: frames(*shape) if span.start else frames(1, 3, 1, 12, 12))


@pytest.mark.parametrize("backprop", STRATEGIES[:-1], ids=str)
def test_what_a_callable_target_returns_is_a_tensor(backprop):
    first = frames(1, 3, 1, 12, 12)
    nothing_later = lambda span: None if span.start else first  # noqa: E731
    refused("group 1, frames 1…2: the target is NoneType; a tensor", backprop, target=nothing_later)
    refused("group 0, frames 0…0: the target is ndarray", backprop, target=lambda span: first.numpy())
    refused(r"group 0, frames 0…0: the target has shape \(3, 1, 12, 12\)", backprop, target=lambda span: first[0])


@EVERY
def test_losses_that_are_not_one_finite_value_a_frame(backprop):
    refused(r"group 0, frames 0…0: the loss has shape \(\); one value a frame, \(1, 1\), is needed", backprop,
            loss_fn=lambda prediction, target: (prediction - target).abs().mean())

    def breaks_later(prediction, target):
        value = curved(prediction, target)
        return value * float("inf") if prediction.shape[2] == 2 else value

    refused("group 1, frames 1…2: the loss is not finite", backprop, loss_fn=breaks_later)
    for value, kind in ((1.0, "float"), (None, "NoneType"), (torch.ones(1, 1, dtype=torch.int64), "torch.int64"),
                        (torch.ones(1, 1, dtype=torch.complex64), "torch.complex64")):
        refused(f"group 0, frames 0…0: the loss is {kind}; a floating point tensor", backprop,
                loss_fn=lambda prediction, target: value)


@EVERY
def test_latents_and_side_tensors_that_do_not_fit(backprop):
    _, latents, _, side = example(wan(), latent_frames=3)
    refused("latents are torch.int64", backprop, latents=latents.detach().long())
    refused(r"of shape \(4, 3, 3, 3\)", backprop, latents=latents[0])
    refused(r"shape \(1, 4, 0, 3, 3\); .* of 1 or more each", backprop, latents=latents[:, :, :0])
    refused("latents are torch.complex128", backprop, latents=latents.detach().to(torch.complex128))
    refused("group 0, frames 0…0: .*5 channels", backprop, error=RuntimeError, latents=latents[:, [0, 1, 2, 3, 0]])
    refused("group 0, frames 0…0: Input type", backprop, error=RuntimeError, latents=latents.float())
    spoilt = torch.cat([latents[:, :, :2], latents[:, :, 2:] * float("nan")], dim=2)
    refused("group 2, frames 3…4: the loss is not finite", backprop, latents=spoilt)
    refused("side has 2 mappings for 3 groups", backprop, side=side[:2])
    refused("group 1, frames 1…2: there is no block 'up'", backprop, side=[side[0], {"up": latents}, side[2]])
    refused("group 0, frames 0…0: the side tensor for mid_block", backprop, side=[side[1] | {"mid_block": latents}, *side[1:]])
    refused("group 0, frames 0…0: the loss is not finite", backprop, latents=latents / 0)
    refused("group 2, frames 3…4: side is not a mapping", backprop, side=[*side[:2], latents])
    refused("group 1, frames 1…2: side is not a mapping", backprop, side=[side[0], {"mid_block": 1.0}, side[2]])


@EVERY
def test_groups_may_have_no_side_tensors(backprop):
    decoder, latents, target, side = example(wan(), latent_frames=3)
    losses = [pixel_loss(latents, target, decoder, curved, backprop, side=[side[0], none, side[2]]) for none in ({}, None)]
    assert losses[0] == losses[1] != pixel_loss(latents, target, decoder, curved, backprop, side=side)


@pytest.mark.parametrize("changed, message", [
    ({"latents": None}, "latents are NoneType"), ({"target": [0.0]}, "the target is list"),
    ({"loss_fn": "mse"}, "the loss str")])
def test_arguments_that_can_be_nothing_of_the_kind(changed, message):
    refused(message, error=TypeError, **changed)


@pytest.mark.parametrize("context", [-1, 1.5, None])
def test_context_is_a_number_of_frames(context):
    loss = lambda prediction, target: curved(prediction, target)  # noqa: E731
    loss.context_frames = context
    refused(f"context_frames {context}; give a whole number", loss_fn=loss)


class Own(Exception):
    """An error that makes its message itself."""

    def __init__(self, code: int, reason: str):
        super().__init__(code, reason)
        self.code = code


class Old(Own):
    """As in Python 3.10, without notes."""

    @property
    def add_note(self):
        raise AttributeError


ERRORS = [lambda: RuntimeError("mine"), AssertionError, lambda: KeyError("key"),
          lambda: FileNotFoundError(2, "gone", "7.png"), lambda: Own(3, "mine"), lambda: Old(3, "mine")]


def raising(make, from_call: int):
    """A loss that raises an error in its `from_call`-th call, and the error."""
    error, calls = make(), []

    def loss(prediction, target):
        calls.append(None)
        if len(calls) == from_call:
            raise error
        return curved(prediction, target)

    return loss, error


@EVERY
@pytest.mark.parametrize("make", ERRORS)
def test_errors_of_others_are_what_they_were_and_say_where(backprop, make):
    loss, error = raising(make, 2)
    assert refused("group 1, frames 1…2", backprop, loss, type(error)) is error
    assert backprop.tiles is None or type(error) is not RuntimeError or str(error).startswith("tile of latent rows 0…2")
    assert getattr(error, "code", 3) == 3 and getattr(error, "filename", "7.png") == "7.png"
    error = make()

    def missing(span):
        if span.start == 3:
            raise error
        return frames(1, 3, span.stop - span.start, 12, 12)

    assert refused("group 2, frames 3…4", backprop, error=type(error), target=missing) is error


@pytest.mark.parametrize("backprop", [Exact(), Exact("cpu", 3, True), Exact(tiles=SpatialTiles(3, 3, 0))], ids=str)
def test_a_loss_that_fails_in_backward_only(backprop):
    """In the second of three groups, when the third has had its gradient."""
    loss, error = raising(lambda: RuntimeError("mine"), 4)
    assert refused("group 1, frames 1…2: mine", backprop, loss, RuntimeError) is error
    calls = []

    def infinite(prediction, target):
        calls.append(None)
        return curved(prediction, target) / (len(calls) != 4)

    refused("group 1, frames 1…2: the loss is not finite", backprop, infinite)


@pytest.mark.parametrize("backprop", [Exact(), Exact(keep_every=3, checkpoint_blocks=True)], ids=str)
def test_a_backward_that_failed_can_be_tried_again(backprop):
    example_ = decoder, latents, target, side = example(wan(), latent_frames=3)
    _, expected = gradients(example_, curved, Full(), scale=1)
    for tensor in (latents, *decoder.parameters(), *(value for group in side for value in group.values())):
        tensor.grad = None
    loss = pixel_loss(latents, target, decoder, raising(RuntimeError, 4)[0], backprop, side=side)
    with pytest.raises(RuntimeError, match="group 1"):
        loss.backward(retain_graph=True)
    assert_no_gradient(latents, decoder, side)
    loss.backward()
    assert torch.allclose(latents.grad, expected["latents"], rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("backprop", STRATEGIES[1:], ids=str)
def test_second_derivatives_are_refused(backprop):
    decoder, latents, target, side = example(wan(), latent_frames=3)
    loss = pixel_loss(latents, target, decoder, curved, backprop, side=side) + latents.square().sum()
    with pytest.raises(RuntimeError, match="leave create_graph out, or give Full"):
        loss.backward(create_graph=True)
    assert_no_gradient(latents, decoder, side)
    pixel_loss(latents, target, decoder, curved, backprop, side=side).backward()


@EVERY
def test_a_loss_that_changes_the_target(backprop):
    def loss(prediction, target):
        return curved(prediction, target.mul_(0.5))

    refused("group 0, frames 0…0: the target, a side tensor or the decoder's weights have been changed", backprop, loss)


@pytest.mark.parametrize("what", ["target", "side", "weights"])
def test_what_is_changed_before_backward(what):
    decoder, latents, target, side = example(wan().requires_grad_(False), latent_frames=3)
    fixed = [{name: value.detach() for name, value in group.items()} for group in side]
    loss = pixel_loss(latents, target, decoder, curved, Exact(), side=fixed)
    {"target": target, "side": fixed[1]["mid_block"], "weights": next(decoder.parameters())}[what].mul_(0.5)
    with pytest.raises(ValueError, match="group [12], frames .*: the target, a side tensor or the decoder's weights"):
        loss.backward()
    assert_no_gradient(latents, decoder, side)


@EVERY
def test_targets_get_no_gradient(backprop):
    """And may have been made without any thought of one."""
    decoder, latents, target, side = example(wan(), latent_frames=3)
    pixel_loss(latents, target.requires_grad_(), decoder, curved, backprop, side=side).backward()
    assert target.grad is None and latents.grad is not None
    with torch.inference_mode():
        unseen = target.detach().clone()
    assert unseen.is_inference()
    squares = lambda prediction, target: (prediction - target).square().mean(dim=(1, 3, 4))  # noqa: E731
    pixel_loss(latents, unseen, decoder, squares, backprop, side=side).backward()


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
