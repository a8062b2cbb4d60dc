"""What captures have and sample worlds lack, and splats of real things among what worlds show."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chopgrad_ns.data.references import lift
from chopgrad_ns.evaluate.metrics import psnr
from chopgrad_ns.sim.exhibits import LARGEST, exhibit
from chopgrad_ns.sim.flaws import LEAST_CONTRAST, WORST_STEP, WORST_TURN, soften, with_flaws
from chopgrad_ns.sim.sample import sample_clip
from chopgrad_ns.sim.world import KINDS
from chopgrad_ns.splat.gaussians import Gaussians


@pytest.fixture(scope="module")
def world():
    return sample_clip("closeup", 4, 6, 72, 48, 0.0)


def test_flaws_are_as_large_as_said_and_the_same_for_the_same_seed(world):
    flawed, again, other = with_flaws(world, 3), with_flaws(world, 3), with_flaws(world, 4)
    assert torch.equal(flawed.frames, again.frames) and not torch.equal(flawed.frames, other.frames)
    assert torch.equal(flawed.cameras.camera_from_world, again.cameras.camera_from_world)
    assert torch.equal(flawed.depth, world.depth), "what was there is as it was"
    for sample in (flawed, other):
        assert 0 <= sample.frames.min() and sample.frames.max() <= 1
        assert 12 < psnr(sample.frames, world.frames).mean() < 45
        assert LEAST_CONTRAST * 0.7 < sample.frames.std() / world.frames.std() < 1.1
        off = sample.cameras.camera_from_world.double() @ torch.linalg.inv(world.cameras.camera_from_world.double())
        turn = torch.rad2deg(torch.stack([off[:, 2, 1], off[:, 0, 2], off[:, 1, 0]]))
        assert 0 < turn.abs().max() < 5 * WORST_TURN
        assert torch.allclose(off[:, :3, :3] @ off[:, :3, :3].mT, torch.eye(3).double(), atol=1e-5)
        step = (sample.cameras.centers - world.cameras.centers).abs().max()
        assert 0 < step < 5 * WORST_STEP * world.depth[world.depth > 0].median() + 1e-5


def test_points_are_exposed_as_the_photos_are(world):
    """A point's colour is what a photo shows there, before and after."""
    brighter = with_flaws(replace(world, frames=torch.full_like(world.frames, 0.5),
                                  colors=torch.full_like(world.colors, 0.5)), 3)
    assert torch.allclose(brighter.colors.mean(), brighter.frames.mean(), atol=2e-3)


def test_a_softened_edge_has_the_given_width():
    edge = torch.zeros(1, 3, 9, 40)
    edge[..., 20:] = 1
    slope = soften(edge, 0.8)[0, 0, 4].diff()
    at = torch.arange(39) + 0.5
    assert slope.sum().item() == pytest.approx(1, abs=1e-4)
    assert ((slope * (at - (slope * at).sum()) ** 2).sum() ** 0.5).item() == pytest.approx(0.8, abs=0.02)
    assert torch.allclose(soften(torch.full((1, 3, 6, 8), 0.3), 0.9), torch.tensor(0.3))


def ball(color, count=3000):
    """A splat of a ball of radius 1 whose y axis points down: red below, of `color` above."""
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(count, 3))
    xyz = torch.from_numpy(xyz / np.linalg.norm(xyz, axis=1, keepdims=True)).float()
    splat = Gaussians.from_points(xyz, torch.where(xyz[:, 1:2] > 0, torch.tensor([1.0, 0, 0]), torch.tensor(color)), 0)
    return replace(splat, opacity_logits=torch.full((count,), 4.0))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "street"])
def test_exhibits_stand_upright_where_the_cameras_look(kind):
    plain = sample_clip(kind, 4, 5, 72, 48, 0.0)
    shown = exhibit(plain, ball([0.0, 0, 1]), 1)
    changed = (shown.frames - plain.frames).abs().amax(dim=1, keepdim=True) > 0.2
    assert 0.002 < changed.float().mean() < 0.8
    nearer = changed & (shown.depth < plain.depth.where(plain.depth > 0, torch.tensor(torch.inf)))
    assert nearer.sum() > 0.5 * changed.sum(), "in front of the world"
    assert not torch.equal(shown.points, plain.points) and len(shown.points) == len(shown.colors)
    index = int(nearer.sum(dim=(1, 2, 3)).argmax())
    places = lift(shown.cameras[index], shown.depth[index])[nearer[index].flatten()]
    colors = shown.frames[index].flatten(1).T[nearer[index].flatten()]
    blue, red = (places[(colors[:, c] > 0.5) & (colors[:, 2 - c] < 0.4)][:, 2] for c in (2, 0))
    assert len(blue) and len(red) and blue.mean() > red.mean(), "up is up"
    away = (places.mean(0) - shown.cameras.centers).norm(dim=1).median()
    wide = (places.quantile(0.95, 0) - places.quantile(0.05, 0)).max()  # a blurred edge lies anywhere behind
    assert wide < LARGEST * away * shown.cameras.height / shown.cameras.K[0, 0, 0]


def test_an_exhibit_behind_a_wall_is_hidden(world):
    near = replace(world, depth=torch.full_like(world.depth, 1e-3))
    hidden = exhibit(near, ball([0.0, 0, 1]), 1)
    assert torch.equal(hidden.frames, near.frames) and torch.equal(hidden.depth, near.depth)
