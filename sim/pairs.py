"""Pairs from sample worlds: the clean frames are exact, and no photograph's licence is involved."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace

from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.pairs import NamedProgress, held_out_pair
from chopgrad_ns.data.views import Views
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import user_cache
from chopgrad_ns.sim.sample import sample_clip
from chopgrad_ns.splat.fit import FitSettings

KINDS = ("room", "courtyard", "objects")
SPARSITIES = (8, 5, 4)
"""Every how many frames the splat of a pair is fitted to: bad, middling and better splats."""
FRAMES = 40
RECIPE = 2
"""Raised whenever worlds or pairs come out differently, so that cached ones are made again."""


def sample_pair(index: int, settings: FitSettings, references: int, progress: NamedProgress | None = None) -> Pair:
    """The `index`-th pair: kind, seed and sparsity follow from the index."""
    kind, every = KINDS[index % len(KINDS)], SPARSITIES[(index // len(KINDS)) % len(SPARSITIES)]
    name = f"{kind}-{index}"
    world = sample_clip(kind, seed=1000 + index, frames=FRAMES)
    views = Views(world.frames, world.cameras, world.points, world.colors)  # as a capture without depth maps
    report = None if progress is None else (lambda *tick: progress(name, *tick))
    return held_out_pair(views, range(0, FRAMES, every), name, settings, references, report)


def sample_pairs(count: int, settings: FitSettings, references: int = 2,
                 progress: NamedProgress | None = None) -> Iterator[Pair]:
    """Pairs of the first `count` sample worlds, one at a time."""
    for index in range(count):
        yield sample_pair(index, settings, references, progress)


def cached_sample_pairs(count: int, settings: FitSettings, references: int = 2,
                        progress: NamedProgress | None = None) -> list[Pair]:
    """As `sample_pairs`, kept in the user's cache: they do not depend on the scene at hand."""
    # Sample pairs are fitted without depths: what to do with them makes no other pairs.
    settings = replace(settings, depth_weight=0.0, depth_prior="metric")
    recipe = json.dumps([RECIPE, asdict(settings), references, FRAMES], sort_keys=True)
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    cache = user_cache() / "pairs" / key
    pairs = []
    for index in range(count):
        folder = cache / str(index)
        try:
            pair = Pair.load(folder) if folder.exists() else None
        except UserError:  # damaged: what a cache holds can be made again
            shutil.rmtree(folder)
            pair = None
        if pair is None:
            sample_pair(index, settings, references, progress).save(folder)
            pair = Pair.load(folder)  # rounded to 8 bit, as every later run will find it
        pairs.append(pair)
    return pairs
