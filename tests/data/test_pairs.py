"""The four ways to make a splat too little: each fits to, shows, and teaches what it says."""

import pytest
import torch

from chopgrad_ns.data.pairs import (by_camera, camera_plans, fit_ensemble, fit_plan, fold_plans, folds, sparse_plan, splat_pair,
                                    underfit_plan)
from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.fit import FitSettings
from chopgrad_ns.splat.ensemble import together
from chopgrad_ns.splat.render import render
from tests.worlds import plane_views

SETTINGS = FitSettings(steps=30)


def made(views, plan, **options):
    return splat_pair(views, plan, fit_plan(views, plan), **options)


@pytest.fixture(scope="module")
def views():
    return plane_views(6)


def test_sparse_views(views):
    plan = sparse_plan(6, 3, SETTINGS)
    assert (plan.fitted, plan.shown, plan.detail) == ((0, 3), (0, 1, 2, 3, 4, 5), {"every": 3})
    pair = made(views, plan)
    assert torch.equal(pair.clean, views.photos)
    assert pair.valid.flatten(1).amax(dim=1).tolist() == [0, 1, 1, 0, 1, 1]


def garbled(views, indices):
    other = views.subset(list(range(len(views))))
    other.photos = views.photos.clone()
    other.photos[indices] = torch.rand_like(views.photos[indices])
    return other


@pytest.mark.parametrize("plan", [sparse_plan(6, 3, SETTINGS), fold_plans(6, 3, SETTINGS)[1],
                                  camera_plans(list("aabbcc"), SETTINGS)[1]], ids=lambda plan: plan.way)
def test_what_a_splat_was_not_fitted_to_does_not_show(views, plan):
    """Other photos there change the truth and nothing else: not the render, not the references."""
    unseen = [index for index in range(6) if index not in plan.fitted]
    pair, other = made(views, plan), made(garbled(views, unseen), plan)
    for name in ("frames", "alpha", "depth", "references", "reference_masks"):
        assert torch.equal(getattr(pair.degraded, name), getattr(other.degraded, name)), name
    assert not torch.equal(pair.clean, other.clean)
    seen = garbled(views, [plan.fitted[0]])
    assert not torch.equal(pair.degraded.frames, made(seen, plan).degraded.frames)


def test_folds_hold_each_view_out_once(views):
    plans = fold_plans(6, 3, SETTINGS)
    left_out = [set(range(6)) - set(plan.fitted) for plan in plans]
    assert sorted(index for part in left_out for index in part) == list(range(6)) and len(plans) == 3
    assert [plan.detail for plan in plans] == [{"fold": k, "folds": 3} for k in range(3)]
    assert folds(2, 2) == [] and folds(3, 9) == [[0], [1], [2]]


def test_underfitting_is_early_small_and_sees_everything(views):
    plan = underfit_plan(6, 5, 40, FitSettings(steps=60))
    assert plan.fitted == plan.shown == tuple(range(6))
    poor, good = fit_plan(views, plan), fit_plan(views, sparse_plan(6, 2, FitSettings(steps=60)))
    assert plan.settings.steps == 5 and plan.settings.max_gaussians == 40 and len(poor) <= len(good)
    pair = splat_pair(views, plan, poor)
    assert pair.valid.min() == 1
    # A frame's own photo would give everything away.
    changed = splat_pair(garbled(views, [2]), plan, poor)
    assert torch.equal(changed.degraded.references[2], pair.degraded.references[2])
    assert not torch.equal(changed.degraded.references[1], pair.degraded.references[1])


def test_a_camera_is_held_out(views):
    cameras = ["front", "front", "left", "left", "left", "back"]
    plans = camera_plans(cameras, SETTINGS)
    assert [(plan.name, plan.shown) for plan in plans] == [
        ("without-back", (5,)), ("without-front", (0, 1)), ("without-left", (2, 3, 4))]
    assert all(set(plan.fitted) == set(range(6)) - set(plan.shown) for plan in plans)
    pair = made(views, plans[1])
    assert torch.equal(pair.clean, views.photos[:2]) and pair.valid.min() == 1
    with pytest.raises(UserError, match="one camera"):
        camera_plans(["front"] * 4, SETTINGS)


def test_one_trajectory_for_each_camera_of_a_rig():
    plan = sparse_plan(6, 2, SETTINGS)
    assert by_camera(plan, ["only"] * 6) == [plan]
    left, right = by_camera(plan, list("lllrrr"))
    assert (left.name, left.shown, right.shown) == ("sparse-2-l", (0, 1, 2), (3, 4, 5))
    assert left.fitted == right.fitted == plan.fitted and left.detail == {"every": 2, "camera": "l"}


def test_a_camera_whose_views_were_all_fitted_teaches_nothing(views):
    cameras = list("aabbbb")
    parts = [part for plan in fold_plans(6, 3, SETTINGS) for part in by_camera(plan, cameras)]
    assert [part.name for part in parts] == ["fold-0-a", "fold-0-b", "fold-1-a", "fold-1-b", "fold-2-b"]
    for part in parts:
        pair = made(views, part)
        assert pair.valid.max() == 1 and len(pair) == len(part.shown)
    (part, _) = by_camera(underfit_plan(6, 5, 40, SETTINGS), cameras)
    assert part.shown == (0, 1) and made(views, part).valid.min() == 1


@pytest.mark.parametrize("count, every", [(6, 1), (6, 6), (6, 7), (2, 2)])
def test_too_few_views(count, every):
    with pytest.raises(UserError, match="--sparse-every"):
        sparse_plan(count, every, SETTINGS)


def test_without_references_and_with_their_photos(views):
    plan = sparse_plan(6, 3, SETTINGS)
    splat = fit_plan(views, plan)
    assert splat_pair(views, plan, splat, references=0).degraded.references is None
    kept = splat_pair(views, plan, splat, keep_photos=True)
    again = kept.reference_photos.warp(kept.degraded.cameras, kept.degraded.depth, kept.degraded.alpha)
    assert torch.equal(again[0], kept.degraded.references) and torch.equal(again[1], kept.degraded.reference_masks)
    assert all(any(torch.equal(photo, views.photos[index]) for index in plan.fitted) for photo in kept.reference_photos.photos)


def test_what_masks_leave_out_is_neither_fitted_nor_taught_nor_warped(views):
    masks = torch.ones(6, 1, *views.photos.shape[-2:], dtype=torch.bool)
    masks[:, :, 10:30, 20:40] = False
    hidden = views.subset(list(range(6)))
    hidden.masks = masks
    garbage = hidden.subset(list(range(6)))
    garbage.photos = torch.where(masks, views.photos, torch.rand_like(views.photos))
    plan = sparse_plan(6, 3, SETTINGS)
    pair, other, plain = made(hidden, plan), made(garbage, plan), made(views, plan)
    for name in ("frames", "alpha", "depth", "reference_masks"):
        assert torch.equal(getattr(pair.degraded, name), getattr(other.degraded, name)), name
    assert torch.equal(pair.valid, plain.valid * masks) and not torch.equal(pair.degraded.frames, plain.degraded.frames)
    assert pair.degraded.reference_masks.mean() < plain.degraded.reference_masks.mean()
    sure = pair.degraded.reference_masks > 0.99
    seen = [torch.where(sure, each.degraded.references, torch.zeros(())) for each in (pair, other)]
    assert torch.equal(*seen), "no colour comes from under a mask"


def test_views_keep_their_masks_and_check_them(views):
    masks = torch.rand(6, 1, *views.photos.shape[-2:]) > 0.5
    masked = type(views)(views.photos, views.cameras, views.points, views.colors, masks=masks)
    assert torch.equal(masked.subset([1, 4]).masks, masks[[1, 4]]) and torch.equal(masked.to("cpu").masks, masks)
    with pytest.raises(ValueError, match="masks"):
        type(views)(views.photos, views.cameras, views.points, views.colors, masks=masks[:, :, 1:])


def test_an_ensemble_shows_the_median_of_its_splats(views):
    """Each from a seed of its own, the first the plain one; photos are warped by the depth that they have together."""
    plan, told = sparse_plan(6, 3, SETTINGS), []
    splats = fit_ensemble(views, plan, 3, lambda step, steps, note: told.append((step, steps)))
    plain = fit_plan(views, plan)
    assert torch.equal(splats[0].means, plain.means)
    seen = [render(splat, views.cameras) for splat in splats]
    assert all((seen[0].rgb - other.rgb).abs().max() > 1e-3 for other in seen[1:]) and not torch.equal(seen[1].rgb, seen[2].rgb)
    pair, alone = splat_pair(views, plan, splats), splat_pair(views, plan, plain)
    assert torch.equal(pair.degraded.frames, together(torch.stack([one.rgb for one in seen])))
    assert torch.equal(pair.degraded.alpha, torch.stack([one.alpha for one in seen]).median(dim=0).values)
    everywhere = torch.stack([one.depth for one in seen]).amin(dim=0) > 0
    middle = torch.stack([one.depth for one in seen]).median(dim=0).values
    assert everywhere.float().mean() > 0.5 and torch.equal(pair.degraded.depth[everywhere], middle[everywhere])
    two = render(splats[:2], views.cameras)
    assert torch.equal(two.rgb, together(torch.stack([seen[0].rgb, seen[1].rgb])))
    assert torch.allclose(two.alpha, (seen[0].alpha + seen[1].alpha) / 2, atol=1e-6)
    assert torch.equal(pair.valid, alone.valid) and not torch.equal(pair.degraded.references, alone.degraded.references)
    assert told[-1] == (90, 90) and [step for step, _ in told] == sorted(step for step, _ in told)
    for name in ("frames", "alpha"):
        assert torch.equal(getattr(splat_pair(views, plan, splats[:1]).degraded, name), getattr(alone.degraded, name))
    nothing = splats[0][[]]
    seen, half = render(splats[0], views.cameras[:1]), render([splats[0], nothing], views.cameras[:1])
    assert torch.equal(half.depth, seen.depth.clamp_min(0)), "where only one has any"
    assert torch.allclose(half.alpha, seen.alpha / 2)
