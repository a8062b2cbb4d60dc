"""Built-in pairs: what the refiner is to restore can be known from what it is given."""

import torch

from chopgrad_ns.sim import pairs
from chopgrad_ns.sim.pairs import FIRST_SEED, KINDS, sample_pair
from chopgrad_ns.sim.sample import sample_clip
from chopgrad_ns.sim.world import exposure_of
from chopgrad_ns.splat.fit import FitSettings


def test_all_photos_have_one_exposure(monkeypatch):
    """Also where the world's seed, left alone, would draw a drift."""
    monkeypatch.setattr(pairs, "FRAMES", 5)  # fewer, to be quick
    index = next(index for index in range(60) if exposure_of(KINDS[index % 3], FIRST_SEED + index).kind == "drift")
    pair = sample_pair(index, FitSettings(steps=1), references=0)
    kind, seed = KINDS[index % 3], FIRST_SEED + index
    steady = sample_clip(kind, seed, 5, exposure_change=0.0)
    assert pair.name.startswith(f"{kind}-{index}") and (steady.gains == 1).all() and torch.equal(pair.clean, steady.frames)
    assert (exposure_of(kind, seed).gains(5) != 1).any()
