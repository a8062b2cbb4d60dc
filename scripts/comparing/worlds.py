"""Pairs of sample worlds: no method sees the scene that it is judged on."""

import random
from pathlib import Path

from chopgrad_ns.cli.pair_jobs import SplatWays, WorldJob
from chopgrad_ns.cli.pairs import make_all
from chopgrad_ns.data.pair_set import PairSet
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.splat.fit import FitSettings

KINDS = ("closeup", "room", "closeup", "courtyard", "closeup", "objects")
FRAMES, WIDTH, HEIGHT = 40, 192, 128
SPARSITIES = (8, 7, 6, 5, 4)
"""Every how many frames a splat is fitted to."""
FIRST_SEED, FIRST_JUDGE = 4000, 9500
"""Of the worlds that are trained on, and of those that judge; none is among those that the embedded refiner has seen."""


def world_pairs(folder: Path, worlds: int, qualities: int, first_seed: int, references: int, workers: int,
                small: bool = False) -> list[StoredPair]:
    """Pairs of so many worlds, photographed as captures are, `qualities` of each: of different sparsity and length of the
    splats' training, by the seed. Every second shows two splats together.

    What is there is kept, and no more is given back than is asked for. `references`: photos warped into each frame. `small`: of
    9 frames of 48 × 32 pixels, for tests.
    """
    jobs, (frames, width, height) = [], (9, 48, 32) if small else (FRAMES, WIDTH, HEIGHT)
    for seed in range(first_seed, first_seed + worlds):
        draw = random.Random(seed)
        for number, every in enumerate((3, 4, 5, 6, 7)[:qualities] if small else draw.sample(SPARSITIES, qualities)):
            settings = FitSettings(steps=20 if small else draw.choice([400, 700, 1200]))
            ways = SplatWays(("sparse",), every, 2, 1, 1, settings, references, keep_photos=False, ensemble=1 + number % 2)
            jobs.append(WorldJob(KINDS[seed % len(KINDS)], seed, frames, width, height, None, ways, flaws=True))
    make_all(jobs, folder, workers, ray=None)
    asked = {f"{job.source}-{plan.name}" for job in jobs for plan in job.ways.plans(["camera"] * frames)}
    return [pair for pair in PairSet(folder) if pair.name in asked]
