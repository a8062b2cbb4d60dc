"""Sample worlds are deterministic, differ by seed, and their pictures obey the geometry they come from."""

import numpy as np
import pytest
import torch

from chopgrad_ns.data.references import lift, project
from chopgrad_ns.sim.raycast import Raycaster, render_world
from chopgrad_ns.sim.sample import trajectory
from chopgrad_ns.sim.textures import LEVELS, PAINTERS, SIZE, Atlas, Material, paint
from chopgrad_ns.sim.world import KINDS, make_world

WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module", params=KINDS)
def photographed(request):
    world = make_world(request.param, 3)
    cameras = trajectory(world, 40, WIDTH, HEIGHT)[slice(0, None, 5)]
    return world, cameras, *render_world(world, cameras)


@pytest.mark.parametrize("kind", PAINTERS)
def test_textures_tile_and_have_detail(kind):
    picture = paint(kind, 1, (0.2, 0.1, 0.1), (0.9, 0.8, 0.6), 1.0).picture
    assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.float32
    assert picture.min() >= 0 and picture.max() <= 1
    assert picture.std() > 0.05 and np.abs(np.diff(picture, axis=0)).mean() > 2e-3
    assert np.array_equal(picture, paint(kind, 1, (0.2, 0.1, 0.1), (0.9, 0.8, 0.6), 1.0).picture)
    assert not np.array_equal(picture, paint(kind, 2, (0.2, 0.1, 0.1), (0.9, 0.8, 0.6), 1.0).picture)


def test_atlas_looks_up_texels_and_averages():
    rng = np.random.default_rng(0)
    pictures = [rng.random((SIZE, SIZE, 3), dtype=np.float32) for _ in range(2)]
    atlas = Atlas([Material(picture, period) for picture, period in zip(pictures, (1.0, 2.0))])
    at = np.array([[5.5, 9.5], [SIZE - 0.5, 0.5]], np.float32) / SIZE
    for index, period in ((0, 1.0), (1, 2.0)):
        material = np.full(2, index, np.int32)
        fine = atlas.look_up(material, at * period, np.full(2, 1e-6, np.float32))
        assert np.allclose(fine, [pictures[index][9, 5], pictures[index][0, SIZE - 1]], atol=1e-3)
        around = atlas.look_up(material, (at + 3) * period, np.full(2, 1e-6, np.float32))
        assert np.allclose(fine, around, atol=0.02), "periodic"
        coarse = atlas.look_up(material, at * period, np.full(2, 100, np.float32))
        assert LEVELS == 8 and np.allclose(coarse, pictures[index].mean(axis=(0, 1)), atol=0.03)


def test_unknown_kind():
    with pytest.raises(ValueError, match="cellar"):
        make_world("cellar", 0)


def test_same_seed_same_pictures_other_seed_others(photographed):
    world, cameras, frames, depth = photographed
    again, same_depth = render_world(make_world(world.kind, 3), cameras[:1])
    assert torch.equal(again[0], frames[0]) and torch.equal(same_depth[0], depth[0])
    other = make_world(world.kind, 4)
    others, other_depth = render_world(other, trajectory(other, 40, WIDTH, HEIGHT)[:1])
    assert (others[0] - frames[0]).abs().mean() > 0.05 and (other_depth[0] - depth[0]).abs().mean() > 0.05


def test_pictures_are_worth_looking_at(photographed):
    _, _, frames, depth = photographed
    assert frames.shape == (8, 3, HEIGHT, WIDTH) and depth.shape == (8, 1, HEIGHT, WIDTH)
    assert frames.min() >= 0 and frames.max() <= 1 and torch.isfinite(depth).all() and (depth >= 0).all()
    assert 0.15 < frames.mean() < 0.7 and frames.std(dim=(2, 3)).min() > 0.08
    assert (frames.mean(dim=1) < 0.15).float().mean() > 0.01, "dark parts"
    assert frames.diff(dim=-1).abs().mean() > 0.02, "texture"
    assert depth[depth > 0].quantile(0.9) > 1.5 * depth[depth > 0].quantile(0.1), "parallax"


def test_cameras_walk_smoothly_outside_of_things(photographed):
    world, cameras, _, depth = photographed
    walk = trajectory(world, 40, WIDTH, HEIGHT)
    step = walk.centers.diff(dim=0).norm(dim=1)
    assert step.max() < 3 * step.min() and step.sum() > 1.0
    turn = torch.acos((walk.camera_from_world[:-1, 2, :3]
                       * walk.camera_from_world[1:, 2, :3]).sum(dim=1).clamp(-1, 1))
    assert turn.max() < 0.1
    assert depth[depth > 0].min() > 0.15
    right = walk.camera_from_world[:, 0, :3]
    assert right[:, 2].abs().max() < 1e-5, "level"


def test_depth_agrees_between_frames(photographed):
    """A surface seen in one frame is at its depth in another, or hidden behind something nearer; never in
    front.
    """
    _, cameras, _, depth = photographed
    for i, j in ((0, 1), (3, 4), (6, 4)):
        points = lift(cameras[i], depth[i])[depth[i].flatten() > 0]
        uv, z = (value[0] for value in project(points, cameras[j]))
        grid = (uv / torch.tensor([WIDTH, HEIGHT]) * 2 - 1)[None, None]
        inside = (grid[0, 0].abs() < 1).all(dim=1) & (z > 0)
        there = torch.nn.functional.grid_sample(depth[j:j + 1], grid, mode="nearest",
                                                align_corners=False)[0, 0, 0]
        relative = ((z - there) / z)[inside & (there > 0)]
        assert inside.float().mean() > 0.4
        assert (relative.abs() < 0.02).float().mean() > 0.65
        assert (relative < -0.05).float().mean() < 0.04, "only where a pixel's centre meets an edge"


def test_shadows_are_where_the_lamp_is_hidden(photographed):
    """Moving the lamp away changes what is lit; ambient light alone is darker everywhere."""
    world, cameras, frames, _ = photographed
    lit = Raycaster(world)
    dark = make_world(world.kind, 3)
    dark.light.strength = dark.light.strength * 0
    ambient, _ = Raycaster(dark).frame(cameras[0])
    picture, _ = lit.frame(cameras[0])
    gain = (picture - ambient).mean(axis=2)
    assert gain.min() > -1e-4
    assert (gain < 5e-3).mean() > 0.03 and (gain > 0.05).mean() > 0.2, "shadow and light"


def test_exposure_changes_only_when_asked():
    world = make_world("objects", 2)
    cameras = trajectory(world, 4, 48, 32)
    steady, _ = render_world(world, cameras)
    world.exposure_change = 0.5
    changing, depth = render_world(world, cameras)
    unclipped = changing < 0.99
    ratio = torch.stack([(c[u] / s[u].clamp_min(1e-3)).median() for c, s,
                         u in zip(changing, steady, unclipped)])
    assert ratio.max() / ratio.min() > 1.1
    assert depth.min() > 0
