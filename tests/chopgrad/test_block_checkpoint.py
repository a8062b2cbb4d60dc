"""Layers run again during backward, with caches that they write to, against plain autograd."""

import threading
import weakref

import pytest
import torch
from torch import nn

from chopgrad_ns.chopgrad import Exact, Full, pixel_loss
from chopgrad_ns.chopgrad.block_checkpoint import checkpointed_blocks, layers_of
from tests.chopgrad.decoders import (DECODERS, LAYERED, WAN, Echo, curved, difference, example, gradients, later_group,
                                      looking_back, wan)
from tests.chopgrad.meters import SavedBytes


@pytest.mark.parametrize("name", [*(f"wan{kind}" for kind in WAN), *LAYERED])
def test_the_gradient_is_that_of_the_full_graph(name):
    example_ = example(DECODERS[name](torch.float64), batch=2)
    loss, expected = gradients(example_, looking_back(2), Full())
    found_loss, found = gradients(example_, looking_back(2), Exact(checkpoint_blocks=True, keep_every=2))
    assert found_loss == pytest.approx(float(loss), rel=1e-9) and difference(found, expected) <= 1e-9
    assert sum(key.startswith("side") for key in expected) == 2 * len(example_[0].groups(4))


@pytest.mark.parametrize("name", ["wan2.1", *LAYERED])
def test_under_autocast(name):
    example_ = example(DECODERS[name](torch.float32), dtype=torch.float32)
    found = []
    for backprop in (Exact(), Exact(checkpoint_blocks=True)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(gradients(example_, curved, backprop)[1])
    assert difference(found[1], found[0]) <= 1e-6, "the same roundings, since the same operations"


@pytest.mark.parametrize("name, share", [("wan2.1", 0.5), ("magvit", 0.6), ("mochi", 0.4), ("mochi, framewise", 0.4)])
def test_only_inputs_of_blocks_are_saved(name, share):
    """One group's graph, alone: with blocks it holds their inputs, and while it runs backward one block more."""
    decoder, latents, state = later_group(name)
    held = []
    for checkpoint in (False, True):
        with SavedBytes() as saved:
            if checkpoint:
                with checkpointed_blocks(decoder):
                    frames, _ = decoder.decode_group(latents, state)
            else:
                frames, _ = decoder.decode_group(latents, state)
            after_forward = saved.now
            torch.autograd.grad(frames.sum(), latents)
        held.append((after_forward, saved.peak))
    assert held[1][0] < share * held[0][0]
    assert held[1][1] < share * held[0][1]


def test_blocks_get_their_forward_back():
    decoder, *_ = example(wan(), 1)
    first, second = layers_of(decoder)[:2]
    own = lambda x, **kwargs: type(second).forward(second, x, **kwargs)  # noqa: E731  as accelerate's hooks leave one
    second.forward = own
    with pytest.raises(RuntimeError, match="midway"):
        with checkpointed_blocks(decoder):
            assert "forward" in vars(first)
            raise RuntimeError("midway")
    assert "forward" not in vars(first) and second.forward is own


def test_contexts_of_two_threads_that_overlap_leave_nothing_behind():
    decoder, *_ = example(wan(), 1)
    first, second = checkpointed_blocks(decoder), checkpointed_blocks(decoder)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert all("forward" in vars(layer) for layer in layers_of(decoder)), "the second's"
    second.__exit__(None, None, None)
    assert not any("forward" in vars(layer) for layer in layers_of(decoder))


class Reading(nn.Module):
    """A block that reads one entry of the cache of all, and replaces it."""

    def __init__(self, index: int):
        super().__init__()
        self.index = index

    def forward(self, x, cache):
        past = cache[self.index]
        cache[self.index] = x.sin()
        return x + past


def test_a_layer_keeps_only_what_it_reads():
    """Or what a layer has left for the next group would live as long as the graph of all layers after it."""
    blocks = [Reading(index) for index in range(3)]
    decoder = type("Three", (), {"layers": lambda self: blocks})()
    x = torch.linspace(-1, 1, 5).requires_grad_()
    cache = [torch.full((5,), float(index)) for index in range(3)]
    with checkpointed_blocks(decoder):
        y = x
        for block in blocks:
            y = block(y, cache)
    left = [weakref.ref(value) for value in cache]
    cache.clear()
    assert [ref() for ref in left] == [None] * 3
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones(5))


@pytest.mark.parametrize("use", [lambda cache: list(cache), lambda cache: cache.append(cache[-1]) or cache[1:],
                                 lambda cache: cache.pop(0) + cache[0] and cache.copy(), lambda cache: [*cache, cache[0]][::-1]])
def test_layers_may_use_lists_as_they_like(use):
    class Using(nn.Module):
        def forward(self, x, cache):
            for past in use(cache):
                x = x * past
            return x.sin()

    results = []
    for checkpoint in (False, True):
        block = Using()
        x = torch.linspace(-1, 1, 1, dtype=torch.float64).requires_grad_()
        cache = [(x * k).cos() for k in range(3)]
        decoder = type("One", (), {"layers": lambda self: [block]})()  # noqa: B023
        with checkpointed_blocks(decoder) if checkpoint else torch.enable_grad():
            y = block(x, cache)
        results.append((torch.autograd.grad(y + sum(cache), x)[0], len(cache)))
    assert torch.equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]


def test_norms_go_frame_by_frame_where_the_graph_is_to_be_small():
    decoder, latents, state = later_group("wan2.1")
    seen = []
    hooks = [norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[2]))
             for norm in decoder.framewise_layers()]
    whole = [norm.forward for norm in decoder.framewise_layers()]
    with checkpointed_blocks(decoder):
        frames, _ = decoder.decode_group(latents, state)
    torch.autograd.grad(frames.sum(), latents)
    for hook in hooks:
        hook.remove()
    assert max(seen) > 1, "hooks see all frames, as before"
    assert [norm.forward for norm in decoder.framewise_layers()] == whole
    calls, norm = [], decoder.framewise_layers()[-1]
    norm.forward = lambda x: calls.append(x.shape[2]) or type(norm).forward(norm, x)
    with checkpointed_blocks(decoder):
        frames, _ = decoder.decode_group(latents, state)
    assert calls == [1] * frames.shape[2]


@pytest.mark.parametrize("name", ["wan2.1", *LAYERED])
def test_other_threads_and_passes_without_grad_are_left_alone(name):
    decoder, latents, _, _ = example(DECODERS[name](), 1, side=False)
    plain, _ = decoder.decode_group(latents, None)
    found = []
    with checkpointed_blocks(decoder):
        thread = threading.Thread(target=lambda: found.append(decoder.decode_group(latents, None)[0]))
        thread.start()
        thread.join()
        with torch.no_grad():
            found.append(decoder.decode_group(latents, None)[0])
    assert all(torch.equal(frames, plain) for frames in found)
    assert not found[1].requires_grad


@pytest.mark.parametrize("name", ["wan2.1", *LAYERED])
def test_another_thread_decodes_while_a_layer_is_run_again(name):
    """In the middle of a layer, forward and backward, another thread decodes another group."""
    vae = DECODERS[name]()
    decoder, latents, _, _ = example(vae, 3, side=False)
    first, second = (latents[:, :, group] for group in decoder.groups(3)[:2])
    _, state = decoder.decode_group(first, None)
    plain, _ = decoder.decode_group(2 * second, state)
    expected, = torch.autograd.grad(decoder.decode_group(second, state)[0].square().sum(), latents, retain_graph=True)
    here, found = threading.get_ident(), []

    def other_thread(_module, _inputs):
        if threading.get_ident() == here:
            thread = threading.Thread(target=lambda: found.append(decoder.decode_group(2 * second, state)[0]))
            thread.start()
            thread.join()

    inside = [module for key, module in vae.decoder.named_modules() if key.endswith("norm2")]
    handles = [module.register_forward_pre_hook(other_thread) for module in inside]
    with checkpointed_blocks(decoder):
        frames, _ = decoder.decode_group(second, state)
    gradient, = torch.autograd.grad(frames.square().sum(), latents)
    for handle in handles:
        handle.remove()
    assert torch.allclose(gradient, expected, rtol=1e-9) and len(found) == 2 * len(inside)
    assert all(torch.equal(frames, plain) for frames in found)


@pytest.mark.parametrize("name", ["wan2.1", *LAYERED])
def test_hooks_on_layers_are_not_run_again(name):
    """Nor need they be there any more: what they add to a layer's output enters outside of it."""
    vae = DECODERS[name]()
    decoder, latents, _, _ = example(vae, 1, side=False)
    block = getattr(decoder.layers()[1], "module", decoder.layers()[1])  # the autoencoder's own
    added, runs, found = torch.tensor(0.3, dtype=torch.float64).requires_grad_(), [], []

    def add(_module, _inputs, output):
        runs.append(None)
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    for checkpoint in (False, True):
        handle = block.register_forward_hook(add)
        with checkpointed_blocks(decoder) if checkpoint else torch.enable_grad():
            frames, _ = decoder.decode_group(latents, None)
        handle.remove()
        found.append(torch.autograd.grad(frames.square().sum(), [latents, added]))
    assert len(runs) == 2 and found[0][1].abs() > 0
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(*found))


class Counting(nn.Module):
    """A block with caches of several kinds, all of which it changes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.runs = 0

    def forward(self, x, cache, words=(), named=None):
        self.runs += 1
        past = cache[1][0] if cache[1] else 0
        named["count"] += 1
        named["seen"] = x * named["count"]
        cache[1] = (torch.sin(self.weight * x + past), *cache[1])
        cache.append(words[0])
        return torch.tanh(cache[1][0] * self.weight), named["count"]


def test_caches_in_lists_and_dicts_are_written_once_and_carry_gradients():
    results = []
    for checkpoint in (False, True):
        block = Counting()
        x = torch.linspace(-1, 1, 5, dtype=torch.float64).requires_grad_()
        cache, named = [3, ()], {"count": 0}
        decoder = type("One", (), {"layers": lambda self: [block]})()  # noqa: B023
        y = x
        with checkpointed_blocks(decoder) if checkpoint else torch.enable_grad():
            for _ in range(3):
                y, count = block(y, cache, words=("a",), named=named)
        outputs = y.sum() + 0.3 * cache[1][1].sum() + named["seen"].sum()
        found = torch.autograd.grad(outputs, [x, block.weight])
        results.append((found, count, named["count"], cache[2:], block.runs))
    (plain, *rest, _), (checked, *same, runs) = results
    assert same == rest == [3, 3, ["a", "a", "a"]] and runs == 6
    assert all(torch.equal(a, b) for a, b in zip(plain, checked))


def test_decoders_without_layers_are_told_what_to_do():
    decoder, latents, target, side = example(Echo())
    with pytest.raises(ValueError, match=r"Echo names no layers to checkpoint: .* a method layers\(\)"):
        pixel_loss(latents, target, decoder, curved, Exact(checkpoint_blocks=True), side=side)
    assert not decoder.calls[2:], "nothing is decoded first"
