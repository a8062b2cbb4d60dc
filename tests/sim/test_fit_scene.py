"""What stands still, what moves and the sky are trained together: told apart, and boxes that are off are put right."""

from dataclasses import replace

import pytest
import torch

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.views import Views
from chopgrad_ns.sim.fit_scene import FEWEST, MOST, RATES, ActorsAndSky, SeededActor, fit_scene, seed_gaussians
from chopgrad_ns.sim.scene_graph import Node, SceneGraph
from chopgrad_ns.sim.sky import Sky
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.fit import FitSettings, fit
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.render import render

FRAMES, WIDTH, HEIGHT = 12, 64, 40
OFF = 0.3
"""Metres by which the boxes that are handed over are wrong, along the actor's length."""


def true_scene() -> SceneGraph:
    """A wall 10 m ahead under a blue sky, and before it a striped box that goes to the left at 8 m/s."""
    draw = torch.Generator().manual_seed(0)
    wall = torch.rand(600, 3, generator=draw) * torch.tensor([0.2, 14, 3.5]) + torch.tensor([10.0, -7, -2.5])
    colors = torch.stack([0.5 + 0.4 * torch.sin(2 * wall[:, 1]), 0.5 + 0.3 * torch.cos(3 * wall[:, 2]),
                          torch.full((600,), 0.3)], dim=1)
    body = (torch.rand(400, 3, generator=draw) - 0.5) * torch.tensor([2.4, 1.2, 1.0])
    stripes = torch.stack([(torch.sin(6 * body[:, 0]) > 0).float(), torch.full((400,), 0.9), torch.zeros(400)], dim=1)
    solid = lambda splat: replace(splat, opacity_logits=torch.full_like(splat.opacity_logits, 4.0))  # noqa: E731
    times = torch.arange(FRAMES, dtype=torch.float64) / 10
    poses = torch.eye(4).repeat(FRAMES, 1, 1)
    poses[:, :2, :2] = torch.tensor([[0.0, -1], [1, 0]])  # it faces left
    poses[:, :3, 3] = torch.stack([torch.full((FRAMES,), 6.0), -3 + 0.8 * torch.arange(FRAMES), torch.full((FRAMES,), -0.8)], 1)
    actor = Actor("striped", "vehicle", torch.tensor([2.4, 1.2, 1.0]), poses, torch.ones(FRAMES, dtype=torch.bool))
    return SceneGraph(solid(Gaussians.from_points(wall, colors, 0)), times,
                      {"striped": Node(actor, solid(Gaussians.from_points(body, stripes, 0)))},
                      Sky.of_one_color(torch.tensor([0.3, 0.5, 0.9])))


def cameras() -> Cameras:
    """Beside each other at the origin, looking along +x; each frame from another place."""
    axes = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]).repeat(FRAMES, 1, 1)
    axes[:, 0, 3] = torch.linspace(-0.5, 0.5, FRAMES)
    K = torch.tensor([[45.0, 0, WIDTH / 2], [0, 45, HEIGHT / 2], [0, 0, 1]]).repeat(FRAMES, 1, 1)
    return Cameras(axes, K, WIDTH, HEIGHT, torch.arange(FRAMES) / 10)


@pytest.fixture(scope="module")
def made():
    """The true scene, its cameras and frames, where the actor is seen, and what a fit is given of it."""
    scene, eyes = true_scene(), cameras()
    frames = render(scene, eyes).rgb
    bare = scene.copy()
    bare.hide("striped")
    moving = (frames - render(bare, eyes).rgb).abs().amax(dim=1, keepdim=True) > 0.05
    node = scene.nodes["striped"]
    wrong = node.actor.world_from_actor.clone()
    wrong[:, :3, 3] += OFF * wrong[:, :3, 0]
    seeded = SeededActor(replace(node.actor, world_from_actor=wrong), node.splat.means[::2], torch.full((200, 3), 0.5))
    points = scene.background.means[::2] + 0.05 * torch.randn(300, 3, generator=torch.Generator().manual_seed(1))
    train = list(range(0, FRAMES, 2))
    views = Views(frames[train], eyes[train], points, torch.full((300, 3), 0.5))
    return scene, eyes, frames, moving, seeded, views


SETTINGS = FitSettings(steps=240, sh_degree=1)


@pytest.fixture(scope="module")
def fitted(made):
    scene, _, _, _, seeded, views = made
    return fit_scene(views, [seeded], scene.frame_times, SETTINGS)


def psnr(shown, truth, where):
    error = ((shown - truth) ** 2)[where.expand_as(truth)].mean()
    return float(-10 * error.log10())


def test_a_moving_actor_is_far_better_as_a_thing_of_its_own(made, fitted):
    _, eyes, frames, moving, seeded, views = made
    held_out = list(range(1, FRAMES, 2))
    pose = seeded.actor.world_from_actor[0]
    static = fit(views.photos, views.cameras, torch.cat([views.points, seeded.points @ pose[:3, :3].T + pose[:3, 3]]),
                 torch.cat([views.colors, seeded.colors]), SETTINGS)
    graph, plain = (psnr(render(scene, eyes[held_out]).rgb, frames[held_out], moving[held_out]) for scene in (fitted, static))
    assert graph > plain + 4 and graph > 17
    still = [psnr(render(scene, eyes[held_out]).rgb, frames[held_out], ~moving[held_out]) for scene in (fitted, static)]
    assert still[0] > still[1] + 1, "what is behind the actor is not smeared with it"


def test_boxes_that_are_off_are_put_right(made, fitted):
    scene, _, _, _, seeded, _ = made
    truth, given = scene.nodes["striped"].actor.world_from_actor, seeded.actor.world_from_actor
    found = fitted.nodes["striped"].actor.world_from_actor
    # Where on its body the Gaussians are is free: the motion from frame to frame is not.
    wander = lambda poses: (poses - truth)[::2, :3, 3] - (poses - truth)[::2, :3, 3].mean(dim=0)  # noqa: E731
    assert wander(found).norm(dim=1).max() < 0.1 and wander(given).norm(dim=1).max() < 1e-5
    jittered = given.clone()
    jittered[::4, :3, 3] += 0.25 * given[::4, :3, 0]
    views = made[5]
    again = fit_scene(views, [replace(seeded, actor=replace(seeded.actor, world_from_actor=jittered))], scene.frame_times,
                      replace(SETTINGS, steps=400))
    after = again.nodes["striped"].actor.world_from_actor
    assert wander(after).norm(dim=1).mean() < 0.75 * wander(jittered).norm(dim=1).mean()


def test_the_sky_is_behind_everything(made, fitted):
    _, eyes, frames, _, _, _ = made
    shown = fitted.behind(eyes[0])
    torch.testing.assert_close(shown[:, 2], torch.tensor([0.3, 0.5, 0.9])[:, None].expand(3, WIDTH), atol=0.08, rtol=0)
    assert render(fitted, eyes[0]).alpha[0, 0, 1].mean() < 0.2


def test_a_fit_is_the_same_each_time_and_leaves_its_input_alone(made):
    scene, _, _, _, seeded, views = made
    before = [value.clone() for value in (views.photos, views.points, seeded.points, seeded.actor.world_from_actor)]
    a, b = (fit_scene(views, [seeded], scene.frame_times, replace(SETTINGS, steps=12)) for _ in range(2))
    assert torch.equal(a.background.means, b.background.means)
    assert torch.equal(a.nodes["striped"].splat.sh, b.nodes["striped"].splat.sh)
    for value, now in zip(before, (views.photos, views.points, seeded.points, seeded.actor.world_from_actor)):
        assert torch.equal(value, now)
    with pytest.raises(ValueError, match="times"):
        fit_scene(replace(views, cameras=replace(views.cameras, times=None)), [seeded], scene.frame_times, SETTINGS)


def test_a_drive_without_actors_has_a_sky_still(made):
    _, eyes, _, _, _, views = made
    true = made[0]
    scene = fit_scene(views, [], true.frame_times, replace(SETTINGS, steps=12))
    assert scene.names() == [] and scene.behind(eyes[0]) is not None and render(scene, eyes[:1]).rgb.isfinite().all()
    scene.insert("striped", true.nodes["striped"])
    assert len(scene.at(eyes[0])) == len(scene.background) + 400


def test_seeds_are_on_both_sides_and_enough():
    size = torch.tensor([4.0, 2, 1.5])
    few = seed_gaussians(size, torch.tensor([[1.0, 0.5, 0.2]]), torch.tensor([[1.0, 0, 0]]))
    assert len(few) == FEWEST and (few.means.abs() <= size / 2).all()
    assert torch.equal(few.means[1], torch.tensor([1.0, -0.5, 0.2]))
    many = seed_gaussians(size, torch.rand(3 * MOST, 3), torch.rand(3 * MOST, 3))
    assert len(many) == MOST and len(seed_gaussians(size, torch.rand(900, 3), torch.rand(900, 3), 600)) == 600
    assert len(seed_gaussians(size, torch.zeros(0, 3), torch.zeros(0, 3))) == FEWEST


def test_every_parameter_is_trained_at_a_rate_of_its_own(made):
    scene, _, _, _, seeded, _ = made
    beside = ActorsAndSky([seeded], scene.frame_times, Sky.of_one_color(torch.rand(3)))
    groups = beside.parameter_groups()
    assert set(groups) == set(RATES)
    assert {id(p) for group in groups.values() for p in group} == {id(p) for p in beside.parameters()}
    assert beside.penalty() < 1e-9
    with torch.no_grad():
        beside.tracked.shift += 0.2
        beside.tracked.means += 5
    assert beside.penalty() > 1e-3
