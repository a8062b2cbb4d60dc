"""Decoders at toy size, and what the tests compare."""

import functools

import diffusers
import torch
from diffusers.utils import logging

from chopgrad_ns.chopgrad import CausalDecoder, as_causal_decoder, pixel_loss

logging.set_verbosity_error()  # about casting to float64

WAN = {
    "2.1": {"dim_mult": [1, 2, 2], "temperal_downsample": [False, True]},
    "2.1, twice in time": {"dim_mult": [1, 2, 2], "temperal_downsample": [True, True]},
    "2.2": {"dim_mult": [1, 2, 2], "temperal_downsample": [False, True], "is_residual": True, "patch_size": 2,
            "in_channels": 12, "out_channels": 12, "decoder_base_dim": 8},
}


def wan(kind: str = "2.1", dtype: torch.dtype = torch.float64):
    """A Wan autoencoder."""
    return _random(diffusers.AutoencoderKLWan, dtype, base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4,
                   latents_std=[1.0] * 4, **WAN[kind])


def _random(cls, dtype: torch.dtype, **config):
    """A real autoencoder of four latent channels with random weights, gains included, so that no gradient is small by
    accident."""
    torch.manual_seed(3)
    vae = cls(**config)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    if dtype == torch.float64:
        for module in vae.decoder.modules():
            _keep_double(module)
    return vae.to(dtype).eval()


def _keep_double(module: torch.nn.Module) -> None:
    """Replace children that pass through float32, which would hide differences smaller than its rounding."""
    for name, child in module.named_children():
        if type(child).__name__ in ("WanUpsample", "QwenImageUpsample"):
            setattr(module, name, torch.nn.Upsample(scale_factor=child.scale_factor, mode=child.mode))
        elif type(child).__name__ == "Kandinsky6VAERMSNorm":
            setattr(module, name, DoubleNorm(child))


class DoubleNorm(torch.nn.Module):
    """Kandinsky 6's normalisation without its passage through float32."""

    def __init__(self, norm: torch.nn.Module):
        super().__init__()
        self.scale, self.gamma = norm.scale, norm.gamma

    def forward(self, x):
        return torch.nn.functional.normalize(x, dim=1) * self.scale * self.gamma


_DIFFUSERS = {
    "qwen-image": ("AutoencoderKLQwenImage", {
        "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "temperal_downsample": [False, True], "num_res_blocks": 1,
        "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}),
    "cogvideox": ("AutoencoderKLCogVideoX", {
        "block_out_channels": (4, 4, 8), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
        "down_block_types": ("CogVideoXDownBlock3D",) * 3, "up_block_types": ("CogVideoXUpBlock3D",) * 3}),
    # Its norms have 32 groups, as K-VAE's: of two channels, since one alone would take out the gradient of biases.
    "mochi": ("AutoencoderKLMochi", {
        "encoder_block_out_channels": (32, 32, 32, 32), "decoder_block_out_channels": (64, 64, 64, 64),
        "latent_channels": 4, "layers_per_block": (1, 1, 1, 1, 1), "spatial_expansions": (2, 1, 1)}),
    "magvit": ("AutoencoderKLMagvit", {
        "block_out_channels": [4, 4, 8], "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
        "down_block_types": ["SpatialDownBlock3D"] + ["SpatialTemporalDownBlock3D"] * 2,
        "up_block_types": ["SpatialUpBlock3D"] + ["SpatialTemporalUpBlock3D"] * 2}),
    "kvae": ("AutoencoderKLKVAEVideo", {"ch": 64, "ch_mult": (1, 1, 1), "num_res_blocks": 1, "z_channels": 4}),
    "kandinsky-6": ("Kandinsky6SRVAE", {
        "encoder_block_out_channels": (4, 8, 8), "decoder_block_out_channels": (4, 8, 8), "latent_channels": 4,
        "layers_per_block": 1, "temporal_compression_start_level": 0}),
}


def _of_diffusers(name: str, dtype: torch.dtype = torch.float64):
    cls, config = _DIFFUSERS[name]
    return _random(getattr(diffusers, cls), dtype, **config)


def framewise_mochi(dtype: torch.dtype = torch.float64):
    vae = _of_diffusers("mochi", dtype)
    vae.use_framewise_decoding = True
    return vae


DECODERS = {**{f"wan{kind}": functools.partial(wan, kind) for kind in WAN},
            **{name: functools.partial(_of_diffusers, name) for name in _DIFFUSERS}, "mochi, framewise": framewise_mochi}
"""Factories: `DECODERS[name](dtype)` is an autoencoder of diffusers."""
LAYERED = ("magvit", "mochi, framewise")
"""Those that decode in groups by layers which their adapter makes."""
CLIP = {"cogvideox": 7, "mochi": 3, "mochi, framewise": 5, "kvae": 10, "kandinsky-6": 10}
"""Latent frames that make three groups (of Mochi the one), the first or the last uneven where a class has that; else 3."""


class Echo(CausalDecoder):
    """Two latent frames a group, three frames each; the past comes back through a nested state of mixed leaves."""

    def __init__(self, dtype=torch.float64):
        generator = torch.Generator().manual_seed(5)
        self.mix, self.memory, self.unused = (
            torch.randn(3, 3, generator=generator, dtype=dtype).requires_grad_() for _ in range(3))
        self.calls = []

    def groups(self, num_latent_frames):
        return [slice(i, min(i + 2, num_latent_frames)) for i in range(0, num_latent_frames, 2)]

    def frames_of(self, group):
        return slice(3 * group.start, 3 * group.stop)

    def initial_state(self):
        return ("start", None, ())

    def parameters(self):
        yield from (self.mix, self.memory, self.unused)

    def decode_group(self, latents, state, side=None):
        self.calls.append(torch.is_grad_enabled())
        word, echo, (*count,) = state
        x = torch.einsum("dc,bcthw->bdthw", self.mix, latents)
        if side:
            x = x + side["bias"]
        if word == "going":
            x = torch.tanh(x + torch.einsum("dc,bcthw->bdthw", self.memory, echo * count[0]))
        frames = x.repeat_interleave(3, dim=2)
        frames = frames * torch.linspace(0.5, 1.5, frames.shape[2], dtype=x.dtype).view(1, 1, -1, 1, 1)
        steps = count[0] + 1 if count else torch.tensor(1)
        return frames, ("going", x[:, :, -1:], (steps,))


def example(vae_or_decoder, latent_frames: int = 4, batch: int = 1, size: int = 3, dtype=torch.float64, side: bool = True,
            seed: int = 11):
    """A decoder, latents, target, side tensors (for diffusers' classes: of the first two blocks)."""
    decoder = as_causal_decoder(vae_or_decoder)
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    channels = 3 if isinstance(vae_or_decoder, Echo) else 4
    latents = draw(batch, channels, latent_frames, size, size).requires_grad_()
    with torch.no_grad():
        frames = decode(decoder, latents)
    target = torch.rand(frames.shape, generator=generator, dtype=dtype) * 2 - 1
    sides = None
    if side:
        shapes = _side_shapes(vae_or_decoder, decoder, latents)
        sides = [{name: 0.3 * draw(*shape) for name, shape in group.items()} for group in shapes]
        for group in sides:
            for value in group.values():
                value.requires_grad_()
    return decoder, latents, target, sides


def later_group(name):
    """A decoder, the latents of its third group (Mochi's one) and the state before it."""
    decoder, latents, _, _ = example(DECODERS[name](torch.float32), 5 if name.startswith("mochi") else 3, size=8,
                                     dtype=torch.float32, side=False)
    state, (*before, group) = decoder.initial_state(), decoder.groups(latents.shape[2])
    with torch.no_grad():
        for earlier in before:
            _, state = decoder.decode_group(latents[:, :, earlier], state)
    return decoder, latents.detach()[:, :, group].requires_grad_(), state


def _side_shapes(source, decoder, latents):
    if isinstance(source, Echo):
        return [{"bias": tuple(latents[:, :, group].shape)} for group in decoder.groups(latents.shape[2])]
    seen = []

    def note(name):
        return lambda _m, _i, out: seen[-1].__setitem__(name, tuple((out[0] if isinstance(out, tuple) else out).shape))

    handles = [source.decoder.get_submodule(name).register_forward_hook(note(name)) for name in decoder.blocks[:2]]
    state = decoder.initial_state()
    with torch.no_grad():
        for group in decoder.groups(latents.shape[2]):
            seen.append({})
            _, state = decoder.decode_group(latents[:, :, group], state)
    for handle in handles:
        handle.remove()
    return seen


def decode(decoder, latents, side=None):
    state, parts = decoder.initial_state(), []
    for index, group in enumerate(decoder.groups(latents.shape[2])):
        frames, state = decoder.decode_group(latents[:, :, group], state, None if side is None else side[index])
        parts.append(frames)
    return torch.cat(parts, dim=2)


def curved(prediction, target):
    """A per-frame loss whose gradient differs from pixel to pixel."""
    return ((prediction - target) ** 2 + 0.3 * torch.sin(3 * prediction)).mean(dim=(1, 3, 4))


def looking_back(frames: int):
    """A loss of each frame against the `frames` before it, so that its gradient crosses groups by the pixels."""

    def loss(prediction, target):
        value = curved(prediction, target)
        for back in range(1, frames + 1):
            now, past = prediction[:, :, back:], prediction[:, :, :-back]
            tied = (now * past.roll(back, dims=1)).mean(dim=(1, 3, 4)) / back
            value = value + torch.cat([value.new_zeros(len(value), min(back, value.shape[1])), tied], dim=1)
        return value

    loss.context_frames = frames
    return loss


def gradients(example_, loss_fn, backprop, scale=1.7):
    """The loss and its gradients by latents, side tensors and parameters, as a dict of tensors (absent where None)."""
    decoder, latents, target, side = example_
    sources = {"latents": latents}
    for index, group in enumerate(side or []):
        sources |= {f"side {index} {name}": value for name, value in group.items() if value.requires_grad}
    sources |= {f"parameter {k}": p for k, p in enumerate(decoder.parameters()) if p.requires_grad}
    for tensor in sources.values():
        tensor.grad = None
    loss = pixel_loss(latents, target, decoder, loss_fn, backprop, side=side)
    (scale * loss).backward()
    return loss.detach(), {name: tensor.grad.clone() for name, tensor in sources.items() if tensor.grad is not None}


def difference(found: dict, expected: dict) -> float:
    """The largest relative L2 difference over the tensors of two sets of gradients, which must be of the same."""
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    scale = max(value.norm() for value in expected.values())
    return max(float((found[name] - value).norm() / value.norm().clamp_min(1e-6 * scale)) for name, value in expected.items())
