"""The graph of one group at about the peak of one layer of the decoder.

While a group is decoded, the forward of every layer that the decoder names is checkpointed: autograd keeps what
went into the layer, and runs it again when backward reaches it. Causal decoders hand their layers a cache, and some
write to it (a list of features and a counter into it), so that a layer run again would find what it had left there
itself. Here a layer is made a pure function first: it works on copies of the containers among its arguments, which
are outputs like any other and are written to the caller's containers once.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chopgrad_ns.chopgrad.interface import CausalDecoder


def layers_of(decoder: CausalDecoder) -> list[nn.Module]:
    """What a decoder names in its method `layers()` (see `CausalDecoder.layers`); nothing where it has none."""
    return list(getattr(decoder, "layers", list)())


def check_layers(decoder: CausalDecoder) -> None:
    """Raise ValueError unless a decoder names layers that can be checkpointed."""
    if not layers_of(decoder):
        raise ValueError(f"{type(decoder).__name__} names no layers to checkpoint: leave checkpoint_blocks out, or give the "
                         "decoder a method layers() (chopgrad_ns.chopgrad.CausalDecoder says what it returns)")


@contextlib.contextmanager
def checkpointed_blocks(decoder: CausalDecoder) -> Iterator[None]:
    """Within the context, and in this thread only, autograd keeps no more of a decoder's layers than their inputs."""
    here, replaced = threading.get_ident(), []
    framewise = set(getattr(decoder, "framewise_layers", list)())
    try:
        for layer in layers_of(decoder):
            replaced.append((layer, vars(layer).get("forward")))  # an instance's own, where another library set one
            layer.forward = _checkpointing(_frugal(layer, framewise).forward, here)
        yield
    finally:
        for layer, forward in replaced:
            if forward is None:
                vars(layer).pop("forward", None)
            else:
                layer.forward = forward


def _checkpointing(forward: Callable, thread: int) -> Callable:
    def run(*args, **kwargs):
        if threading.get_ident() != thread or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        given: list[Tensor | None] = []
        recipe = _map(lambda leaf: _take(leaf, given), (args, kwargs))
        unread: set[int] = set()

        def pure(kept: list[Tensor | None]):
            own_args, own_kwargs = _map(lambda leaf: kept[leaf.index] if isinstance(leaf, _Place) else leaf, recipe)
            own_args = tuple(_watched(*pair, unread) for pair in zip(own_args, recipe[0]))
            own_kwargs = {name: _watched(value, recipe[1][name], unread) for name, value in own_kwargs.items()}
            output = forward(*own_args, **own_kwargs)
            return output, _containers(own_args, own_kwargs)

        # Decoding is not random, and keeping generators' states would wait for the device.
        output, changed = checkpoint(pure, given, use_reentrant=False, preserve_rng_state=False)
        for index in unread:
            given[index] = None
        for container, contents in zip(_containers(args, kwargs), changed):
            container.clear()
            container.extend(contents) if isinstance(container, list) else container.update(contents)
        return output

    return run


def _frugal(layer: nn.Module, framewise: set[nn.Module]) -> nn.Module:
    """The layer, or where modules in `framewise` are part of it a twin in which they go frame by frame.

    The twin has the same parameters and hooks. Nothing of the layer itself changes, since its backward comes later, in
    another thread maybe, while others may be using it.
    """
    if framewise.isdisjoint(layer.modules()):
        return layer
    twin = copy.copy(layer)
    twin._modules = {name: child and _frugal(child, framewise) for name, child in layer._modules.items()}
    if layer in framewise:
        twin.forward = _frame_by_frame(layer.forward)
    return twin


def _frame_by_frame(forward: Callable) -> Callable:
    """Of a backward, too, only one frame's intermediate results are there at once."""
    def run(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or x.ndim != 5:
            return forward(x)
        return torch.cat([checkpoint(forward, frame, use_reentrant=False, preserve_rng_state=False)
                          for frame in x.split(1, dim=2)], dim=2)

    return run


@dataclass(frozen=True)
class _Place:
    """Stands in arguments for a tensor, which is kept beside them and can be dropped."""

    index: int


def _take(leaf, into: list[Tensor]):
    if not isinstance(leaf, Tensor):
        return leaf
    into.append(leaf)
    return _Place(len(into) - 1)


class _Watched(list):
    """A layer's copy of a list, which takes off `unread` whatever tensors are read from it.

    A cache of the whole decoder is handed to every layer, and each reads a few entries. If a layer's arguments kept
    the others as well, then all that earlier layers have left for the next group would live as long as the graph.
    """

    def __init__(self, values: list, places: list, unread: set[int]):
        super().__init__(values)
        self.places = [place.index if isinstance(place, _Place) else None for place in places]
        self.unread = unread
        unread.update(place for place in self.places if place is not None)

    def __getitem__(self, key):
        self.unread.difference_update(self.places[key] if isinstance(key, slice) else [self.places[key]])
        return super().__getitem__(key)


def _reading_all(name: str) -> Callable:
    def method(self: _Watched, *arguments):
        self.unread.difference_update(self.places)
        return getattr(list, name)(self, *arguments)

    return method


for _name in ("__add__", "__contains__", "__delitem__", "__eq__", "__iter__", "__mul__", "__reversed__", "copy", "count", "index",
              "insert", "pop", "remove", "reverse", "sort"):  # read, or move what lies behind
    setattr(_Watched, _name, _reading_all(_name))


def _watched(value, recipe, unread: set[int]):
    return _Watched(value, recipe, unread) if type(value) is list else value


def _map(function: Callable, value):
    """`function` of every leaf of nested tuples, lists and dicts, in new containers."""
    if isinstance(value, (tuple, list)):
        return type(value)(_map(function, part) for part in value)
    if isinstance(value, dict):
        return {key: _map(function, part) for key, part in value.items()}
    return function(value)


def _containers(args: tuple, kwargs: dict) -> list[list | dict]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, (list, dict))]
