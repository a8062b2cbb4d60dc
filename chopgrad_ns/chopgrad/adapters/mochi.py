"""Mochi: the cache that its causal convolutions need for decoding in groups is kept here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from chopgrad_ns.chopgrad.adapters.base import in_this_thread, modules_of
from chopgrad_ns.chopgrad.adapters.layered import CachedLayer, LayeredDecoder
from chopgrad_ns.chopgrad.interface import State


CAUSAL_CONV = "CogVideoXCausalConv3d"


class MochiLayer(CachedLayer):
    """Remembers the last inputs of its causal convolutions, with their padding in space, in the order they run."""

    def forward(self, x: Tensor, past: list[Tensor], **given) -> tuple[Tensor, dict]:
        kept: list[Tensor] = []
        with _cached_inputs(self.module, past, kept):
            output = self.module.forward(x, **given)
        past[:] = kept
        return output


class MochiDecoder(LayeredDecoder):
    """`AutoencoderKLMochi`: a clip is one group, as diffusers decodes it, unless `vae.use_framewise_decoding` is set.

    Then it is two latent frames a group (`num_latent_frames_batch_size`), which is what saves memory. Every layer but
    the causal convolutions works frame by frame, so groups give what the clip gives in one piece, but for rounding,
    if each convolution sees the last inputs of the group before in place of the repeated first frame. (diffusers' own
    framewise decoding, as of 0.42, drops them.)

    A latent frame gives `temporal_compression_ratio` frames, but of the very first only the last is kept, unless
    `drop_last_temporal_frames` is off.

    Raises:
        ValueError: after `vae._enable_framewise_decoding()`: it leaves the convolutions without padding in space,
            and diffusers cannot decode with them either.
    """

    layer = MochiLayer
    layer_classes = ("MochiResnetBlock3D", CAUSAL_CONV)

    def __init__(self, vae):
        super().__init__(vae)
        if any(module.pad_mode != "replicate" for module in _causal_convolutions(vae.decoder)):
            raise ValueError("the convolutions of this AutoencoderKLMochi have lost their padding in space by "
                             "_enable_framewise_decoding(); load it again and set use_framewise_decoding = True alone")
        self.temporal_factor = vae.temporal_compression_ratio

    @property
    def blocks(self) -> list[str]:
        return ["block_in", *(f"up_blocks.{i}" for i in range(len(self.vae.decoder.up_blocks))), "block_out"]

    @property
    def _dropped(self) -> int:
        """Frames that the start of a clip loses."""
        return self.temporal_factor - 1 if self.vae.drop_last_temporal_frames else 0

    def groups(self, num_latent_frames: int) -> list[slice]:
        framewise = self.vae.use_framewise_decoding
        size = self.vae.num_latent_frames_batch_size if framewise else max(num_latent_frames, 1)
        return [slice(i, min(i + size, num_latent_frames)) for i in range(0, num_latent_frames, size)]

    def frames_of(self, group: slice) -> slice:
        start, stop = (max(i * self.temporal_factor - self._dropped, 0) for i in (group.start, group.stop))
        return slice(start, stop)

    def _decode(self, decoder: torch.nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
        (frames, _), after = super()._decode(decoder, x, state)
        return (frames[:, :, self._dropped :] if state is None else frames), after


@contextlib.contextmanager
def _cached_inputs(network: torch.nn.Module, past: list[Tensor], kept: list[Tensor]) -> Iterator[None]:
    """Within the context, causal convolutions start from the inputs in `past` and append their last ones to `kept`."""

    def swap(module: torch.nn.Conv3d, inputs: tuple[Tensor]) -> tuple[Tensor]:
        x, frames = inputs[0], module.kernel_size[0] - 1
        if past:
            x = torch.cat([past[len(kept)], x[:, :, frames:]], dim=2)
        kept.append(x[:, :, x.shape[2] - frames :].clone())  # a view would keep all of x
        return (x,)

    hook = in_this_thread(swap)
    handles = [module.conv.register_forward_pre_hook(hook) for module in _causal_convolutions(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _causal_convolutions(network: torch.nn.Module) -> list[torch.nn.Module]:
    return modules_of(network, CAUSAL_CONV)
