"""What adapters share whose autoencoder does not hand its modules a cache, so that a module run again would miss it.

Every residual block, upsampler or single convolution that is to remember something gets a `CachedLayer`, which takes
what was remembered before as an argument and puts there what is remembered now. For one decoding, the network is
copied as far down as these modules, and the copies lead to the layers in their place: in the autoencoder itself
nothing changes.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod

from torch import Tensor, nn

from chopgrad_ns.chopgrad.adapters.base import DiffusersDecoder
from chopgrad_ns.chopgrad.interface import State
from chopgrad_ns.chopgrad.redirect import redirected


class CachedLayer(nn.Module, ABC):
    """A module of the network with its cache as an argument. The module's parameters are not listed here again."""

    def __init__(self, module: nn.Module):
        super().__init__()
        vars(self)["module"] = module  # an attribute like any other, not a sub-module

    @abstractmethod
    def forward(self, x: Tensor, past: list[State], **given):
        """Output of the module without its hooks, which are run where this is called.

        Args:
            past: what the module remembers of the group before, empty before the first; changed to what it remembers
                of this one, never empty.
            given: other arguments of the module.
        """


class LayeredDecoder(DiffusersDecoder):
    """A decoder of cached layers, which are all its `layers()`. The state is a tuple of what each remembers, as a tuple."""

    layer: type[CachedLayer]
    """What the modules of `layer_classes` are wrapped in, of those inside one another the outermost."""

    def __init__(self, vae):
        super().__init__(vae)
        self._layers = [self.layer(module) for module in _outermost(vae.decoder, self.layer_classes)]

    def layers(self) -> list[nn.Module]:
        return list(self._layers)

    def _decode(self, decoder: nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
        pasts = [[] for _ in self._layers] if state is None else [list(past) for past in state]
        ways = {layer.module: functools.partial(layer, past=past) for layer, past in zip(self._layers, pasts)}
        output = redirected(decoder, ways)(x)
        if not all(pasts):
            raise ValueError(f"some modules of this {type(self.vae).__name__} were exchanged after its adapter was made, or "
                             "another library has replaced their forward; make the adapter again, with the modules' own")
        return output, tuple(tuple(past) for past in pasts)


def _outermost(network: nn.Module, classes: tuple[str, ...]) -> list[nn.Module]:
    """Modules of classes given by name that are in no other such module."""
    if any(cls.__name__ in classes for cls in type(network).__mro__):
        return [network]
    return [module for part in network.children() for module in _outermost(part, classes)]
