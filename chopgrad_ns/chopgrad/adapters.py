"""diffusers' video autoencoders as causal decoders. The only file that knows how a class keeps its cache."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from chopgrad_ns.chopgrad.interface import CausalDecoder, Side, State


class WanDecoder(CausalDecoder):
    """`AutoencoderKLWan` (Wan2.1, and Wan2.2 with residual blocks and patches): one latent frame a group.

    The first group gives one frame, every other four (in general: as many as the decoder upsamples in time).
    The state is the list of cached features, None before the first group; entries are None, the string "Rep"
    or tensors, and diffusers replaces entries without changing tensors in place, so a shallow copy keeps this
    function pure.

    Side inputs: "mid_block" and "up_blocks.<i>", each added to that module's output.
    """

    def __init__(self, vae):
        self.vae = vae
        self.temporal_factor = 2 ** sum(vae.temperal_downsample)
        self._slots = sum(type(module).__name__ == "WanCausalConv3d" for module in vae.decoder.modules())

    def groups(self, num_latent_frames: int) -> list[slice]:
        return [slice(i, i + 1) for i in range(num_latent_frames)]

    def frames_of(self, group: slice) -> slice:
        factor = self.temporal_factor
        start = group.start
        return slice(0, 1) if start == 0 else slice(1 + (start - 1) * factor, 1 + start * factor)

    def initial_state(self) -> State:
        return None

    def parameters(self) -> Iterator[Tensor]:
        yield from self.vae.post_quant_conv.parameters()
        yield from self.vae.decoder.parameters()

    def decode_group(self, latents: Tensor, state: State, side: Side | None = None) -> tuple[Tensor, State]:
        first = state is None
        cache = [None] * self._slots if first else list(state)
        x = self.vae.post_quant_conv(latents)
        with _added_to_outputs(self.vae.decoder, side):
            frames = self.vae.decoder(x, feat_cache=cache, feat_idx=[0], first_chunk=first)
        patch = self.vae.config.patch_size
        return (frames if patch is None else _unpatchify(frames, patch)), tuple(cache)


def _unpatchify(x: Tensor, patch: int) -> Tensor:
    """Channels (3 · patch · patch) back to pixels; the patch's columns vary slowest, as Wan2.2 packs them."""
    b, c, t, h, w = x.shape
    x = x.view(b, c // patch**2, patch, patch, t, h, w)
    return x.permute(0, 1, 4, 5, 3, 6, 2).reshape(b, c // patch**2, t, h * patch, w * patch)


@contextlib.contextmanager
def _added_to_outputs(module: torch.nn.Module, side: Side | None) -> Iterator[None]:
    """Within the context, add each tensor of `side` to the output of the sub-module it is named after.

    Hooks sit on a module that other threads may be decoding with (a viewer beside a training): they act in
    this one only.
    """
    handles, here = [], threading.get_ident()
    try:
        for name, value in (side or {}).items():
            handles.append(_block(module, name).register_forward_hook(_adder(name, value, here)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _block(decoder: torch.nn.Module, name: str) -> torch.nn.Module:
    names = ["mid_block", *(f"up_blocks.{i}" for i in range(len(decoder.up_blocks)))]
    if name not in names:
        raise ValueError(f"there is no block {name!r} to add a side tensor to; this decoder has {', '.join(names)}")
    return decoder.get_submodule(name)


def _adder(name: str, value: Tensor, thread: int):
    def add(_module, _inputs, output: Tensor) -> Tensor:
        if threading.get_ident() != thread:
            return output
        if value.shape != output.shape:
            raise ValueError(f"the side tensor for {name} has shape {tuple(value.shape)}, the block's output "
                             f"{tuple(output.shape)}")
        return output + value

    return add


ADAPTERS = {"AutoencoderKLWan": WanDecoder}
METHODS = ("groups", "frames_of", "initial_state", "decode_group", "parameters")


def as_causal_decoder(vae) -> CausalDecoder:
    """Wrap a diffusers autoencoder; what has the methods of a `CausalDecoder` is returned as it is.

    Raises:
        TypeError: for a class without an adapter, naming those that have one.
    """
    if all(callable(getattr(vae, name, None)) for name in METHODS):
        return vae
    for cls in type(vae).__mro__:
        if cls.__name__ in ADAPTERS:
            return ADAPTERS[cls.__name__](vae)
    raise TypeError(f"{type(vae).__name__} has no adapter; there are adapters for {', '.join(ADAPTERS)}, and any "
                    "other decoder can subclass chopgrad_ns.chopgrad.CausalDecoder (its file interface.py says how).")
