"""Worlds that several tests look at, built once; they are not to be changed (`dataclasses.replace` makes others)."""

from functools import cache

from chopgrad_ns.sim.world import make_world

SEED = 15
"""A street under the sun, with a vehicle ahead and one that comes toward us; and what it happens to be elsewhere."""

made = cache(make_world)
