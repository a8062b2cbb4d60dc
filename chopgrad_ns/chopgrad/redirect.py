"""A network in which some modules do something else, while the network itself stays as it is for everybody."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from torch import nn


def redirected(network: nn.Module, ways: Mapping[nn.Module, Callable]) -> nn.Module:
    """`network` with another forward for some of its modules: these and what they are in are copied, the rest is shared.

    Copies have the hooks of what they are copied from, those registered later included.
    """
    if network in ways:
        copied = copy.copy(network)
        copied.forward = ways[network]
        return copied
    parts = {name: part if part is None else redirected(part, ways) for name, part in network._modules.items()}
    if all(part is network._modules[name] for name, part in parts.items()):
        return network
    copied = copy.copy(network)
    copied._modules = parts
    return copied
