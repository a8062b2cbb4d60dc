"""EasyAnimate's Magvit: cached features are attributes of the decoder's modules."""

from __future__ import annotations

import torch
from torch import Tensor

from chopgrad_ns.chopgrad.adapters.base import SEEN
from chopgrad_ns.chopgrad.adapters.layered import CachedLayer, LayeredDecoder
from chopgrad_ns.chopgrad.interface import State
from chopgrad_ns.chopgrad.redirect import twin_of


class MagvitLayer(CachedLayer):
    """Remembers `prev_features` of the modules that have it, in the order of `modules()`."""

    def forward(self, x: Tensor, past: list[State]) -> Tensor:
        twin = _twin(self.module)
        modules = [module for module in twin.modules() if hasattr(module, "prev_features")]
        for module, features in zip(modules, past or [None] * len(modules)):
            module.prev_features = features
        output = twin.forward(x)
        past[:] = [_features(module) for module in modules]
        return output


class MagvitDecoder(LayeredDecoder):
    """`AutoencoderKLMagvit`: the first latent frame, then one a group (`num_latent_frames_batch_size`).

    The first group gives one frame, others as many to a latent frame as the decoder upsamples in time.
    """

    layer = MagvitLayer
    layer_classes = ("EasyAnimateResidualBlock3D", "EasyAnimateUpsampler3D", "EasyAnimateCausalConv3d")

    def __init__(self, vae):
        super().__init__(vae)
        self.temporal_factor = 2 ** sum(getattr(module, "temporal_upsample", False) for module in vae.decoder.modules())

    def groups(self, num_latent_frames: int) -> list[slice]:
        size = self.vae.num_latent_frames_batch_size
        later = [slice(i, min(i + size, num_latent_frames)) for i in range(1, num_latent_frames, size)]
        return [slice(0, 1), *later] if num_latent_frames else []

    def frames_of(self, group: slice) -> slice:
        factor = self.temporal_factor
        start = 0 if group.start == 0 else 1 + (group.start - 1) * factor
        return slice(start, 1 + (group.stop - 1) * factor)


def _twin(module: torch.nn.Module) -> torch.nn.Module:
    """The same parameters, buffers and hooks in modules of their own, which a decoding may write its cache to."""
    twin = twin_of(module)
    twin._modules = {name: None if child is None else _twin(child) for name, child in module._modules.items()}
    return twin


def _features(module: torch.nn.Module) -> State:
    """What a module keeps; an upsampler keeps features as well, but asks only whether there are any."""
    is_convolution = hasattr(module, "temporal_padding")
    return module.prev_features if is_convolution or module.prev_features is None else SEEN
