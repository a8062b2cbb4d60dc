"""MCMC in plain torch: the relocation formula against an oracle and its meaning, moves, growth, noise."""

import math

import pytest
import torch

from chopgrad_ns.splat.mcmc import MOST_SHARES, AnyDeviceMCMC, divide, wander


def divide_oracle(opacity: float, shares: int) -> tuple[float, float]:
    """Equation 9 of the paper as it stands: new opacity, and new scale over old."""
    new = 1 - (1 - opacity) ** (1 / shares)
    total = sum(math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1)
                for i in range(1, shares + 1) for k in range(i))
    return new, opacity / total


def gaussians(count: int = 200, seed: int = 0, opacity_shape: tuple = ()):
    """Trained parameters with an optimizer each that has taken a step, so that moments are there."""
    generator = torch.Generator().manual_seed(seed)
    values = {"means": torch.randn(count, 3, generator=generator),
              "scales": torch.randn(count, 3, generator=generator) - 2,
              "quats": torch.randn(count, 4, generator=generator),
              "opacities": torch.randn(count, *opacity_shape, generator=generator), "sh0": torch.randn(count, 1, 3)}
    params = torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in values.items()})
    optimizers = {name: torch.optim.Adam([value], lr=1e-3) for name, value in params.items()}
    sum((value**2).sum() for value in params.values()).backward()
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    return params, optimizers


def moments(params, optimizers, name: str = "means"):
    return optimizers[name].state[params[name]]["exp_avg"]


@pytest.mark.parametrize("opacity", [0.006, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("shares", [1, 2, 7, MOST_SHARES])
def test_shares_are_those_of_equation_9(opacity, shares):
    new, scales = divide(torch.tensor([opacity]), torch.tensor([[0.5, 1.0, 2.0]]), torch.tensor([shares]))
    expected, factor = divide_oracle(float(torch.tensor(opacity)), shares)
    assert float(new) == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(scales, torch.tensor([[0.5, 1.0, 2.0]]) * factor, rtol=1e-5)


@pytest.mark.parametrize("shares", [2, 5])
def test_shares_together_look_like_the_whole(shares):
    """Composited over each other: the old opacity in the middle, and along a line the old integral."""
    opacity, sigma = 0.8, 0.7
    new, scale = divide(torch.tensor([opacity]), torch.full((1, 3), sigma), torch.tensor([shares]))
    x = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    share = float(new) * torch.exp(-x**2 / (2 * float(scale[0, 0]) ** 2))
    transmittance = torch.ones_like(x)
    for _ in range(shares):
        transmittance = transmittance * (1 - share)
    assert float(1 - transmittance.min()) == pytest.approx(opacity, abs=1e-6)
    integral = float(torch.trapezoid(1 - transmittance, x))
    assert integral == pytest.approx(opacity * sigma * math.sqrt(2 * math.pi), rel=1e-5)


def test_more_than_the_most_shares_are_counted_as_the_most():
    values = torch.tensor([0.5]), torch.ones(1, 3)
    assert torch.equal(divide(*values, torch.tensor([1000]))[1], divide(*values, torch.tensor([MOST_SHARES]))[1])
    opaque = divide(torch.tensor([1.0]), torch.ones(1, 3), torch.tensor([51]))
    assert all(torch.isfinite(value).all() for value in opaque)


@pytest.mark.parametrize("opacity_shape", [(), (1,)])
def test_faded_ones_are_moved_to_live_ones(opacity_shape):
    params, optimizers = gaussians(opacity_shape=opacity_shape)
    faded = torch.arange(0, 200, 4)
    params["opacities"].data[faded] = -9.0
    params["opacities"].data[1] = float("nan")
    before = {name: value.detach().clone() for name, value in params.items()}
    torch.manual_seed(0)
    moved = AnyDeviceMCMC()._relocate_gs(params, optimizers, None)
    assert moved == len(faded) + 1 and len(params["means"]) == 200
    assert torch.isfinite(params["opacities"]).all() and (params["opacities"].sigmoid() >= 0.0049).all()
    alive = before["opacities"].flatten() > -5
    for index in [*faded.tolist(), 1]:
        source = (params["means"][index] == before["means"]).all(dim=1).nonzero().flatten()
        assert len(source) == 1 and alive[source], "it lies where a live one does"
        assert torch.equal(params["sh0"][index], before["sh0"][source[0]])
        assert (params["opacities"][index] < before["opacities"][source[0]]).all(), "and shares its opacity"
        assert torch.equal(params["scales"][index], params["scales"][source[0]])
        assert not moments(params, optimizers)[index].any() and moments(params, optimizers)[source].all()
    untouched = (params["opacities"] == before["opacities"]).flatten()
    assert 50 < untouched.sum() < 150 and moments(params, optimizers)[untouched].all()


def test_none_alive_none_moved():
    params, optimizers = gaussians()
    params["opacities"].data[:] = -9.0
    assert AnyDeviceMCMC()._relocate_gs(params, optimizers, None) == 0


def test_growth_is_five_percent_up_to_the_cap():
    params, optimizers = gaussians()
    strategy = AnyDeviceMCMC(cap_max=226, refine_start_iter=0, refine_every=1)
    counts = []
    for step in range(1, 6):
        strategy.step_post_backward(params, optimizers, strategy.initialize_state(), step, {}, lr=0.0)
        counts.append(len(params["means"]))
    assert counts == [210, 220, 226, 226, 226]
    assert all(len(value) == 226 and value.requires_grad for value in params.values())
    assert all(optimizers[name].param_groups[0]["params"][0] is params[name] for name in params)
    assert not moments(params, optimizers)[200:].any() and moments(params, optimizers)[:200].all()


def test_no_refinement_outside_its_steps():
    params, optimizers = gaussians()
    strategy = AnyDeviceMCMC(refine_start_iter=10, refine_stop_iter=20, refine_every=5)
    for step in (5, 10, 12, 20, 25):
        strategy.step_post_backward(params, optimizers, strategy.initialize_state(), step, {}, lr=0.0)
    assert len(params["means"]) == 200
    strategy.step_post_backward(params, optimizers, strategy.initialize_state(), 15, {}, lr=0.0)
    assert len(params["means"]) == 210


def test_noise_has_the_shape_of_the_gaussian():
    """The step is size·gate·Σ·η, so its covariance is Σ², with the axes of Σ = R S² Rᵀ."""
    count, quat, scales = 200_000, torch.tensor([0.9, 0.3, -0.2, 0.4]), torch.tensor([0.5, 1.0, 2.0])
    torch.manual_seed(0)
    steps = wander(torch.zeros(count), scales.expand(count, 3), 3 * quat.expand(count, 4), size=0.1)
    w, v = float(quat[0] / quat.norm()), quat[1:] / quat.norm()
    skew = torch.tensor([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    rotation = torch.eye(3) + 2 * w * skew + 2 * skew @ skew
    covariance = rotation @ torch.diag(scales**2) @ rotation.T
    gate = 1 / (1 + math.exp(-0.5))
    expected = (0.1 * gate) ** 2 * covariance @ covariance
    assert (steps.T.cov() - expected).norm() < 0.01 * expected.norm()


def test_noise_spares_opaque_ones_and_follows_the_seed():
    opacities = torch.tensor([0.0, 0.005, 0.1, 0.9])
    scales, quats = torch.ones(4, 3), torch.randn(4, 4)
    torch.manual_seed(1)
    steps = wander(opacities, scales, quats, 1.0)
    assert (steps[0].norm() > 0.05) and (steps[2:].norm(dim=1) < 1e-3).all() and (steps[3].norm() < 1e-30)
    torch.manual_seed(1)
    assert torch.equal(wander(opacities, scales, quats, 1.0), steps)
    assert not torch.equal(wander(opacities, scales, quats, 1.0), steps)
