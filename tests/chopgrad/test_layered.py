"""Adapters that give an autoencoder's modules their cache as an argument."""

import copy
import pickle
import threading

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, as_causal_decoder, pixel_loss
from chopgrad_ns.chopgrad.block_checkpoint import checkpointed_blocks
from chopgrad_ns.chopgrad.meter import peak_bytes
from tests.chopgrad.decoders import CLIP, DECODERS, LAYERED, curved, decode, difference, example, gradients, later_group
from tests.chopgrad.meters import SavedBytes


@pytest.mark.parametrize("name", DECODERS)
def test_autoencoders_are_copied_and_pickled_as_before(name):
    """With an adapter around them, which is copied together with its autoencoder."""
    vae = DECODERS[name]()
    decoder, latents, target, side = example(vae, CLIP.get(name, 3), size=2)
    names = set(vae.state_dict())
    loss, expected = gradients((decoder, latents, target, side), curved, Exact(checkpoint_blocks=True))
    for copied in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert set(copied.vae.state_dict()) == names and not set(copied.parameters()) & set(vae.parameters())
        found_loss, found = gradients((copied, latents, target, side), curved, Exact(checkpoint_blocks=True))
        assert torch.allclose(found_loss, loss, rtol=1e-9) and difference(found, expected) <= 1e-9
    for copied in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        with torch.no_grad():
            assert torch.equal(decode(as_causal_decoder(copied), latents), decode(decoder, latents))


@pytest.mark.parametrize("name", ["mochi", *LAYERED])
def test_modules_exchanged_after_the_adapter_are_noticed(name):
    vae = DECODERS[name]()
    decoder, latents, _, _ = example(vae, 3, size=2, side=False)
    first = latents[:, :, decoder.groups(latents.shape[2])[0]]
    expected, _ = decoder.decode_group(first, None)
    vae.decoder.up_blocks[0] = copy.deepcopy(vae.decoder.up_blocks[0])
    with pytest.raises(ValueError, match=f"modules of this {type(vae).__name__} were exchanged.*make the adapter again"):
        decoder.decode_group(first, None)
    assert torch.equal(as_causal_decoder(vae).decode_group(first, None)[0], expected)
    up = vae.decoder.up_blocks[0]
    up.forward = up.forward  # as accelerate's hooks leave one
    with pytest.raises(ValueError, match="another library has replaced their forward"):
        as_causal_decoder(vae).decode_group(first, None)


@pytest.mark.parametrize("name", LAYERED)
def test_layers_of_two_adapters_in_two_threads(name):
    """Each thread takes gradients through an adapter of its own, of the same autoencoder, at the same time."""
    vae = DECODERS[name]()
    _, latents, target, _ = example(vae, 3, side=False)
    vae.requires_grad_(False)

    def gradient(strategy):
        loss = pixel_loss(latents, target, as_causal_decoder(vae), curved, strategy)
        return torch.autograd.grad(loss, latents)[0]

    expected, found = gradient(Full()), []
    threads = [threading.Thread(target=lambda: [found.append(gradient(Exact(checkpoint_blocks=True))) for _ in range(3)])
               for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and all(torch.allclose(each, expected, rtol=1e-9, atol=1e-12) for each in found)


@pytest.mark.parametrize("name", ["mochi", *LAYERED])
def test_a_group_takes_its_blocks_inputs_and_one_block(name):
    """By the allocator's account, to which blocks run again count as well."""
    decoder, latents, state = later_group(name)
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    blocks = peaks_of_layers(decoder, latents, state)

    def group(checkpoint):
        with checkpointed_blocks(decoder) if checkpoint else torch.enable_grad():
            frames, _ = decoder.decode_group(latents, state)
        torch.autograd.grad(frames.sum(), latents)

    with SavedBytes() as inputs, checkpointed_blocks(decoder):
        kept = decoder.decode_group(latents, state)
    del kept
    whole, checked = (peak_bytes(lambda: group(checkpoint), latents.device) for checkpoint in (False, True))
    assert checked < inputs.peak + max(blocks) and checked < 0.95 * whole
    assert len(blocks) == len(decoder.layers())


def peaks_of_layers(decoder, latents, state):
    """What each layer of an adapter's making takes forward and backward by itself, in bytes."""
    found = []

    def measured(forward):
        def run(x, past, **given):
            @torch.enable_grad()
            def alone():
                output = forward(x.detach().requires_grad_(), past=list(past), **given)
                (output[0] if isinstance(output, tuple) else output).sum().backward()

            found.append(peak_bytes(alone, x.device))
            return forward(x, past=past, **given)

        return run

    for layer in decoder.layers():
        layer.forward = measured(layer.forward)
    with torch.no_grad():
        decoder.decode_group(latents, state)
    for layer in decoder.layers():
        del layer.forward
    return found
