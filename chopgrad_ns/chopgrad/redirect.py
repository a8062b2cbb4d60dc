"""A network in which some modules do something else, while the network itself stays as it is for everybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn


def redirected(network: nn.Module, ways: Mapping[nn.Module, Callable]) -> nn.Module:
    """`network` with another forward for some of its modules: these and what they are in are copied, the rest is shared.

    Copies have the hooks of what they are copied from, those registered later included.
    """
    if network in ways:
        copied = twin_of(network)
        copied.forward = ways[network]
        return copied
    parts = {name: part if part is None else redirected(part, ways) for name, part in network._modules.items()}
    if all(part is network._modules[name] for name, part in parts.items()):
        return network
    copied = twin_of(network)
    copied._modules = parts
    return copied


def twin_of(module: nn.Module) -> nn.Module:
    """A module with the same contents: parameters, parts and hooks are shared, attributes can be changed apart.

    As copy.copy makes it, but of modules with parametrizations too (weight norm, low-rank updates).
    """
    twin = object.__new__(type(module))
    vars(twin).update(vars(module))
    return twin
