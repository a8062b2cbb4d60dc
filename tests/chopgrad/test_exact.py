"""The backward sweep against plain autograd."""

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, pixel_loss
from chopgrad_ns.chopgrad.interface import state_tensors
from tests.chopgrad.decoders import WAN, Echo, curved, difference, example, gradients, looking_back, wan

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def agree(example_, loss_fn, backprop, tolerance=1e-9):
    loss, expected = gradients(example_, loss_fn, Full())
    found_loss, found = gradients(example_, loss_fn, backprop)
    assert abs(found_loss - loss) <= tolerance * abs(loss)
    assert difference(found, expected) <= tolerance
    return expected


@pytest.mark.parametrize("kind", WAN)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_wan(kind, dtype):
    expected = agree(example(wan(kind, dtype), dtype=dtype), curved, Exact(), TOLERANCE[dtype])
    assert all(expected["latents"][:, :, i].norm() > 0 for i in range(4))
    assert sum(name.startswith("side") for name in expected) == 8
    assert sum(name.startswith("parameter") for name in expected) > 30


@pytest.mark.parametrize("keep_every", [1, 2, 3, 9])
@pytest.mark.parametrize("offload", ["none", "cpu"])
def test_states_kept_now_and_then(keep_every, offload):
    agree(example(wan(), latent_frames=5), curved, Exact(offload=offload, keep_every=keep_every))


@pytest.mark.parametrize("decoder", [wan, Echo])
@pytest.mark.parametrize("context, keep_every", [(0, 2), (1, 1), (1, 3), (5, 1), (5, 2)])
def test_losses_that_look_back_across_groups(decoder, context, keep_every):
    expected = agree(example(decoder(), latent_frames=6, side=False), looking_back(context), Exact(keep_every=keep_every))
    if context:
        _, without = gradients(example(decoder(), latent_frames=6, side=False), looking_back(0), Full())
        assert difference(expected, without) > 1e-3


@pytest.mark.parametrize("latent_frames", [1, 2, 7])
def test_nested_states_and_uneven_groups(latent_frames):
    expected = agree(example(Echo(), latent_frames=latent_frames, batch=2), looking_back(4), Exact(keep_every=2))
    assert "parameter 2" not in expected, "a parameter that is not used gets no gradient, not zeros"


def test_batch_of_two_is_the_mean_of_its_clips():
    decoder, latents, target, side = example(wan(), batch=2)
    agree((decoder, latents, target, side), curved, Exact())
    both = pixel_loss(latents, target, decoder, curved, side=side)
    each = [pixel_loss(latents[k:k + 1], target[k:k + 1], decoder, curved,
                       side=[{name: value[k:k + 1] for name, value in group.items()} for group in side]) for k in (0, 1)]
    assert torch.allclose(both, sum(each) / 2)


@pytest.mark.parametrize("trained", ["some parameters", "side of one group", "latents", "no latents"])
def test_only_what_requires_grad(trained):
    decoder, latents, target, side = example(wan())
    chosen = {"some parameters": (), "side of one group": (2,), "latents": (), "no latents": (0, 1, 2, 3)}[trained]
    for index, group in enumerate(side):
        for value in group.values():
            value.requires_grad_(index in chosen)
    for k, parameter in enumerate(decoder.parameters()):
        parameter.requires_grad_(trained == "some parameters" and k % 3 == 0)
    latents.requires_grad_(trained in ("some parameters", "latents"))
    expected = agree((decoder, latents, target, side), curved, Exact(keep_every=2))
    wanted = {"some parameters": 1, "side of one group": 2, "latents": 1, "no latents": 8}[trained]
    assert sum(not name.startswith("parameter") for name in expected) == wanted
    assert any(name.startswith("parameter") for name in expected) == (trained == "some parameters")


def test_gradients_go_on_into_what_made_the_inputs():
    decoder, latents, target, side = example(wan())
    found = []
    for backprop in (Full(), Exact()):
        scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
        scaled = [{name: scale * value.detach() for name, value in group.items()} for group in side]
        pixel_loss(scale * latents.detach(), target, decoder, curved, backprop, side=scaled).backward()
        found.append(scale.grad)
    assert torch.allclose(found[0], found[1], rtol=1e-9)


def test_gradients_accumulate_and_fire_hooks():
    decoder, latents, target, side = example(wan())
    _, once = gradients((decoder, latents, target, side), curved, Exact(), scale=1)
    calls = []
    parameter = next(decoder.parameters())
    handle = parameter.register_post_accumulate_grad_hook(lambda p: calls.append(p))
    pixel_loss(latents, target, decoder, curved, Exact(), side=side).backward()
    handle.remove()
    assert len(calls) == 1, "once a backward, as data-parallel training counts on"
    assert torch.allclose(latents.grad, 2 * once["latents"]) and torch.allclose(parameter.grad, 2 * once["parameter 0"])


@pytest.mark.parametrize("keep_every", [1, 3])
def test_a_second_backward_through_the_same_loss(keep_every):
    decoder, latents, target, side = example(wan())
    loss = pixel_loss(latents, target, decoder, curved, Exact(keep_every=keep_every), side=side)
    first, = torch.autograd.grad(loss, latents, retain_graph=True)
    second, = torch.autograd.grad(loss, latents)
    assert torch.equal(first, second)


def test_parameters_changed_in_between_are_noticed():
    decoder, latents, target, side = example(wan())
    loss = pixel_loss(latents, target, decoder, curved, Exact(), side=side)
    with torch.no_grad():
        next(decoder.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_target_by_the_slice():
    decoder, latents, target, side = example(wan())
    asked = []

    def frames(span):
        asked.append((span.start, span.stop))
        return target[:, :, span]

    loss, expected = gradients((decoder, latents, target, side), looking_back(1), Full())
    found_loss, found = gradients((decoder, latents, frames, side), looking_back(1), Exact())
    assert found_loss == loss and difference(found, expected) < 1e-9
    assert asked == [(0, 1), (0, 3), (2, 5), (4, 7), (2, 5), (0, 3), (0, 1)]


def test_without_grad_it_only_evaluates():
    decoder, latents, target, side = example(Echo(), latent_frames=6)
    with torch.no_grad():
        loss = pixel_loss(latents, target, decoder, curved, Exact(), side=side)
    assert not loss.requires_grad and decoder.calls[-3:] == [False] * 3
    assert loss == pixel_loss(latents, target, decoder, curved, Full(), side=side)


@pytest.mark.parametrize("backward_inside", [True, False])
@pytest.mark.parametrize("forward_inside", [True, False])
def test_recomputation_rounds_as_the_first_pass_did(forward_inside, backward_inside):
    example_ = example(wan("2.1", torch.float32), dtype=torch.float32)
    decoder, latents, target, side = example_
    dtypes, results = [], []
    original = decoder.decode_group

    def watched(*args):
        frames, state = original(*args)
        dtypes.append((frames.dtype, {tensor.dtype for tensor in state_tensors(state)} & {torch.bfloat16}))
        return frames, state

    decoder.decode_group = watched
    for backprop in (Full(), Exact(keep_every=2)):
        latents.grad = None
        for parameter in decoder.parameters():
            parameter.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=forward_inside):
            loss = pixel_loss(latents, target, decoder, curved, backprop, side=side)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=backward_inside):
            loss.backward()
        results.append({"latents": latents.grad, **{str(k): p.grad for k, p in enumerate(decoder.parameters())
                                                    if p.grad is not None}})
    assert loss.dtype == torch.float32
    assert len({dtype for dtype, _ in dtypes}) == 1
    assert difference(results[1], results[0]) < (3e-2 if forward_inside else 1e-5)


def test_number_of_forwards_and_recomputations():
    decoder, latents, target, side = example(Echo(), latent_frames=10)
    for keep_every, forwards in ((1, 5 + 4), (2, 5 + 4 + 2), (5, 5 + 4 + 3)):
        decoder.calls.clear()
        pixel_loss(latents, target, decoder, curved, Exact(keep_every=keep_every), side=side).backward()
        assert len(decoder.calls) == forwards and decoder.calls.count(True) == 5
