"""Wan, and Qwen-Image after it: a flat list of cached features, one latent frame a group."""

from __future__ import annotations

import torch
from torch import Tensor

from chopgrad_ns.chopgrad.adapters.base import DiffusersDecoder, modules_of
from chopgrad_ns.chopgrad.interface import State


class WanDecoder(DiffusersDecoder):
    """`AutoencoderKLWan` (Wan2.1, and Wan2.2 with residual blocks and patches).

    The first group gives one frame, every other four (in general: as many as the decoder upsamples in time).
    The state is the list of cached features, None before the first group; entries are None, the string "Rep"
    or tensors, and diffusers replaces entries without changing tensors in place, so a shallow copy keeps this
    function pure.
    """

    causal_conv = "WanCausalConv3d"
    layer_classes = ("WanResidualBlock", "WanAttentionBlock", "WanResample")
    norm_class = "WanRMS_norm"
    told_of_first_chunk = True

    def __init__(self, vae):
        super().__init__(vae)
        self.temporal_factor = 2 ** sum(vae.temperal_downsample)
        self._slots = len(modules_of(vae.decoder, self.causal_conv))

    def framewise_layers(self) -> list[torch.nn.Module]:
        return modules_of(self.vae.decoder, self.norm_class)

    def groups(self, num_latent_frames: int) -> list[slice]:
        return [slice(i, i + 1) for i in range(num_latent_frames)]

    def frames_of(self, group: slice) -> slice:
        factor = self.temporal_factor
        start = group.start
        return slice(0, 1) if start == 0 else slice(1 + (start - 1) * factor, 1 + start * factor)

    def _decode(self, decoder: torch.nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
        first = state is None
        cache = [None] * self._slots if first else list(state)
        told = {"first_chunk": first} if self.told_of_first_chunk else {}
        frames = decoder(x, feat_cache=cache, feat_idx=[0], **told)
        patch = getattr(self.vae.config, "patch_size", None)
        return (frames if patch is None else _unpatchify(frames, patch)), tuple(cache)


class QwenImageDecoder(WanDecoder):
    """`AutoencoderKLQwenImage`: Wan2.1's decoder under names of its own; it sees by the cache which group is first."""

    causal_conv = "QwenImageCausalConv3d"
    norm_class = "QwenImageRMS_norm"
    layer_classes = ("QwenImageResidualBlock", "QwenImageAttentionBlock", "QwenImageResample")
    told_of_first_chunk = False


def _unpatchify(x: Tensor, patch: int) -> Tensor:
    """Channels (3 · patch · patch) back to pixels; the patch's columns vary slowest, as Wan2.2 packs them."""
    b, c, t, h, w = x.shape
    x = x.view(b, c // patch**2, patch, patch, t, h, w)
    return x.permute(0, 1, 4, 5, 3, 6, 2).reshape(b, c // patch**2, t, h * patch, w * patch)
