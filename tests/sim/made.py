"""Worlds that several tests look at, built once; they are not to be changed (`dataclasses.replace` makes others)."""

from functools import cache

from chopgrad_ns.sim.raycast import render
from chopgrad_ns.sim.sample import trajectory
from chopgrad_ns.sim.world import World, make_world

SEED = 15
"""A street under the sun, with a vehicle ahead and one that comes toward us; and what it happens to be elsewhere."""

made = cache(make_world)


def photos_of(world: World, frames: int, width: int, height: int, some: slice = slice(None)):
    """Some of the cameras of a walk of so many frames, what they see, and its depth; with the world's own actors and
    exposure as they are in those frames.
    """
    cameras = trajectory(world, frames, width, height)[some]
    shots = render(world, cameras, [actor[some] for actor in world.actors(frames)], world.exposure.gains(frames)[some])
    return cameras, shots.frames, shots.depth
