"""Pairs from sample worlds: the clean frames are exact, and no photograph's licence is involved."""

import hashlib
import json
import shutil
from dataclasses import asdict, replace

from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.pairs import NamedProgress, fit_plan, sparse_plan, splat_pair
from chopgrad_ns.data.references import REFERENCES
from chopgrad_ns.data.stored import StoredPair, save_pair
from chopgrad_ns.data.views import Views
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import user_cache
from chopgrad_ns.sim.sample import Sample, sample_clip
from chopgrad_ns.sim.world import RECIPE
from chopgrad_ns.splat.fit import FitSettings

KINDS = ("room", "courtyard", "objects")
SPARSITIES = (8, 5, 4)
"""Every how many frames the splat of a pair is fitted to: bad, middling and better splats."""
FRAMES = 40
FIRST_SEED = 1000
PAIR_RECIPE = 4
"""Raised whenever pairs come out differently, so that cached ones are made again; worlds have a RECIPE of their own."""


def views_of(world: Sample) -> Views:
    """A sample world's photos as a capture without depth maps, and with masks where something moves."""
    moving = world.moving()
    return Views(world.frames, world.cameras, world.points, world.colors, masks=None if moving is None else moving == 0)


def sparsity_of(index: int) -> int:
    """Each kind of world with each sparsity in turn."""
    return SPARSITIES[(index // len(KINDS)) % len(SPARSITIES)]


def sample_pair(index: int, settings: FitSettings, references: int, progress: NamedProgress | None = None) -> Pair:
    """The `index`-th pair: kind, seed and sparsity follow from the index.

    All photos have the same exposure: changes that nobody can foretell would teach a refiner to guess at brightness.
    """
    kind = KINDS[index % len(KINDS)]
    world = sample_clip(kind, seed=FIRST_SEED + index, frames=FRAMES, exposure_change=0.0)
    plan = replace(sparse_plan(FRAMES, sparsity_of(index), settings), name=f"{kind}-{index}")
    report = None if progress is None else (lambda *tick: progress(plan.name, *tick))
    views = views_of(world)
    return splat_pair(views, plan, fit_plan(views, plan, report), references)


def cached_sample_pairs(count: int, settings: FitSettings, references: int = REFERENCES,
                        progress: NamedProgress | None = None) -> list[StoredPair]:
    """The first `count` pairs, kept in the user's cache: they do not depend on the scene at hand."""
    # Sample pairs are fitted without depths: what to do with them makes no other pairs.
    settings = replace(settings, depth_weight=0.0, depth_prior="metric")
    recipe = json.dumps([PAIR_RECIPE, RECIPE, asdict(settings), references, FRAMES], sort_keys=True)
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    cache = user_cache() / "pairs" / key
    pairs = []
    for index in range(count):
        folder = cache / str(index)
        try:
            pair = StoredPair(folder) if folder.exists() else None
            if pair is not None:
                pair.check()
        except UserError:  # damaged: what a cache holds can be made again
            shutil.rmtree(folder)
            pair = None
        if pair is None:
            save_pair(sample_pair(index, settings, references, progress), folder)
            pair = StoredPair(folder)
        pairs.append(pair)
    return pairs
