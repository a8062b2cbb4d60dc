"""The graph of one group at about the peak of one layer of the decoder.

While a group is decoded, the forward of every layer that the decoder names is checkpointed: autograd keeps what
went into the layer, and runs it again when backward reaches it. Causal decoders hand their layers a cache, and some
write to it (a list of features and a counter into it), so that a layer run again would find what it had left there
itself. Here a layer is made a pure function first: it works on copies of the containers among its arguments, which
are outputs like any other and are written to the caller's containers once.

Inside a layer, modules that treat each frame by itself (the decoder names them, too) go frame by frame.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chopgrad_ns.chopgrad.interface import CausalDecoder
from chopgrad_ns.chopgrad.redirect import redirected


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
    here, wrapped = threading.get_ident(), []
    ways = {module: _frame_by_frame(module.forward) for module in getattr(decoder, "framewise_layers", list)()}
    try:
        for layer in layers_of(decoder):
            before = vars(layer).get("forward")  # an instance's own, where another library set one
            forward = redirected(layer, ways).forward if ways else layer.forward
            layer.forward = _checkpointing(forward, here)
            layer.forward.before = before
            wrapped.append((layer, layer.forward))
        yield
    finally:
        for layer, forward in wrapped:
            forward.over = True
            _restore(layer)


def _restore(layer: nn.Module) -> None:
    """Take off what contexts that are over have put around a layer, down to one of another thread that is not."""
    forward = vars(layer)["forward"]
    while getattr(forward, "over", False):
        forward = forward.before
    if forward is None:
        del layer.forward
    else:
        layer.forward = forward


def _checkpointing(forward: Callable, thread: int) -> Callable:
    def run(*args, **kwargs):
        if threading.get_ident() != thread or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        given: list[Tensor] = []
        recipe = _map(lambda leaf: _take(leaf, given), (args, kwargs))
        inputs, unread = _Inputs(given), set()

        def pure(inputs: _Inputs):
            tensors = inputs.tensors()
            own_args, own_kwargs = _map(lambda leaf: tensors.get(leaf.index) if isinstance(leaf, _Place) else leaf, recipe)
            own_args = tuple(_watched(*pair, unread) for pair in zip(own_args, recipe[0]))
            own_kwargs = {name: _watched(value, recipe[1][name], unread) for name, value in own_kwargs.items()}
            output = forward(*own_args, **own_kwargs)
            return output, _containers(own_args, own_kwargs)

        # Decoding is not random, and keeping generators' states would wait for the device.
        output, changed = checkpoint(pure, inputs, use_reentrant=False, preserve_rng_state=False)
        inputs.save_for_backward(unread)
        for container, contents in zip(_containers(args, kwargs), changed):
            container.clear()
            container.extend(contents) if isinstance(container, list) else container.update(contents)
        return output

    return run


def _frame_by_frame(forward: Callable) -> Callable:
    """Of a backward, too, only one frame's intermediate results are there at once."""
    def run(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or x.ndim != 5:
            return forward(x)
        return torch.cat([checkpoint(forward, frame, use_reentrant=False, preserve_rng_state=False)
                          for frame in x.split(1, dim=2)], dim=2)

    return run


class _Inputs:
    """Tensors among a layer's arguments: as given, and once the layer has run, as autograd keeps them for backward.

    So that whoever looks after what autograd keeps (torch.autograd.graph.save_on_cpu, say) has these in his care.
    """

    def __init__(self, given: list[Tensor]):
        self.kept: dict[int, Tensor | None] = dict(enumerate(given))
        self.saved: Tensor | None = None  # whose node has them; without the tensor the node would be freed

    def save_for_backward(self, unread: set[int]) -> None:
        self.kept = {index: tensor for index, tensor in self.kept.items() if index not in unread}
        self.saved = _Save.apply(torch.empty(0, requires_grad=True), *self.kept.values())
        self.kept = dict.fromkeys(self.kept)

    def tensors(self) -> dict[int, Tensor]:
        return self.kept if self.saved is None else dict(zip(self.kept, self.saved.grad_fn.saved_tensors))


class _Save(torch.autograd.Function):
    """A node that does nothing but save tensors; `anchor` is there so that it is made."""

    @staticmethod
    def forward(ctx, anchor: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return anchor.clone()

    @staticmethod
    def backward(ctx, cotangent):
        raise AssertionError("nothing depends on it")


@dataclass(frozen=True)
class _Place:
    """Stands in arguments for a tensor."""

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
        whole = isinstance(key, slice) or len(self) != len(self.places)
        self.unread.difference_update(self.places if whole else [self.places[key]])
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
