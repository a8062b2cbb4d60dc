"""Sample worlds are deterministic, differ by seed, and their pictures obey the geometry they come from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chopgrad_ns.data.references import lift, project
from chopgrad_ns.sim.light import Exposure
from chopgrad_ns.sim.raycast import Raycaster
from chopgrad_ns.sim.sample import trajectory
from chopgrad_ns.sim.textures import LEVELS, PAINTERS, SIZE, Atlas, Material, paint
from chopgrad_ns.sim.world import KINDS, exposure_of, make_world
from tests.sim.made import SEED, made, photos_of

WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module", params=KINDS)
def photographed(request):
    world = make_world(request.param, 3)
    world.vehicles = [vehicle for vehicle in world.vehicles if not vehicle.track.speed]  # others: test_street
    return world, *photos_of(world, 40, WIDTH, HEIGHT, some(request.param))


def some(kind):
    """Frames that are looked at; a car goes faster than people, and from near all changes faster."""
    return {"street": slice(8, 24, 2), "closeup": slice(0, 16, 2)}.get(kind, slice(0, None, 5))


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
    again = make_world(world.kind, 3)
    again.vehicles = [vehicle for vehicle in again.vehicles if not vehicle.track.speed]
    first = some(world.kind).start
    shot = Raycaster(again, again.actors(40)).frame(cameras[0], first, again.exposure.gains(40)[first])
    assert np.array_equal(shot.picture, frames[0].permute(1, 2, 0)) and np.array_equal(shot.depth, depth[0, 0])
    other = made(world.kind, SEED)
    _, others, other_depth = photos_of(other, 40, WIDTH, HEIGHT, slice(1))
    assert (others[0] - frames[0]).abs().mean() > 0.05 and (other_depth[0] - depth[0]).abs().mean() > 0.05


def test_pictures_are_worth_looking_at(photographed):
    world, _, frames, depth = photographed
    assert frames.shape == (8, 3, HEIGHT, WIDTH) and depth.shape == (8, 1, HEIGHT, WIDTH)
    assert frames.min() >= 0 and frames.max() <= 1 and torch.isfinite(depth).all() and (depth >= 0).all()
    assert 0.15 < frames.mean() < 0.7 and frames.std(dim=(2, 3)).min() > 0.08
    assert (frames.mean(dim=1) < 0.15).float().mean() > (0.002 if world.kind == "closeup" else 0.01), "dark parts"
    assert frames.diff(dim=-1).abs().mean() > 0.02, "texture"
    assert depth[depth > 0].quantile(0.9) > 1.5 * depth[depth > 0].quantile(0.1), "parallax"


def test_cameras_walk_smoothly_outside_of_things(photographed):
    world, cameras, _, depth = photographed
    walk = trajectory(world, 40, WIDTH, HEIGHT)
    step = walk.centers.diff(dim=0).norm(dim=1)
    assert step.max() < 3 * step.mean() and 1.0 < step.sum() < 60
    turn = torch.acos((walk.camera_from_world[:-1, 2, :3]
                       * walk.camera_from_world[1:, 2, :3]).sum(dim=1).clamp(-1, 1))
    assert turn.max() < (0.25 if world.kind == "closeup" else 0.1), "a hand is quicker to turn than a walker"
    assert depth[depth > 0].min() > 0.15
    right = walk.camera_from_world[:, 0, :3]
    assert right[:, 2].abs().max() < 1e-5, "level"


def test_depth_agrees_between_frames(photographed):
    """A surface seen in one frame is at its depth in another, or hidden behind something nearer; never in
    front.
    """
    world, cameras, _, depth = photographed
    for i, j in ((0, 1), (3, 4), (6, 4)):
        points = lift(cameras[i], depth[i])[depth[i].flatten() > 0]
        uv, z = (value[0] for value in project(points, cameras[j]))
        grid = (uv / torch.tensor([WIDTH, HEIGHT]) * 2 - 1)[None, None]
        inside = (grid[0, 0].abs() < 1).all(dim=1) & (z > 0)
        far = depth[j:j + 1].masked_fill(depth[j:j + 1] == 0, torch.inf)
        around = -torch.nn.functional.max_pool2d(-far, 3, 1, 1)  # a pixel's centre may have missed an edge
        there, nearest = (torch.nn.functional.grid_sample(value, grid, mode="nearest", align_corners=False)[0, 0, 0]
                          for value in (far, around))
        seen = inside & there.isfinite()
        relative = ((z - there) / z)[seen]
        assert inside.float().mean() > 0.4
        # Along a street one pixel sees metres of the road.
        assert (relative.abs() < (0.05 if world.kind == "street" else 0.02)).float().mean() > 0.65
        assert (((z - nearest) / z)[seen] < -0.05).float().mean() < 0.03, "thin things are missed"


def test_shadows_are_where_lamps_are_hidden(photographed):
    """Without its first lamp a world is darker everywhere but in that lamp's shadows."""
    world, cameras, _, _ = photographed
    actors, lamps = world.actors(1), world.lighting.lamps
    light = Raycaster(world, actors).frame(cameras[0]).picture
    dark = replace(world, lighting=replace(world.lighting, lamps=lamps[1:]))
    gain = (light - Raycaster(dark, actors).frame(cameras[0]).picture).mean(axis=2)
    assert gain.min() > -1e-4
    assert (gain < 5e-3).mean() > 0.005 and (gain > 0.05).mean() > 0.05, "shadow and light"


@pytest.mark.parametrize("change", [None, 0.3])
def test_exposure_is_as_recorded(change):
    """Against the picture without it: where nothing is clipped, photos are brighter by the square root of the gains."""
    drawn = {seed: exposure_of("objects", seed) for seed in range(20)}
    world = make_world("objects", next(seed for seed in drawn if drawn[seed].kind == "drift" and drawn[seed].white), change)
    gains = world.exposure.gains(4)
    _, exposed, depth = photos_of(world, 4, 48, 32)
    _, steady, same_depth = photos_of(replace(world, exposure=Exposure()), 4, 48, 32)
    dark = (steady < 0.6) & (exposed < 0.6)
    ratio = torch.where(dark & (steady > 0.05), exposed / steady, torch.nan).flatten(2).nanmedian(dim=2).values
    assert torch.allclose(ratio, torch.from_numpy(gains).sqrt(), atol=2e-3)
    assert torch.equal(depth, same_depth) and np.ptp(gains) > 0.01


def test_exposures_differ_by_seed():
    drawn = [exposure_of(kind, seed) for kind in KINDS for seed in range(40)]
    assert {exposure.kind for exposure in drawn} == {"constant", "drift", "jumps"}
    for exposure in drawn:
        gains = np.log2(exposure.gains(40))
        change = np.abs(np.diff(gains[:, 1]))
        assert np.abs(gains[:, 1]).max() <= 0.2501 and np.abs(gains[:, 0] - gains[:, 2]).max() <= 0.121
        if exposure.kind == "constant":
            assert (gains == 0).all()
        else:
            assert np.ptp(gains[:, 1]) > 0.02 and (exposure.kind == "jumps" or change.max() < 0.06)
    assert (make_world("objects", 1, 0.0).exposure.gains(5) == 1).all(), "told to keep still"
