"""The graph of one group at about the peak of one layer of the decoder.

While a group is decoded, the forward of every layer that the decoder names is checkpointed: autograd keeps what
went into the layer, and runs it again when backward reaches it. Causal decoders hand their layers a cache, and some
write to it (a list of features and a counter into it), so that a layer run again would find what it had left there
itself. Here a layer is made a pure function first: it works on copies of the containers among its arguments, which
are outputs like any other and are written to the caller's containers once.
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
    try:
        for layer in layers_of(decoder):
            replaced.append((layer, vars(layer).get("forward")))  # an instance's own, where another library set one
            layer.forward = _checkpointing(layer.forward, here)
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
        given: list[Tensor] = []
        recipe = _map(lambda leaf: _take(leaf, given), (args, kwargs))

        def pure(*tensors: Tensor):
            own_args, own_kwargs = _map(lambda leaf: tensors[leaf.index] if isinstance(leaf, _Place) else leaf, recipe)
            output = forward(*own_args, **own_kwargs)
            return output, _containers(own_args, own_kwargs)

        # Decoding is not random, and keeping generators' states would wait for the device.
        output, changed = checkpoint(pure, *given, use_reentrant=False, preserve_rng_state=False)
        for container, contents in zip(_containers(args, kwargs), changed):
            container.clear()
            container.extend(contents) if isinstance(container, list) else container.update(contents)
        return output

    return run


@dataclass(frozen=True)
class _Place:
    """Stands in arguments for a tensor, so that autograd rather than a closure keeps the tensor."""

    index: int


def _take(leaf, into: list[Tensor]):
    if not isinstance(leaf, Tensor):
        return leaf
    into.append(leaf)
    return _Place(len(into) - 1)


def _map(function: Callable, value):
    """`function` of every leaf of nested tuples, lists and dicts, in new containers."""
    if isinstance(value, (tuple, list)):
        return type(value)(_map(function, part) for part in value)
    if isinstance(value, dict):
        return {key: _map(function, part) for key, part in value.items()}
    return function(value)


def _containers(args: tuple, kwargs: dict) -> list[list | dict]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, (list, dict))]
