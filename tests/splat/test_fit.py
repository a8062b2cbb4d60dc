"""Fitting a splat: it learns, it is repeatable, and it leaves the caller's randomness alone."""

import pytest
import torch

from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.metrics import psnr
from chopgrad_ns.splat import Cameras, Gaussians, render
from chopgrad_ns.splat.fit import FitSettings, fit
from tests.splat.scenes import cameras

WIDTH, HEIGHT = 64, 48


@pytest.fixture(scope="module")
def views():
    """Photos of a coloured, opaque splat, the cameras, and points on it."""
    generator = torch.Generator().manual_seed(3)
    xyz = torch.rand(400, 3, generator=generator) * torch.tensor([4.0, 3.0, 1.0])
    xyz += torch.tensor([-2.0, -1.5, 3.5])
    rgb = 0.5 + 0.5 * torch.sin(3 * xyz)
    truth = Gaussians.from_points(xyz, rgb, sh_degree=0)
    truth.opacity_logits[:] = 3.0
    path = Cameras(*cameras(6, WIDTH, HEIGHT), WIDTH, HEIGHT)
    photos = render(truth, path).rgb
    points = xyz[::2] + 0.02 * torch.randn(200, 3, generator=generator)
    return photos, path, points, rgb[::2]


def test_fit_improves_seen_and_unseen_views(views):
    photos, path, points, rgb = views
    train, held = [0, 1, 3, 4], [2]
    ticks = []
    settings = FitSettings(steps=150, sh_degree=1)
    made = fit(photos[train], path[train], points, rgb, settings, lambda *tick: ticks.append(tick))
    start = render(Gaussians.from_points(points, rgb), path).rgb
    drawn = render(made, path).rgb
    assert psnr(drawn[train], photos[train]).mean() > psnr(start[train], photos[train]).mean() + 6
    assert psnr(drawn[held], photos[held]).mean() > psnr(start[held], photos[held]).mean() + 4
    assert [tick[:2] for tick in ticks] == [(step, 150) for step in range(1, 151)]
    assert ticks[-1][2]().endswith(f", {len(made)} Gaussians")
    assert len(made) > len(points) and made.sh_degree == 1 and not made.means.requires_grad


def test_fit_is_repeatable_and_leaves_the_global_generator_alone(views):
    photos, path, points, rgb = views
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = fit(photos, path, points, rgb, FitSettings(steps=60))
    assert torch.equal(torch.rand(1), expected)
    second = fit(photos, path, points, rgb, FitSettings(steps=60))
    assert torch.equal(first.means, second.means) and torch.equal(first.sh, second.sh)
    other = fit(photos, path, points, rgb, FitSettings(steps=60, seed=1))
    assert not torch.equal(first.sh[:10], other.sh[:10])


def test_number_of_gaussians_is_capped(views):
    photos, path, points, rgb = views
    made = fit(photos, path, points, rgb, FitSettings(steps=120, grow_gradient=1e-9, max_gaussians=300))
    assert len(made) <= 300


def test_degenerate_points_and_tiny_pictures(views):
    photos, path, points, rgb = views
    bad = torch.cat([points, torch.full((3, 3), float("nan")), points[:1].expand(5, 3)])
    small = torch.nn.functional.interpolate(photos, size=(6, 8), mode="area")
    made = fit(small, path.resized(8, 6), bad, torch.cat([rgb, rgb[:8]]), FitSettings(steps=20))
    assert len(made) and torch.isfinite(made.means).all()


def test_one_view_one_point(views):
    photos, path, points, rgb = views
    made = fit(photos[:1], path[:1], points[:1], rgb[:1], FitSettings(steps=10))
    assert len(made) == 1


def test_nothing_to_fit_is_refused(views):
    photos, path, points, rgb = views
    with pytest.raises(UserError, match="0 views"):
        fit(photos[:0], path[:0], points, rgb)
    with pytest.raises(UserError, match="0 points"):
        fit(photos, path, points[:0], rgb[:0])


def same(a, b):
    return torch.equal(a.means, b.means) and torch.equal(a.sh, b.sh) and torch.equal(a.opacity_logits, b.opacity_logits)


def test_what_is_masked_is_never_looked_at(views):
    photos, path, points, rgb = views
    masks = torch.ones_like(photos[:, :1], dtype=torch.bool)
    masks[:, :, 10:30, 20:45] = False
    depths = torch.full_like(photos[:, :1], 4.0)
    settings = FitSettings(steps=60)

    def fitted(garbage):
        return fit(torch.where(masks, photos, garbage), path, points, rgb, settings,
                   depths=torch.where(masks, depths, 1 + garbage[:, :1]), masks=masks)

    first = fitted(torch.zeros_like(photos))
    assert same(first, fitted(torch.rand_like(photos))) and same(first, fitted(torch.full_like(photos, torch.nan)))
    drawn = render(first, path).rgb
    error = (drawn - photos).abs().mean(dim=1, keepdim=True)
    start = (render(Gaussians.from_points(points, rgb), path).rgb - photos).abs().mean(dim=1, keepdim=True)
    assert error[masks].mean() < 0.5 * start[masks].mean()


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
def test_masks_of_everything_change_nothing_and_others_do(views, strategy):
    photos, path, points, rgb = views
    settings = FitSettings(steps=40, strategy=strategy)
    plain = fit(photos, path, points, rgb, settings)
    masks = torch.ones_like(photos[:, :1], dtype=torch.bool)
    assert same(plain, fit(photos, path, points, rgb, settings, masks=masks))
    masks[:, :, :, :30] = False
    assert not same(plain, fit(photos, path, points, rgb, settings, masks=masks))


def test_nothing_is_left_where_images_are_transparent(views):
    photos, path, points, rgb = views
    alphas = torch.zeros_like(photos[:, :1])
    alphas[:, :, :, 32:] = 1
    shown = [render(fit(image, path, points, rgb, FitSettings(steps=150), alphas=alphas), path).alpha
             for image in (photos, torch.where(alphas > 0, photos, 0.3))]
    assert torch.equal(*shown)
    assert shown[0][..., :28].mean() < 0.1 and shown[0][..., 12:36, 36:60].mean() > 0.9


def test_masks_and_alphas_that_do_not_fit_are_refused(views):
    photos, path, points, rgb = views
    ones = torch.ones_like(photos[:, :1])
    with pytest.raises(ValueError, match="masks have shape"):
        fit(photos, path, points, rgb, masks=ones[1:] > 0)
    with pytest.raises(ValueError, match="not bool"):
        fit(photos, path, points, rgb, masks=ones)
    with pytest.raises(ValueError, match="random_background"):
        fit(photos, path, points, rgb, FitSettings(random_background=False), alphas=ones)
