"""The adapters against the autoencoders they wrap."""

import threading
from unittest import mock

import pytest
import torch
from diffusers import AutoencoderKL

from chopgrad_ns.chopgrad import CausalDecoder, Exact, Full, Truncated, as_causal_decoder
from chopgrad_ns.chopgrad.interface import map_state, state_tensors
from tests.chopgrad.decoders import CLIP, DECODERS, Echo, curved, decode, difference, example, gradients, wan

CLAMPED = ("wan", "qwen")
EVERY = pytest.mark.parametrize("name", DECODERS)


def clip_of(name, dtype=torch.float32, batch=1, side=True):
    vae = DECODERS[name](dtype)
    return vae, *example(vae, CLIP.get(name, 3), batch, size=2, dtype=dtype, side=side)


def random_latents(batch, frames, dtype=torch.float32, size=2):
    return torch.randn(batch, 4, frames, size, size, generator=torch.Generator().manual_seed(frames), dtype=dtype)


def whole(vae, decoder, latents):
    """`vae.decode`, with its first convolution, if it has one before the decoder, a group at a time.

    diffusers runs that one over the whole clip at once, and on some processors the last bits of a frame depend on how
    many there are.
    """
    first = getattr(vae, "post_quant_conv", None)
    parts = [latents[:, :, group] for group in decoder.groups(latents.shape[2])]
    with torch.no_grad():
        plain = vae.decode(latents).sample
        if first is None:
            return plain
        made = torch.cat([first(part) for part in parts], dim=2)
        with mock.patch.object(first, "forward", lambda _: made):
            exact = vae.decode(latents).sample
    torch.testing.assert_close(exact, plain, rtol=0, atol=1e-4)
    return exact


@pytest.mark.parametrize("name", [name for name in DECODERS if name != "mochi, framewise"])
@pytest.mark.parametrize("batch, latent_frames", [(1, 1), (2, 1), (1, 2), (2, 3), (1, 4), (2, 5), (1, 6), (1, 10), (2, 10)])
def test_joined_groups_are_the_decoded_clip_bit_for_bit(name, batch, latent_frames):
    vae = DECODERS[name](torch.float32)
    decoder, latents = as_causal_decoder(vae), random_latents(batch, latent_frames)
    expected = whole(vae, decoder, latents)
    with torch.no_grad():
        frames = decode(decoder, latents)
        assert torch.equal(decoder.decode(latents), frames)
    clamped = name.startswith(CLAMPED)
    assert torch.equal(frames.clamp(-1, 1) if clamped else frames, expected)
    assert latent_frames < 3 or torch.equal(frames, expected) != clamped, "the clamp is to have something to do"
    assert decoder.num_frames(latent_frames) == expected.shape[2]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("dropping", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_mochi_in_groups_is_mochi_in_one_piece(size, dropping, dtype, tolerance):
    vae = DECODERS["mochi"](dtype)
    vae.drop_last_temporal_frames, vae.num_latent_frames_batch_size = dropping, size
    decoder, latents = as_causal_decoder(vae), random_latents(2, 5, dtype)
    with torch.no_grad():
        expected = vae.decode(latents).sample
        vae.use_framewise_decoding = True
        assert len(decoder.groups(5)) == {1: 5, 2: 3, 3: 2}[size]
        assert torch.allclose(decode(decoder, latents), expected, rtol=0, atol=tolerance)
        assert not torch.allclose(vae.decode(latents).sample, expected, atol=0.1), "diffusers drops the past by now"
    assert decoder.num_frames(5) == expected.shape[2] == (25 if dropping else 30)


def test_mochi_without_padding_is_refused():
    vae = DECODERS["mochi"](torch.float32)
    vae._enable_framewise_decoding()
    with pytest.raises(RuntimeError):
        vae.decode(random_latents(1, 3))
    with pytest.raises(ValueError, match="lost their padding in space"):
        as_causal_decoder(vae)


@EVERY
@pytest.mark.parametrize("latent_frames", range(12))
def test_groups_and_their_frames_follow_each_other(name, latent_frames):
    vae = DECODERS[name](torch.float32)
    for size in {1, 2, 3, getattr(vae, "num_latent_frames_batch_size", 1)}:
        vae.num_latent_frames_batch_size = size
        decoder = as_causal_decoder(vae)
        groups = decoder.groups(latent_frames)
        spans = [decoder.frames_of(group) for group in groups]
        for parts, stop in ((groups, latent_frames), (spans, decoder.num_frames(latent_frames) if groups else 0)):
            assert [part.start for part in parts] == [0, *(part.stop for part in parts)][:len(parts)]
            assert not parts or parts[-1].stop == stop
            assert all(part.stop > part.start for part in parts)


@pytest.mark.parametrize("name, latent_frames, groups, frames", [
    ("wan2.1", 3, [1, 1, 1], [1, 2, 2]), ("wan2.1, twice in time", 3, [1, 1, 1], [1, 4, 4]),
    ("qwen-image", 3, [1, 1, 1], [1, 2, 2]),
    ("cogvideox", 1, [1], [1]), ("cogvideox", 4, [2, 2], [8, 8]), ("cogvideox", 7, [3, 2, 2], [9, 8, 8]),
    ("mochi", 5, [5], [25]), ("mochi, framewise", 5, [2, 2, 1], [7, 12, 6]),
    ("magvit", 3, [1, 1, 1], [1, 2, 2]),
    ("kvae", 10, [5, 4, 1], [17, 16, 1]), ("kvae", 11, [5, 4, 2], [17, 16, 8]), ("kandinsky-6", 10, [5, 4, 1], [17, 16, 4]),
])
def test_sizes_of_groups(name, latent_frames, groups, frames):
    decoder = as_causal_decoder(DECODERS[name](torch.float32))
    found = decoder.groups(latent_frames)
    assert [group.stop - group.start for group in found] == groups
    assert [decoder.frames_of(group).stop - decoder.frames_of(group).start for group in found] == frames


@pytest.mark.parametrize("name", ["cogvideox", "magvit"])
@pytest.mark.parametrize("size", [1, 3])
def test_other_sizes_of_groups(name, size):
    vae = DECODERS[name](torch.float32)
    vae.num_latent_frames_batch_size = size
    decoder = as_causal_decoder(vae)
    for latent_frames in (2, 5, 7):
        latents = random_latents(1, latent_frames)
        with torch.no_grad():
            assert torch.equal(decode(decoder, latents), whole(vae, decoder, latents))
        assert decoder.num_frames(latent_frames) == decode(decoder, latents).shape[2]


@EVERY
def test_decoding_a_group_changes_nothing(name):
    vae, decoder, latents, _, side = clip_of(name, torch.float64)
    weights = {key: value.clone() for key, value in vae.state_dict().items()}
    groups = decoder.groups(latents.shape[2])
    state = decoder.initial_state()
    for index, group in enumerate(groups):
        before = [(tensor._version, tensor.clone()) for tensor in state_tensors(state)]
        first, after = decoder.decode_group(latents[:, :, group], state, side[index])
        decoder.decode_group(latents[:, :, groups[0]], decoder.initial_state())  # must leave nothing behind either
        second, again = decoder.decode_group(latents[:, :, group], state, side[index])
        assert torch.equal(first, second)
        assert all(torch.equal(a, b) for a, b in zip(state_tensors(after), state_tensors(again), strict=True))
        for (version, value), tensor in zip(before, state_tensors(state), strict=True):
            assert tensor._version == version and torch.equal(tensor, value)
        state = after
    assert isinstance(state, tuple) and state_tensors(state)
    assert all(torch.equal(value, weights[key]) for key, value in vae.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vae.modules())
    assert all(getattr(module, "prev_features", None) is None for module in vae.modules())


@EVERY
def test_states_are_nested_tuples_and_complete(name):
    """What comes out of a state put through another device, process or file is all that the next group needs."""
    _, decoder, latents, _, _ = clip_of(name)

    def copied(part):
        assert part is None or isinstance(part, (tuple, str, torch.Tensor))
        return tuple(copied(each) for each in part) if isinstance(part, tuple) else part

    state, parts = decoder.initial_state(), []
    with torch.no_grad():
        for group in decoder.groups(latents.shape[2]):
            fresh = as_causal_decoder(decoder.vae)
            frames, state = fresh.decode_group(latents[:, :, group], map_state(torch.Tensor.clone, copied(state)))
            parts.append(frames)
        assert torch.equal(torch.cat(parts, dim=2), decode(decoder, latents))


@EVERY
def test_parameters_are_those_that_frames_depend_on(name):
    vae, decoder, latents, _, _ = clip_of(name, side=False)
    parameters = list(decoder.parameters())
    found = torch.autograd.grad(decode(decoder, latents).square().sum(), parameters, allow_unused=True)
    assert all(gradient is not None for gradient in found)
    others = {id(p) for p in vae.parameters()} - {id(p) for p in parameters}
    encoding = [*vae.encoder.parameters(), *(vae.quant_conv.parameters() if getattr(vae, "quant_conv", None) else ())]
    assert others == {id(p) for p in encoding}


@EVERY
def test_side_tensors_are_added_to_block_outputs(name):
    vae, decoder, latents, _, _ = clip_of(name)
    group = decoder.groups(latents.shape[2])[0]
    plain, _ = decoder.decode_group(latents[:, :, group], None)
    for block in decoder.blocks:
        seen = []
        handle = vae.decoder.get_submodule(block).register_forward_hook(lambda _m, _i, out: seen.append(out))
        decoder.decode_group(latents[:, :, group], None)
        output = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        added = torch.randn_like(output).requires_grad_()
        frames, _ = decoder.decode_group(latents[:, :, group], None, {block: added})
        handle.remove()
        handle = vae.decoder.get_submodule(block).register_forward_hook(
            lambda _m, _i, out: (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added)
        expected, _ = decoder.decode_group(latents[:, :, group], None)
        handle.remove()
        assert torch.equal(frames, expected) and not torch.allclose(frames, plain, atol=1e-2), block
        gradient, = torch.autograd.grad(frames.square().sum(), added)
        assert gradient.norm() > 0


@EVERY
def test_side_tensors_that_do_not_fit_are_refused_and_leave_no_hook(name):
    vae, decoder, latents, _, good = clip_of(name)
    group = decoder.groups(latents.shape[2])[0]
    blocks = decoder.blocks
    for side, message in [({"conv_in": torch.zeros(1)}, f"no block 'conv_in'.*{', '.join(blocks)}$"),
                          ({f"{blocks[-1]}0": torch.zeros(1)}, f"no block '{blocks[-1]}0'"),
                          ({blocks[0]: torch.zeros(1, 1, 1, 1, 1)}, f"{blocks[0]} has shape")]:
        with pytest.raises(ValueError, match=message):
            decoder.decode_group(latents[:, :, group], None, {**good[0], **side})
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in vae.decoder.modules())


@EVERY
def test_two_threads_at_once(name):
    """In the middle of one group's decoding, another thread decodes the group before it without side tensors."""
    vae, decoder, latents, _, side = clip_of(name)
    groups = decoder.groups(latents.shape[2])
    first, state = decoder.decode_group(latents[:, :, groups[0]], None)
    here = (latents[:, :, groups[-1]], None, side[0]) if len(groups) == 1 else (latents[:, :, groups[1]], state, side[1])
    alone, after = decoder.decode_group(*here)
    meanwhile = []

    def other_thread(_module, _inputs):
        if meanwhile:
            return
        meanwhile.append(None)
        thread = threading.Thread(target=lambda: meanwhile.append(decoder.decode_group(latents[:, :, groups[0]], None)))
        thread.start()
        thread.join()

    handle = vae.decoder.get_submodule(decoder.blocks[1]).register_forward_pre_hook(other_thread)
    frames, again = decoder.decode_group(*here)
    handle.remove()
    assert torch.equal(meanwhile[1][0], first) and torch.equal(frames, alone)
    for found, expected in ((again, after), (meanwhile[1][1], state)):
        assert all(torch.equal(a, b) for a, b in zip(state_tensors(found), state_tensors(expected), strict=True))


@pytest.mark.parametrize("name", ["cogvideox", "mochi", "magvit", "kvae"])
def test_diffusers_own_checkpointing_is_refused(name):
    vae = DECODERS[name](torch.float32)
    vae.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match="gradient checkpointing is on.*disable_gradient_checkpointing"):
        as_causal_decoder(vae).decode_group(random_latents(1, 1), None)


def test_unknown_classes_are_told_what_to_do():
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)
    with pytest.raises(TypeError, match="AutoencoderKL has no adapter.*AutoencoderKLWan.*AutoencoderKLCogVideoX.*"
                                        "AutoencoderKLMochi.*AutoencoderKLMagvit.*subclass.*CausalDecoder.*interface.py"):
        as_causal_decoder(vae)


def test_subclasses_have_the_adapter_of_their_class():
    vae = wan()
    vae.__class__ = type("MyWan", (type(vae),), {})
    assert type(as_causal_decoder(vae)).__name__ == "WanDecoder"


@pytest.mark.parametrize("name", [name for name in DECODERS if name.startswith(("wan", "qwen"))])
def test_parametrized_convolutions_are_counted(name):
    """parametrize (of weight norm, say) gives a module a class of its own."""
    vae = DECODERS[name](torch.float64)
    latents = random_latents(1, 3, torch.float64)
    with torch.no_grad():
        expected, layers = decode(as_causal_decoder(vae), latents), len(as_causal_decoder(vae).layers())
        for module in [m for m in vae.decoder.modules() if type(m).__name__.endswith("CausalConv3d")]:
            torch.nn.utils.parametrizations.weight_norm(module)
        frames = decode(as_causal_decoder(vae), latents)
    assert len(as_causal_decoder(vae).layers()) == layers
    assert torch.allclose(frames, expected, rtol=1e-9)


class Smear(torch.nn.Module):
    """A decoder as somebody else would have it: a causal convolution in time, then two frames to a latent frame."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(3, 3, 3, 1, 1, generator=generator, dtype=torch.float64))

    def forward(self, latents):
        padded = torch.nn.functional.pad(latents, (0, 0, 0, 0, 2, 0))
        return torch.tanh(torch.nn.functional.conv3d(padded, self.weight)).repeat_interleave(2, dim=2)


class SmearDecoder(CausalDecoder):
    """Its adapter, written as interface.py says: three latent frames a group, the state the last two latent frames."""

    def __init__(self, module):
        self.module = module

    def groups(self, num_latent_frames):
        return [slice(i, min(i + 3, num_latent_frames)) for i in range(0, num_latent_frames, 3)]

    def frames_of(self, group):
        return slice(2 * group.start, 2 * group.stop)

    def initial_state(self):
        return None

    def parameters(self):
        return self.module.parameters()

    def decode_group(self, latents, state, side=None):
        if side is not None:
            latents = latents + side["more"]
        past = torch.zeros_like(latents[:, :, :1]).expand(-1, -1, 2, -1, -1) if state is None else state[0]
        seen = torch.cat([past, latents], dim=2)
        return self.module(seen)[:, :, 4:], (seen[:, :, -2:],)


@pytest.mark.parametrize("latent_frames", [2, 3, 8])
def test_an_adapter_of_ones_own(latent_frames):
    module = Smear()
    decoder = as_causal_decoder(SmearDecoder(module))
    latents = torch.randn(1, 3, latent_frames, 2, 2, dtype=torch.float64).requires_grad_()
    frames = decode(decoder, latents)
    assert torch.allclose(frames, module(latents), rtol=1e-12)
    target = torch.rand_like(frames).detach() * 2 - 1
    side = [{"more": torch.full_like(latents[:, :, group], 0.1).detach().requires_grad_()}
            for group in decoder.groups(latent_frames)]
    _, expected = gradients((decoder, latents, target, side), curved, Full())
    assert len(expected) == 2 + len(side)
    for backprop in (Exact(), Exact(offload="cpu", keep_every=2), Truncated(2)):
        assert difference(gradients((decoder, latents, target, side), curved, backprop)[1], expected) < 1e-9
    if len(side) > 1:
        assert difference(gradients((decoder, latents, target, side), curved, Truncated(0))[1], expected) > 1e-2


def test_decoders_are_taken_as_they_are():
    echo = Echo()
    assert as_causal_decoder(echo) is echo

    class Plain:
        """The same methods without the base class."""

        groups, frames_of, initial_state = echo.groups, echo.frames_of, echo.initial_state
        decode_group, parameters = echo.decode_group, echo.parameters

    plain = Plain()
    assert as_causal_decoder(plain) is plain
