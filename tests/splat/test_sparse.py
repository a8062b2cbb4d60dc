"""Priors for few views: each term against a slow version, what it ignores, and what it does to a fit."""

import pytest
import torch

from chopgrad_ns.splat import Gaussians, render
from chopgrad_ns.splat.fit import FitSettings, fit
from chopgrad_ns.splat.sparse import depth_loss, gaussian_regulariser, regularisation
from tests.worlds import DISTANCE, plane_cameras, plane_photos, plane_points


def maps(seed: int = 0):
    """Drawn depth, alpha and prior, with pixels of every kind of unknown."""
    generator = torch.Generator().manual_seed(seed)
    depth, prior = (1 + torch.rand(1, 6, 7, generator=generator) for _ in range(2))
    alpha = torch.rand(1, 6, 7, generator=generator)
    prior[0, 0, :4] = torch.tensor([0.0, float("nan"), float("inf"), -1.0])
    depth[0, 1, 0], alpha[0, 1, 1] = 0.0, 0.0
    return depth, alpha, prior


def known_pixels(depth, alpha, prior):
    """(alpha, disparity drawn, disparity of the prior) in double precision, pixel by pixel."""
    flat = zip(*(image.double().flatten().tolist() for image in (alpha, depth, prior)))
    return [(a, 1 / z, 1 / p) for a, z, p in flat if a > 0 and z > 0 and 0 < p < float("inf")]


def test_metric_depth_is_the_mean_difference_of_disparities():
    depth, alpha, prior = maps()
    pixels = known_pixels(depth, alpha, prior)
    assert len(pixels) == 42 - 6
    expected = 2.5 * sum(a * abs(d - p) for a, d, p in pixels) / 42
    assert float(depth_loss(depth, alpha, prior, "metric", 2.5)) == pytest.approx(expected, rel=1e-5)


def test_relative_depth_is_the_correlation_of_disparities():
    depth, alpha, prior = maps()
    pixels = known_pixels(depth, alpha, prior)
    total = sum(a for a, _, _ in pixels)
    mean_d, mean_p = sum(a * d for a, d, _ in pixels) / total, sum(a * p for a, _, p in pixels) / total
    covariance = sum(a * (d - mean_d) * (p - mean_p) for a, d, p in pixels)
    variances = sum(a * (d - mean_d) ** 2 for a, d, _ in pixels), sum(a * (p - mean_p) ** 2 for a, _, p in pixels)
    expected = (1 - covariance / (variances[0] * variances[1]) ** 0.5) * total / 42
    assert float(depth_loss(depth, alpha, prior, "relative", 1.0)) == pytest.approx(expected, rel=1e-4)


def test_relative_depth_ignores_scale_and_shift_of_disparity_and_metric_does_not():
    depth, alpha, _ = maps()
    alike = 1 / (0.3 / depth + 2)
    assert float(depth_loss(depth, alpha, alike, "relative", 1.0)) == pytest.approx(0, abs=1e-5)
    assert float(depth_loss(depth, alpha, alike, "metric", 1.0)) > 0.3
    assert float(depth_loss(depth, alpha, depth, "metric", 1.0)) == 0


@pytest.mark.parametrize("kind", ["metric", "relative"])
def test_depth_gradient(kind):
    depth, alpha, prior = (image.double() for image in maps())
    depth[0, 1, 0] = 1.5  # where nothing is drawn the loss jumps
    depth.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: depth_loss(z, alpha, prior, kind, 2.0), depth)
    loss = depth_loss(depth, alpha.requires_grad_(), prior, kind, 2.0)
    loss.backward()
    assert alpha.grad is None and torch.isfinite(depth.grad).all()


@pytest.mark.parametrize("kind", ["metric", "relative"])
def test_nothing_known_nothing_lost(kind):
    depth, alpha, _ = maps()
    assert depth_loss(depth, alpha, torch.zeros_like(depth), kind, 1.0).item() == 0


def test_regularisers_are_weighted_means_free_of_units():
    opacities, scales = torch.tensor([0.2, 0.6]), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]])
    assert float(gaussian_regulariser(opacities, scales, 2.0, 0.5, 0.0)) == pytest.approx(0.2)
    assert float(gaussian_regulariser(opacities, scales, 2.0, 0.0, 0.5)) == pytest.approx(1.0)
    assert float(gaussian_regulariser(opacities, 7 * scales, 14.0, 0.5, 0.5)) == pytest.approx(1.2)
    assert float(gaussian_regulariser(opacities, scales, 2.0, 0.0, 0.0)) == 0


def test_weights_that_are_not_given():
    assert regularisation(None, None, mcmc=True) == (0.01, 0.01)
    assert regularisation(None, None, mcmc=False) == (0.0, 0.0)
    assert regularisation(0.3, 0.0, mcmc=True) == (0.3, 0.0)


@pytest.fixture(scope="module")
def plane():
    """Two photos of the textured plane; every second point floats a third too near."""
    cameras = plane_cameras(5)[[0, 4]]
    points, colors = plane_points(400)
    points[::2] *= 0.67
    return plane_photos(cameras), cameras, points, colors


def depth_error(splat: Gaussians, cameras) -> float:
    seen = render(splat, cameras)
    return float(((seen.depth - DISTANCE).abs() * seen.alpha).sum() / seen.alpha.sum())


@pytest.mark.parametrize("kind", ["metric", "relative"])
def test_a_depth_prior_is_followed(plane, kind):
    photos, cameras, points, colors = plane
    depths = torch.full((2, 1, cameras.height, cameras.width), DISTANCE)
    depths[:, :, :8] = 0
    if kind == "relative":  # the plane seen by a monocular estimator, sloped so that there is something to correlate
        depths = 1 / (1 / depths + torch.linspace(0, 0.1, cameras.width))
    settings = (FitSettings(steps=60, sh_degree=0, depth_weight=weight, depth_prior=kind) for weight in (0.0, 1.0))
    plain, guided = (fit(*plane, setting, depths=depths) for setting in settings)
    if kind == "metric":
        assert depth_error(guided, cameras) < 0.8 * depth_error(plain, cameras)
    else:
        seen = (render(splat, cameras) for splat in (plain, guided))
        without, with_prior = (depth_loss(views.depth[0], views.alpha[0], depths[0], kind, 1.0) for views in seen)
        assert with_prior < 0.8 * without


def test_mcmc_fits_within_its_cap_and_repeats(plane):
    settings = FitSettings(steps=60, strategy="mcmc", max_gaussians=430, sh_degree=0)
    first, second = fit(*plane, settings), fit(*plane, settings)
    assert len(first) == 430 and torch.equal(first.means, second.means)
    photos, cameras, points, colors = plane
    start = render(Gaussians.from_points(points, colors), cameras).rgb
    assert (render(first, cameras).rgb - photos).abs().mean() < 0.7 * (start - photos).abs().mean()


def test_regularisers_reach_the_fit(plane):
    splats = [fit(*plane, FitSettings(steps=60, sh_degree=0, **options))
              for options in ({}, {"opacity_reg": 1.0}, {"scale_reg": 10.0})]
    opacity = [float(splat.opacity_logits.sigmoid().mean()) for splat in splats]
    scale = [float(splat.log_scales.exp().mean()) for splat in splats]
    assert opacity[1] < 0.9 * opacity[0] and scale[2] < 0.9 * scale[0]


def test_mcmc_does_not_depend_on_the_unit_of_length(plane):
    """In a world a hundred times as large the same splat comes out, noise and all."""
    photos, cameras, points, colors = plane
    large = type(cameras)(cameras.camera_from_world.clone(), cameras.K, cameras.width, cameras.height)
    large.camera_from_world[:, :3, 3] *= 100
    settings = FitSettings(steps=12, strategy="mcmc", sh_degree=0, random_background=False)
    small, big = fit(photos, cameras, points, colors, settings), fit(photos, large, 100 * points, colors, settings)
    assert len(small) == len(big)
    assert torch.allclose(100 * small.means, big.means, atol=0.05 * float((100 * points).std()))
