"""Degraded/clean pairs from captures: what a splat shows that was fitted to too little, beside what was really there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.references import REFERENCES
from chopgrad_ns.data.render_clip import reference_photos, with_references
from chopgrad_ns.data.views import Views
from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.fit import FitSettings, Progress, fit
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.render import render

Way = Literal["sparse", "folds", "underfit", "cameras"]
NamedProgress = Callable[[str, int, int, Callable[[], str]], None]
"""`Progress` of one of several fits, told with its name."""


@dataclass(frozen=True)
class SplatPlan:
    """A pair to be made: which views a splat is fitted to, and which it is then shown at.

    Indices of views, in their order. With `own` false a shown view's own photo is not among its references. `detail` says
    what is particular to the way: the fold, for instance.
    """

    name: str
    way: Way
    fitted: tuple[int, ...]
    shown: tuple[int, ...]
    settings: FitSettings
    detail: dict
    own: bool = True


def sparse_plan(count: int, every: int, settings: FitSettings) -> SplatPlan:
    """Fitted to every `every`-th view, shown at all (the paper's every 50th; Rivkin et al.)."""
    fitted = tuple(range(0, count, every))
    if every < 2 or len(fitted) < 2:
        raise UserError(f"Every {every}th of {count} views leaves {len(fitted)} to fit a splat to and {count - len(fitted)} to "
                        "learn from; give a --sparse-every that leaves at least 2 and not all.")
    return SplatPlan(f"sparse-{every}", "sparse", fitted, tuple(range(count)), settings, {"every": every})


def folds(count: int, number: int) -> list[list[int]]:
    """Split 0…count−1 into interleaved folds, each leaving at least two views to fit to.

    >>> folds(7, 3)
    [[0, 3, 6], [1, 4], [2, 5]]
    """
    number = min(number, count)
    return [part for part in (list(range(k, count, number)) for k in range(number)) if count - len(part) >= 2]


def fold_plans(count: int, number: int, settings: FitSettings) -> list[SplatPlan]:
    """For each of `number` folds, fitted without it, shown at all views."""
    plans = []
    for index, left_out in enumerate(folds(count, number)):
        fitted = tuple(i for i in range(count) if i not in left_out)
        plans.append(SplatPlan(f"fold-{index}", "folds", fitted, tuple(range(count)), settings,
                               {"fold": index, "folds": number}))
    return plans


def underfit_plan(count: int, steps: int, max_gaussians: int, settings: FitSettings) -> SplatPlan:
    """Fitted to all views, but stopped early and with few Gaussians; every frame is there to learn from."""
    poor = replace(settings, steps=steps, max_gaussians=max_gaussians)
    everything = tuple(range(count))
    return SplatPlan(f"underfit-{steps}-{max_gaussians}", "underfit", everything, everything, poor,
                     {"steps": steps, "max_gaussians": max_gaussians}, own=False)


def camera_plans(cameras: Sequence[str], settings: FitSettings) -> list[SplatPlan]:
    """For each camera of a rig, fitted to the other ones' views, shown at its own. `cameras` names that of each view."""
    names = sorted(set(cameras))
    if len(names) < 2:
        raise UserError(f"The scene has one camera ({names[0]}), and none can be held out; leave the way cameras out, or put "
                        "each camera's photos into a folder of its own.")
    plans = []
    for name in names:
        shown = tuple(i for i, camera in enumerate(cameras) if camera == name)
        fitted = tuple(i for i, camera in enumerate(cameras) if camera != name)
        if len(fitted) >= 2:
            plans.append(SplatPlan(f"without-{name}", "cameras", fitted, shown, settings, {"camera": name}))
    return plans


def by_camera(plan: SplatPlan, cameras: Sequence[str]) -> list[SplatPlan]:
    """One plan for each camera's shown views: a clip is one trajectory. `cameras` names that of each view."""
    names = sorted({cameras[index] for index in plan.shown})
    if len(names) == 1:
        return [plan]
    parts = [replace(plan, name=f"{plan.name}-{name}", shown=tuple(i for i in plan.shown if cameras[i] == name),
                     detail=plan.detail | {"camera": name}) for name in names]
    # A camera whose views were all fitted shows nothing to learn from.
    return [part for part in parts if not (part.own and set(part.shown) <= set(part.fitted))]


def fit_views(views: Views, settings: FitSettings, progress: Progress | None = None) -> Gaussians:
    """A splat of all views, their depths and masks included."""
    return fit(views.photos, views.cameras, views.points, views.colors, settings, progress, views.depths, views.masks)


def fit_plan(views: Views, plan: SplatPlan, progress: Progress | None = None) -> Gaussians:
    """The splat of a plan; those of plans with the same `fitted` and `settings` are the same."""
    return fit_views(views.subset(list(plan.fitted)), plan.settings, progress)


def fit_ensemble(views: Views, plan: SplatPlan, count: int, progress: Progress | None = None) -> list[Gaussians]:
    """So many splats of a plan, of one seed after another; the first is `fit_plan`'s. `progress` is told of all as one fit."""
    def report(number: int):
        return None if progress is None else lambda step, steps, note: progress(number * steps + step, count * steps, note)

    return [fit_plan(views, replace(plan, settings=replace(plan.settings, seed=plan.settings.seed + number)), report(number))
            for number in range(count)]


def splat_pair(views: Views, plan: SplatPlan, splat: Gaussians | Sequence[Gaussians], references: int = REFERENCES,
               keep_photos: bool = False) -> Pair:
    """Render a plan's splat, or an ensemble, at the shown views in order, and pair that with their photos.

    Only views that the splat was not fitted to are `valid` as a target (all are where a view's own photo is no reference):
    on the others the render is nearly right and would teach a refiner to do nothing. Nor is what the views' masks leave out.
    References are fitted photos alone.

    Args:
        keep_photos: keep what references are warped from in the pair, so that it is stored instead of them.
    """
    shown = list(plan.shown)
    cameras, photos = views.cameras[shown], None
    if references:
        photos = reference_photos(splat, cameras, views, references, plan.fitted,
                                  exclude=None if plan.own else torch.tensor(shown))
    clip = with_references(render(splat, cameras), cameras, photos)
    valid = torch.ones_like(clip.alpha)
    if plan.own:
        valid[[position for position, index in enumerate(shown) if index in plan.fitted]] = 0
    if views.masks is not None:
        valid = valid * views.masks[shown]
    return Pair(clip, views.photos[shown], plan.name, valid, photos if keep_photos else None)


def fold_pairs(views: Views, number: int, settings: FitSettings, references: int = REFERENCES,
               progress: NamedProgress | None = None) -> Iterator[Pair]:
    """k-fold pairs of the training views: for each fold, a splat fitted without it, seen from all cameras; a pair for each
    camera of a rig.
    """
    for plan in fold_plans(len(views), number, settings):
        report = None if progress is None else (lambda *tick, name=plan.name: progress(name, *tick))
        splat = fit_plan(views, plan, report)
        for part in [plan] if views.rig is None else by_camera(plan, views.rig.names):
            yield splat_pair(views, part, splat, references)
