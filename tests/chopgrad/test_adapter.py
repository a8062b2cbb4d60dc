"""The Wan adapter against the autoencoder it wraps."""

import threading

import pytest
import torch
from diffusers import AutoencoderKL

from chopgrad_ns.chopgrad import as_causal_decoder
from chopgrad_ns.chopgrad.interface import state_tensors
from tests.chopgrad.decoders import WAN, Echo, decode, example, wan


@pytest.mark.parametrize("kind", WAN)
@pytest.mark.parametrize("batch", [1, 2])
def test_joined_groups_are_the_decoded_clip_bit_for_bit(kind, batch):
    vae = wan(kind, torch.float32)
    decoder, latents, _, _ = example(vae, 4, batch, size=4, dtype=torch.float32, side=False)
    with torch.no_grad():
        expected = vae.decode(latents).sample
        frames = decode(decoder, latents)
    assert frames.abs().max() > 1, "the clamp is to have something to do"
    assert torch.equal(frames.clamp(-1, 1), expected)
    assert decoder.num_frames(4) == frames.shape[2]


def test_frames_of_groups():
    decoder = as_causal_decoder(wan("2.1, twice in time"))
    assert decoder.groups(3) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert [decoder.frames_of(group) for group in decoder.groups(3)] == [slice(0, 1), slice(1, 5), slice(5, 9)]
    assert as_causal_decoder(wan("2.1")).num_frames(3) == 5


@pytest.mark.parametrize("kind", WAN)
def test_decoding_a_group_changes_nothing(kind):
    decoder, latents, _, side = example(wan(kind), 3)
    state = decoder.initial_state()
    for index, group in enumerate(decoder.groups(3)):
        before = [(tensor._version, tensor.clone()) for tensor in state_tensors(state)]
        first, after = decoder.decode_group(latents[:, :, group], state, side[index])
        second, again = decoder.decode_group(latents[:, :, group], state, side[index])
        assert torch.equal(first, second)
        assert all(torch.equal(a, b) for a, b in zip(state_tensors(after), state_tensors(again)))
        for (version, value), tensor in zip(before, state_tensors(state)):
            assert tensor._version == version and torch.equal(tensor, value)
        state = after
    assert isinstance(state, tuple)


def test_side_tensors_are_added_to_block_outputs():
    vae = wan()
    decoder, latents, _, side = example(vae, 2)
    seen = {}
    handle = vae.decoder.up_blocks[0].register_forward_hook(lambda _m, _i, out: seen.setdefault("plain", out))
    plain, _ = decoder.decode_group(latents[:, :, :1], None, {"mid_block": side[0]["mid_block"]})
    handle.remove()
    added = {}
    handle = vae.decoder.up_blocks[1].register_forward_pre_hook(lambda _m, args: added.setdefault("in", args[0]))
    frames, _ = decoder.decode_group(latents[:, :, :1], None, side[0])
    handle.remove()
    assert torch.equal(added["in"], seen["plain"] + side[0]["up_blocks.0"])
    assert not torch.equal(frames, plain)
    found = torch.autograd.grad(frames.sum(), list(side[0].values()))
    assert all(gradient.norm() > 0 for gradient in found)


@pytest.mark.parametrize("side, message", [
    ({"up_blocks.7": torch.zeros(1)}, "no block 'up_blocks.7'.*mid_block, up_blocks.0, up_blocks.1"),
    ({"conv_in": torch.zeros(1)}, "no block 'conv_in'"),
    ({"mid_block": torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64)}, "mid_block has shape"),
])
def test_side_tensors_that_do_not_fit_are_refused_and_leave_no_hook(side, message):
    vae = wan()
    decoder, latents, _, good = example(vae, 2)
    with pytest.raises(ValueError, match=message):
        decoder.decode_group(latents[:, :, :1], None, {**good[0], **side})
    assert not any(module._forward_hooks for module in vae.decoder.modules())


def test_side_tensors_stay_in_their_thread():
    vae = wan()
    decoder, latents, _, side = example(vae, 2)
    alone, _ = decoder.decode_group(latents[:, :, :1], None)
    meanwhile = []

    def other_thread(_module, _inputs):
        def decode_there():
            meanwhile.append(decoder.decode_group(latents[:, :, :1], None)[0])

        if not meanwhile:
            meanwhile.append(None)
            thread = threading.Thread(target=decode_there)
            thread.start()
            thread.join()

    handle = vae.decoder.conv_in.register_forward_pre_hook(other_thread)
    decoder.decode_group(latents[:, :, :1], None, side[0])
    handle.remove()
    assert torch.equal(meanwhile[1], alone)


def test_unknown_classes_are_told_what_to_do():
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)
    with pytest.raises(TypeError, match="AutoencoderKL has no adapter.*AutoencoderKLWan.*subclass.*CausalDecoder"):
        as_causal_decoder(vae)


def test_decoders_are_taken_as_they_are():
    echo = Echo()
    assert as_causal_decoder(echo) is echo

    class Plain:
        """The same methods without the base class."""

        groups, frames_of, initial_state = echo.groups, echo.frames_of, echo.initial_state
        decode_group, parameters = echo.decode_group, echo.parameters

    plain = Plain()
    assert as_causal_decoder(plain) is plain
