"""Degraded/clean pairs from captures: what a splat shows where it was not fitted, beside what was really there."""

from collections.abc import Callable, Iterator, Sequence

import torch

from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.render_clip import render_clip
from chopgrad_ns.data.views import Views
from chopgrad_ns.splat.fit import FitSettings, Progress, fit

NamedProgress = Callable[[str, int, int, Callable[[], str]], None]
"""`Progress` of one of several fits, told with its name."""


def held_out_pair(views: Views, fitted: Sequence[int], name: str, settings: FitSettings, references: int = 2,
                  progress: Progress | None = None) -> Pair:
    """Fit a splat to the views `fitted`, render all views in order, and pair the render with the photos.

    Only frames that the splat was not fitted to are `valid` as a target: on the others the render is nearly right
    and would teach a refiner to do nothing. References are the fitted photos alone.
    """
    part = views.subset(list(fitted))
    splat = fit(part.photos, part.cameras, part.points, part.colors, settings, progress, part.depths)
    clip = render_clip(splat, views.cameras, views, count=references, usable=fitted)
    valid = torch.ones_like(clip.alpha)
    valid[list(fitted)] = 0
    return Pair(degraded=clip, clean=views.photos, name=name, valid=valid)


def folds(count: int, number: int) -> list[list[int]]:
    """Split 0…count−1 into interleaved folds, each leaving at least two views to fit to.

    >>> folds(7, 3)
    [[0, 3, 6], [1, 4], [2, 5]]
    """
    number = min(number, count)
    return [part for part in (list(range(k, count, number)) for k in range(number)) if count - len(part) >= 2]


def fold_pairs(views: Views, number: int, settings: FitSettings, references: int = 2,
               progress: NamedProgress | None = None) -> Iterator[Pair]:
    """k-fold pairs of the training views: for each fold, a splat fitted without it, seen from its cameras."""
    for index, left_out in enumerate(folds(len(views), number)):
        fitted = [i for i in range(len(views)) if i not in left_out]
        name = f"fold-{index}"
        report = None if progress is None else (lambda *tick, name=name: progress(name, *tick))
        yield held_out_pair(views, fitted, name, settings, references, report)
