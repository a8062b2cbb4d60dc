"""What all adapters of diffusers' autoencoders share: parameters, side inputs, what is refused."""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from chopgrad_ns.chopgrad.interface import CausalDecoder, Side, State

SEEN = "seen"
"""What a state says where a module only asks whether there was a group before."""


class DiffusersDecoder(CausalDecoder):
    """A causal decoder around a diffusers autoencoder `vae`.

    Decoding is that of `vae.decode` without its tiling and slicing, and without its final clamp where it has one.
    Side inputs are named after sub-modules of `vae.decoder`, listed in `blocks`; each is added to that module's
    output, and must have its shape.
    """

    layer_classes: tuple[str, ...] = ()
    """Classes of the decoder network's modules that can be run again one at a time; with its last norm."""

    def __init__(self, vae):
        self.vae = vae

    def layers(self) -> list[torch.nn.Module]:
        if not self.layer_classes:
            return []
        return [*modules_of(self.vae.decoder, *self.layer_classes), self.vae.decoder.norm_out]

    @abstractmethod
    def _decode(self, decoder: torch.nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Frames and next state of one group, from what the decoder network takes."""

    @property
    def blocks(self) -> list[str]:
        """Names that side inputs can have, in the order in which the blocks run."""
        return ["mid_block", *(f"up_blocks.{i}" for i in range(len(self.vae.decoder.up_blocks)))]

    def initial_state(self) -> State:
        return None

    def parameters(self) -> Iterator[Tensor]:
        if self._post_quant_conv is not None:
            yield from self._post_quant_conv.parameters()
        yield from self.vae.decoder.parameters()

    @property
    def _post_quant_conv(self) -> torch.nn.Module | None:
        return getattr(self.vae, "post_quant_conv", None)

    def decode_group(self, latents: Tensor, state: State, side: Side | None = None) -> tuple[Tensor, State]:
        decoder = self.vae.decoder
        if getattr(decoder, "gradient_checkpointing", False):
            # It decodes again in backward, when side inputs are no longer in place and caches have moved on.
            raise ValueError("gradient checkpointing is on in the autoencoder, which does not go with its cache; turn "
                             "it off with disable_gradient_checkpointing()")
        x = latents if self._post_quant_conv is None else self._post_quant_conv(latents)
        with _added_to_outputs(decoder, self.blocks, side):
            return self._decode(decoder, x, state)


def modules_of(network: torch.nn.Module, *classes: str) -> list[torch.nn.Module]:
    """Modules of classes given by name, or of classes made from them (torch.nn.utils.parametrize makes some)."""
    return [module for module in network.modules() if any(cls.__name__ in classes for cls in type(module).__mro__)]


def in_this_thread(hook):
    """`hook`, for a module that other threads may be decoding with (a viewer beside a training): it acts here only."""
    here = threading.get_ident()
    return lambda *arguments: hook(*arguments) if threading.get_ident() == here else None


@contextlib.contextmanager
def _added_to_outputs(decoder: torch.nn.Module, blocks: list[str], side: Side | None) -> Iterator[None]:
    """Within the context, add each tensor of `side` to the output of the sub-module it is named after."""
    handles = []
    try:
        for name, value in (side or {}).items():
            if name not in blocks:
                raise ValueError(f"there is no block {name!r} to add a side tensor to; this decoder has "
                                 f"{', '.join(blocks)}")
            handles.append(decoder.get_submodule(name).register_forward_hook(in_this_thread(_adder(name, value))))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(name: str, value: Tensor):
    def add(_module, _inputs, output):
        features, *cache = output if isinstance(output, tuple) else (output,)
        if value.shape != features.shape:
            raise ValueError(f"the side tensor for {name} has shape {tuple(value.shape)}, the block's output "
                             f"{tuple(features.shape)}")
        return (features + value, *cache) if cache else features + value

    return add
