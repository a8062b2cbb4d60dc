"""The graph of one group at about the peak of one block of the decoder.

While a group is decoded, the forward of every block that the decoder names is checkpointed: autograd keeps what
went into the block, and runs it again when backward reaches it. Causal decoders hand their blocks a cache, and some
write to it (a list of features and a counter into it), so that a block run again would find what it had left there
itself. Here a block is made a pure function first: it works on copies of the containers among its arguments, which
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


def blocks_of(decoder: CausalDecoder) -> list[nn.Module]:
    """The blocks that a decoder names in its method `blocks()`.

    They are modules that a group passes through one after another, none inside another. A block's cache arguments
    are lists, dicts, tuples, tensors, or nestings of these; lists and dicts it may change. No side tensor may
    enter inside a block (beside one, or at its output, it may).

    Raises:
        TypeError: for a decoder without that method.
    """
    blocks = getattr(decoder, "blocks", None)
    if not callable(blocks):
        raise TypeError(f"{type(decoder).__name__} has no blocks to checkpoint: give it a method blocks() that returns "
                        "the modules a group passes through, or leave checkpoint_blocks out")
    return list(blocks())


@contextlib.contextmanager
def checkpointed_blocks(decoder: CausalDecoder) -> Iterator[None]:
    """Within the context, and in this thread only, autograd keeps no more of a decoder's blocks than their inputs."""
    here, replaced = threading.get_ident(), []
    try:
        for block in blocks_of(decoder):
            replaced.append((block, vars(block).get("forward")))  # an instance's own, where another library set one
            block.forward = _checkpointing(block.forward, here)
        yield
    finally:
        for block, forward in replaced:
            if forward is None:
                vars(block).pop("forward", None)
            else:
                block.forward = forward


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
