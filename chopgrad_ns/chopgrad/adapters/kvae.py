"""Kandinsky's K-VAE and its relative in Kandinsky 6: nested dicts of cached features, filled in place."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from chopgrad_ns.chopgrad.adapters.base import SEEN, DiffusersDecoder
from chopgrad_ns.chopgrad.interface import State

SEGMENT_FRAMES = 16
"""Frames of a group, as diffusers cuts them; the first group has one more."""
AFTER_FIRST = {"mean": 1, "var": 1, "is_first_segment": False}
"""What else the dicts hold beside features, once the first group has passed: marks that it has."""


class _SegmentDecoder(DiffusersDecoder):
    """Groups of as many latent frames as make `SEGMENT_FRAMES` frames; the first latent frame is one more.

    The state is the tuple of the dicts' values in their own order, marks as the string "seen".
    """

    @property
    @abstractmethod
    def temporal_factor(self) -> int:
        """Frames to a latent frame, except the first."""

    @abstractmethod
    def _empty_cache(self, decoder: torch.nn.Module) -> dict:
        """The dicts before the first group."""

    @property
    def blocks(self) -> list[str]:
        ups = self.vae.decoder.up
        last = [f"up.{i}.upsample" if hasattr(up, "upsample") else f"up.{i}.block.{len(up.block) - 1}"
                for i, up in enumerate(ups)]
        return ["mid.block_2", *reversed(last)]

    def groups(self, num_latent_frames: int) -> list[slice]:
        size = SEGMENT_FRAMES // self.temporal_factor
        starts = [0, *range(1 + size, num_latent_frames, size)]
        stops = [*starts[1:], num_latent_frames]
        return [slice(*span) for span in zip(starts, stops)] if num_latent_frames else []

    def frames_of(self, group: slice) -> slice:
        factor = self.temporal_factor
        start = 0 if group.start == 0 else 1 + (group.start - 1) * factor
        return slice(start, 1 + (group.stop - 1) * factor)

    def _decode(self, decoder: torch.nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
        cache = self._empty_cache(decoder)
        for (holder, key), value in zip(_entries(cache), state or ()):
            holder[key] = AFTER_FIRST[key] if isinstance(value, str) else value
        frames = decoder(x, cache)
        values = [holder[key] for holder, key in _entries(cache)]
        return frames, tuple(value if value is None or isinstance(value, Tensor) else SEEN for value in values)


class KVAEVideoDecoder(_SegmentDecoder):
    """`AutoencoderKLKVAEVideo`. It does not upsample a latent frame that is alone in a group: it becomes one frame."""

    layer_classes = ("KVAECachedResnetBlock3D", "KVAECachedPXSUpsample")

    @property
    def temporal_factor(self) -> int:
        return self.vae.config.temporal_compress_times

    def _empty_cache(self, decoder: torch.nn.Module) -> dict:
        return self.vae._make_decoder_cache()

    def frames_of(self, group: slice) -> slice:
        span = super().frames_of(group)
        return slice(span.start, span.start + 1) if group.stop - group.start == 1 else span


class Kandinsky6SRDecoder(_SegmentDecoder):
    """`Kandinsky6SRVAE`, the autoencoder of Kandinsky 6's super-resolution."""

    layer_classes = ("Kandinsky6SRResnetBlock3D", "Kandinsky6SRUpsample")

    @property
    def temporal_factor(self) -> int:
        return self.vae.config.temporal_compression_ratio

    def _empty_cache(self, decoder: torch.nn.Module) -> dict:
        return decoder.make_cache()


def _entries(cache: dict | list) -> Iterator[tuple[dict | list, object]]:
    """Where every value is that is not a dict or list itself."""
    for key in list(cache) if isinstance(cache, dict) else range(len(cache)):
        if isinstance(cache[key], (dict, list)):
            yield from _entries(cache[key])
        else:
            yield cache, key
