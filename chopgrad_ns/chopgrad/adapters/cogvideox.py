"""CogVideoX: nested dicts of cached features, which the decoder takes and returns."""

from __future__ import annotations

import torch
from torch import Tensor

from chopgrad_ns.chopgrad.adapters.base import DiffusersDecoder
from chopgrad_ns.chopgrad.interface import State


class CogVideoXDecoder(DiffusersDecoder):
    """`AutoencoderKLCogVideoX`: two latent frames a group (`num_latent_frames_batch_size`).

    The first group takes the remainder of the division as well. It matters where groups are cut, since group
    normalisation sees a group's frames together, and an odd number of frames is upsampled in time as one frame that
    stays alone and others that do not. The state is the nested dict of cached features as tuples of (name, value).
    """

    layer_classes = ("CogVideoXResnetBlock3D", "CogVideoXUpsample3D")

    @property
    def _size(self) -> int:
        return self.vae.num_latent_frames_batch_size

    def groups(self, num_latent_frames: int) -> list[slice]:
        if num_latent_frames < self._size:
            return [slice(0, num_latent_frames)] if num_latent_frames else []
        first = self._size + num_latent_frames % self._size
        return [slice(0, first), *(slice(i, i + self._size) for i in range(first, num_latent_frames, self._size))]

    def frames_of(self, group: slice) -> slice:
        start = 0
        if group.start:
            first = self._size + group.start % self._size
            start = self._count(first) + (group.start - first) // self._size * self._count(self._size)
        return slice(start, start + self._count(group.stop - group.start))

    def _count(self, latent_frames: int) -> int:
        """Frames out of one group."""
        factor = self.vae.config.temporal_compression_ratio
        alone = latent_frames % 2
        return alone + (latent_frames - alone) * factor

    def _decode(self, decoder: torch.nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
        frames, cache = decoder(x, conv_cache=_as_dict(state))
        return frames, _as_tuple(cache)


def _as_tuple(cache: dict | Tensor | None) -> State:
    return tuple((name, _as_tuple(part)) for name, part in cache.items()) if isinstance(cache, dict) else cache


def _as_dict(state: State) -> dict | Tensor | None:
    return {name: _as_dict(part) for name, part in state} if isinstance(state, tuple) else state
