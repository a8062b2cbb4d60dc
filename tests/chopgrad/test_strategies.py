"""Strategies by the names that command lines know them by."""

import pytest

from chopgrad_ns.chopgrad import Exact, Full, Truncated, strategy_named


@pytest.mark.parametrize("name, strategy", [
    ("full", Full()), ("truncated-0", Truncated(0)), ("truncated-12", Truncated(12)), ("exact", Exact()),
    ("exact-offload", Exact(offload="cpu")), ("exact-keep-3", Exact(keep_every=3)), ("exact-layers", Exact(checkpoint_blocks=True)),
    ("exact-offload-keep-4-layers", Exact(offload="cpu", keep_every=4, checkpoint_blocks=True))])
def test_names(name, strategy):
    assert strategy_named(name) == strategy


@pytest.mark.parametrize("name", ["", "exactly", "truncated", "truncated--1", "exact-keep-0", "exact-layers-offload", "Full"])
def test_names_of_nothing(name):
    with pytest.raises(ValueError, match="give full, truncated-N or exact"):
        strategy_named(name)
