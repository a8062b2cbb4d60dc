"""The sliding window against a plain loop over groups: for each, its window is decoded anew from a detached state."""

import pytest
import torch

from chopgrad_ns.chopgrad import Full, Truncated, pixel_loss
from chopgrad_ns.chopgrad.interface import map_state
from tests.chopgrad.decoders import WAN, Echo, curved, difference, example, gradients, looking_back, wan


def oracle(example_, loss_fn, distance: int, scale=1.7):
    """Loss and gradients as `gradients` gives them, by the definition."""
    decoder, latents, target, side = example_
    groups = decoder.groups(latents.shape[2])
    count = decoder.num_frames(latents.shape[2]) * len(latents)
    sources = {"latents": latents}
    for index, group in enumerate(side or []):
        sources |= {f"side {index} {name}": value for name, value in group.items()}
    sources |= {f"parameter {k}": p for k, p in enumerate(decoder.parameters())}
    total, sums = 0.0, {}
    for last in range(len(groups)):
        first = max(last - distance, 0)
        state, parts = decoder.initial_state(), []
        for index in range(last + 1):
            frames, state = decoder.decode_group(latents[:, :, groups[index]], state, side and side[index])
            if index < first:
                frames, state = frames.detach(), map_state(torch.Tensor.detach, state)
            parts.append(frames)
        span = decoder.frames_of(groups[last])
        before = min(getattr(loss_fn, "context_frames", 0), span.start)
        wanted = slice(span.start - before, span.stop)
        loss = loss_fn(torch.cat(parts, dim=2)[:, :, wanted], target[:, :, wanted])[:, before:].sum() / count
        total += loss.detach()
        for name, value in zip(sources, torch.autograd.grad(scale * loss, list(sources.values()), allow_unused=True)):
            if value is not None:
                sums[name] = sums.get(name, 0) + value
    return total, sums


@pytest.mark.parametrize("decoder", [*WAN, "echo"])
@pytest.mark.parametrize("distance", [0, 1, 2])
def test_wan_and_another(decoder, distance):
    source = Echo() if decoder == "echo" else wan(decoder)
    example_ = example(source, latent_frames=7 if decoder == "echo" else 4, batch=2)
    loss, expected = oracle(example_, curved, distance)
    found_loss, found = gradients(example_, curved, Truncated(distance))
    assert torch.allclose(found_loss, loss, rtol=1e-12)
    assert difference(found, expected) < 1e-9


@pytest.mark.parametrize("context", [1, 5])
@pytest.mark.parametrize("distance", [0, 1, 3])
@pytest.mark.parametrize("decoder", [wan, Echo])
def test_losses_that_look_back_across_groups(decoder, context, distance):
    example_ = example(decoder(), latent_frames=4 if decoder is wan else 9)
    _, expected = oracle(example_, looking_back(context), distance)
    _, found = gradients(example_, looking_back(context), Truncated(distance))
    assert difference(found, expected) < 1e-9


@pytest.mark.parametrize("loss_fn", [curved, looking_back(5)])
def test_it_is_the_full_gradient_when_the_window_is_the_clip_and_differs_when_not(loss_fn):
    example_ = example(wan(), latent_frames=4)
    _, expected = gradients(example_, loss_fn, Full())
    errors = [difference(gradients(example_, loss_fn, Truncated(distance))[1], expected) for distance in (0, 1, 2, 3, 8)]
    assert errors[0] > errors[1] > errors[2] > 1e-6
    assert max(errors[3:]) < 1e-9


def test_the_last_groups_latents_never_depend_on_distance():
    example_ = example(wan())
    found = [gradients(example_, curved, Truncated(distance))[1]["latents"] for distance in (0, 3)]
    assert torch.allclose(found[0][:, :, -1], found[1][:, :, -1], rtol=1e-9)
    assert not torch.allclose(found[0][:, :, 0], found[1][:, :, 0], rtol=1e-3)


@pytest.mark.parametrize("distance", [0, 1, 4])
def test_each_group_is_decoded_once(distance):
    decoder, latents, target, side = example(Echo(), latent_frames=10)
    decoder.calls.clear()
    pixel_loss(latents, target, decoder, curved, Truncated(distance), side=side).backward()
    assert decoder.calls == [True] * 5


class Counting(Echo):
    """Counts the backward passes through each group's pixels."""

    def __init__(self):
        super().__init__()
        self.backwards = []

    def decode_group(self, latents, state, side=None):
        frames, state = super().decode_group(latents, state, side)
        number = len(self.backwards)
        self.backwards.append(0)
        if frames.requires_grad:
            frames.register_hook(lambda _: self.backwards.__setitem__(number, self.backwards[number] + 1))
        return frames, state


def test_distance_zero_costs_one_forward_and_one_backward():
    decoder, latents, target, side = example(Counting(), latent_frames=8)
    decoder.calls.clear(), decoder.backwards.clear()
    pixel_loss(latents, target, decoder, curved, Truncated(0), side=side).backward()
    assert decoder.calls == [True] * 4 and decoder.backwards == [1] * 4


def test_nothing_is_accumulated_before_backward():
    decoder, latents, target, side = example(wan())
    loss = pixel_loss(latents, target, decoder, curved, Truncated(1), side=side)
    assert latents.grad is None and all(p.grad is None for p in decoder.parameters())
    first, = torch.autograd.grad(loss, latents, retain_graph=True)
    second, = torch.autograd.grad(2 * loss, latents)
    assert torch.equal(2 * first, second)
