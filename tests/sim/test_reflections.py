"""Mirrors show what a mirrored world would show, as strongly as Schlick says."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from chopgrad_ns.sim.light import Exposure, Lighting, Sky
from chopgrad_ns.sim.raycast import render
from chopgrad_ns.sim.world import FOCAL
from chopgrad_ns.sim.shapes import Builder
from chopgrad_ns.sim.textures import SIZE, Atlas, Material
from chopgrad_ns.sim.walks import Line
from chopgrad_ns.sim.world import World
from chopgrad_ns.splat.cameras import Cameras
from tests.sim.made import SEED, made, photos_of

WIDTH, HEIGHT, PLANE = 96, 64, 3.0
BALL = np.array([1.2, 0.7, 0.4])
SKY = 0.25


def one_color(value):
    return Material(np.full((SIZE, SIZE, 3), value, np.float32), 1.0)


def scene(mirror: float) -> World:
    """A black mirror x = 3 that the camera at the origin looks at, and a red ball beside the view; a grey sky."""
    b = Builder(np.random.default_rng(0))
    b.material(replace(one_color(0.0), mirror=mirror))
    b.material(one_color((1.0, 0.0, 0.0)))
    clouds = b.material(one_color(0.0))
    b.sheet((PLANE, -9, -9), (0, 18, 0), (0, 0, 18), 0, (1, 1, 1))
    b.ball(BALL, (0.15,) * 3, 1, (1, 1, 1), rings=24)
    gray = np.full(3, SKY)
    light = Lighting([], np.ones(3), 0.01, Sky(gray, gray, gray, clouds))
    return World("objects", 0, b.mesh(), Atlas(b.materials), None, light, "", Line((1, 1), (BALL, BALL)), Exposure())


@pytest.fixture(scope="module")
def camera():
    """At the origin, looking along +x and a little aside, away from the ball."""
    yaw = -0.1
    forward, right = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([np.sin(yaw), -np.cos(yaw), 0])
    pose = np.eye(4)
    pose[:3, :3] = [right, [0, 0, -1], forward]
    K = torch.tensor([[[FOCAL * WIDTH, 0, WIDTH / 2], [0, FOCAL * WIDTH, HEIGHT / 2], [0, 0, 1]]])
    return Cameras(torch.from_numpy(pose)[None].float(), K, WIDTH, HEIGHT)


def pixel(camera, point):
    local = camera.camera_from_world[0, :3, :3].numpy() @ point
    u, v, z = camera.K[0].numpy() @ local
    return np.array([u / z, v / z])


def test_a_mirror_shows_the_mirrored_point_at_its_own_depth(camera):
    frames, depth, _ = render(scene(1.0), camera, [])
    mirrored = BALL * [-1, 1, 1] + [2 * PLANE, 0, 0]
    red = (frames[0, 0] - frames[0, 1]).clamp_min(0)
    # The ball itself is at the left; its image in the mirror is nearer to the middle.
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    image, itself = pixel(camera, mirrored), pixel(camera, BALL)
    near = (np.hypot(u - image[0], v - image[1]) < 6) & (red.numpy() > 0.05)
    assert np.abs(image - itself).max() > 15 and near.sum() > 5
    weight = red.numpy()[near] / red.numpy()[near].sum()
    assert np.hypot(u[near] @ weight - image[0], v[near] @ weight - image[1]) < 0.4
    forward = camera.camera_from_world[0, 2, :3].numpy()
    rays = np.stack([(u - WIDTH / 2) / (FOCAL * WIDTH), (v - HEIGHT / 2) / (FOCAL * WIDTH), np.ones_like(u)], -1)
    along_x = rays @ camera.camera_from_world[0, :3, :3].numpy()[:, 0]
    assert np.allclose(depth[0, 0].numpy()[near], (PLANE / along_x)[near], rtol=1e-4) and forward[0] > 0.9
    dull = render(scene(0.0), camera, [])
    assert torch.equal(dull.depth, depth) and dull.frames[0, 0].numpy()[near].max() == 0


def test_share_of_mirrored_light_is_schlicks(camera):
    """Oracle: F = F₀ + (1 − F₀)(1 − cos θ)⁵ of a grey sky over black."""
    for mirror in (0.04, 0.6):
        frames, _, _ = render(scene(mirror), camera, [])
        v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
        rays = np.stack([(u - WIDTH / 2) / (FOCAL * WIDTH), (v - HEIGHT / 2) / (FOCAL * WIDTH), np.ones_like(u)], -1)
        world = rays @ camera.camera_from_world[0, :3, :3].numpy()
        cosine = world[..., 0] / np.linalg.norm(world, axis=-1)
        share = mirror + (1 - mirror) * (1 - cosine) ** 5
        right = slice(WIDTH // 2, None)  # away from the ball
        assert np.abs(frames[0, 1].numpy() ** 2 - SKY * share)[:, right].max() < 1e-3


@pytest.mark.parametrize("kind", ["room", "courtyard", "objects", "street"])
def test_every_kind_has_mirroring_and_dark_parts(kind):
    world = replace(made(kind, SEED), exposure=Exposure())
    p = world.palette
    assert (world.atlas.mirror[[p.chrome, p.glass, p.coat, p.water, p.metal]] > 0).all()
    dark = world.atlas.look_up(np.array([p.rubber, p.dark]), np.zeros((2, 2)), np.ones(2, np.float32))
    assert (dark.mean(axis=1) < 0.25).all()
    meshes = [world.mesh, *world.models.values()]
    for wanted in ({m for m in range(len(world.atlas.mirror)) if world.atlas.mirror[m]}, {p.rubber, p.dark}):
        assert sum(np.isin(mesh.material, list(wanted)).sum() for mesh in meshes) > 0
    shiny = photos_of(world, 3, 64, 48)[1]
    dull = copy(world.atlas)
    dull.mirror = 0 * dull.mirror
    assert ((photos_of(replace(world, atlas=dull), 3, 64, 48)[1] - shiny).abs().amax(dim=1) > 0.02).float().mean() > 0.003
