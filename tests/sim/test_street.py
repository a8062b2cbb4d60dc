"""Vehicles in sample streets: ids, depth, tracks and shadows agree with their boxes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from chopgrad_ns.data.actors import Actor, read_actors
from chopgrad_ns.data.open3d_import import import_open3d
from chopgrad_ns.data.references import lift, project
from chopgrad_ns.data.scene import check_scene
from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.cars import KINDS, build_vehicle
from chopgrad_ns.sim.light import Exposure
from chopgrad_ns.sim.raycast import Raycaster, render
from chopgrad_ns.sim.road import Road, Track
from chopgrad_ns.sim.sample import photograph, trajectory, write_scene
from chopgrad_ns.sim.shapes import Builder
from tests.sim.made import SEED, made

WIDTH, HEIGHT, FRAMES, EVERY = 144, 96, 30, 5


@pytest.fixture(scope="module")
def world():
    """A street under the sun with a vehicle ahead and one that comes toward us."""
    return replace(made("street", SEED), exposure=Exposure())


@pytest.fixture(scope="module")
def shots(world):
    """Every fifth frame: cameras, actors, and the rendering."""
    some = slice(0, FRAMES, EVERY)
    cameras, actors = trajectory(world, FRAMES, WIDTH, HEIGHT)[some], [actor[some] for actor in world.actors(FRAMES)]
    return cameras, actors, render(world, cameras, actors)


def in_box(actor: Actor, index: int, points: torch.Tensor) -> torch.Tensor:
    """Points [N, 3] in units of half the box, in its frame."""
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], dim=1).double()
    local = torch.linalg.inv(actor.world_from_actor[index].double()) @ homogeneous.T
    return (local[:3] / (actor.size.double()[:, None] / 2)).T


def corners(actor: Actor, index: int) -> torch.Tensor:
    signs = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 3)
    pose = actor.world_from_actor[index]
    return signs * actor.size @ pose[:3, :3].T + pose[:3, 3]


def test_ids_and_depth_lie_in_boxes(shots):
    """Pixels of an actor are inside its projected box and, lifted by their depth, inside the box; no others are."""
    cameras, actors, (_, depth, ids) = shots
    seen = 0
    for t in range(len(cameras)):
        points, flat = lift(cameras[t], depth[t]), ids[t].flatten()
        there = depth[t].flatten() > 0
        assert not flat[~there].any(), "sky is nobody's"
        for k, actor in enumerate(actors):
            mine = flat == k + 1
            local = in_box(actor, t, points)
            inside = local.abs().amax(dim=1) < 1 + 2e-3
            assert inside[mine].all()
            assert not (inside & there & ~mine & (local[:, 2] > -0.98)).any(), "but for the road below"
            if not mine.any():
                continue
            seen += 1
            uv, z = (value[0] for value in project(corners(actor, t), cameras[t]))
            if (z > 0.1).all():
                low, high = uv.amin(dim=0), uv.amax(dim=0)
                row, column = mine.reshape(HEIGHT, WIDTH).nonzero().T
                assert low[0] <= column.min() + 0.5 and column.max() + 0.5 <= high[0]
                assert low[1] <= row.min() + 0.5 and row.max() + 0.5 <= high[1]
    assert seen > 20


def test_moving_actors_are_seen_where_their_tracks_say(world, shots):
    """The middle of a moving actor's pixels follows its projected centre; parked ones never move in the world."""
    cameras, actors, (_, _, ids) = shots
    moving = [actor.moves() for actor in actors]
    assert moving[:2] == [True, True] and not any(moving[2:])
    for k in (0, 1):
        speed = actors[k].world_from_actor[:, :3, 3].diff(dim=0).norm(dim=1) * 10 / EVERY
        assert torch.allclose(speed, torch.full_like(speed, abs(world.vehicles[k].track.speed)), rtol=0.05)
        for t in range(len(cameras)):
            row, column = (ids[t, 0] == k + 1).nonzero().T
            if not len(row) or column.min() == 0 or column.max() == WIDTH - 1:
                continue
            uv, z = (value[0, 0] for value in project(actors[k].world_from_actor[t:t + 1, :3, 3], cameras[t]))
            middle = torch.tensor([column.min() + column.max() + 1, row.min() + row.max() + 1]) / 2
            assert (uv - middle).norm() < 1.5 + 30 / z
    ahead = actors[0].world_from_actor[0, :3, 3] - cameras.centers[0]
    assert (actors[1].world_from_actor[0, :3, 0] @ ahead) < 0 < (actors[0].world_from_actor[0, :3, 0] @ ahead)


@pytest.mark.parametrize("k", [0, 1])
def test_without_an_actor_its_shadow_goes_too(world, shots, k):
    cameras, actors, whole = shots
    t = next(t for t in range(len(cameras)) if (whole.actor_ids[t] == k + 1).sum() > 60)
    lonely = Raycaster(world, [actor for index, actor in enumerate(actors) if index != k]).frame(cameras[t], t)
    change = torch.from_numpy(lonely.picture).permute(2, 0, 1) - whole.frames[t]
    outside = whole.actor_ids[t, 0] != k + 1
    grown = torch.nn.functional.max_pool2d(1 - outside[None].float(), 3, 1, 1)[0] > 0  # edges of pixels are mixed
    brighter = (change.mean(dim=0) > 0.03) & ~grown
    assert brighter.sum() >= 8, "its shadow was there"
    near = in_box(actors[k], t, lift(cameras[t], whole.depth[t])[brighter.flatten()])
    assert near[:, :2].abs().amax(dim=1).median() < 4, "beside it"
    kept = (whole.actor_ids[t, 0] != k + 1) & (whole.actor_ids[t, 0] > 0)
    renumbered = whole.actor_ids[t, 0][kept] - (whole.actor_ids[t, 0][kept] > k + 1).byte()
    assert torch.equal(torch.from_numpy(lonely.actor_ids)[kept], renumbered)


def test_another_actor_can_be_put_in(world, shots):
    """A new model, made of the world's materials, present in some frames."""
    cameras, actors, whole = shots
    mesh, size = build_vehicle(Builder(np.random.default_rng(9), world.atlas.period), world.palette, "van")
    pose = torch.from_numpy(Track(20.0, 0.0).poses(world.road, 2, size[2] / 2)).float()
    van = Actor("new", "van", torch.from_numpy(size).float(), pose, torch.tensor([True, False]))
    more = replace(world, models={**world.models, "new": mesh})
    frames, depth, ids = render(more, cameras[:2], [*(actor[:2] for actor in actors), van])
    mine = ids[0, 0] == len(actors) + 1
    assert mine.sum() > 100 and (in_box(van, 0, lift(cameras[0], depth[0])[mine.flatten()]).abs() < 1.002).all()
    assert (depth[0, 0][mine] < whole.depth[0, 0][mine] + 1e-3)[whole.depth[0, 0][mine] > 0].all()
    assert torch.equal(ids[1], whole.actor_ids[1]) and (frames[1] - whole.frames[1]).abs().mean() < 1e-3
    with pytest.raises(ValueError, match="no models of \\['new'\\]"):
        render(world, cameras[:2], [van])
    with pytest.raises(ValueError, match="new: 2"):
        render(more, cameras[:3], [van])


@pytest.mark.parametrize("kind", KINDS)
def test_vehicles_stand_on_their_wheels_and_fill_their_boxes(world, kind):
    builder, sizes = Builder(np.random.default_rng(5), world.atlas.period), []
    for _ in range(6):
        mesh, size = build_vehicle(builder, world.palette, kind)
        assert np.allclose(mesh.corners.max(axis=(0, 1)), size / 2, atol=1e-5)
        assert np.allclose(mesh.corners.min(axis=(0, 1)), -size / 2, atol=1e-5)
        lowest = mesh.material[mesh.corners[..., 2].min(axis=1) < -size[2] / 2 + 0.05]
        assert set(lowest) == {world.palette.rubber}, "tyres"
        sizes.append(size)
    assert np.std(sizes, axis=0).min() > 0.005, "of all sizes"
    low, high = {"car": (3.6, 5.0), "van": (4.7, 6.1), "truck": (6.0, 7.8)}[kind]
    assert low < np.min(sizes, axis=0)[0] and np.max(sizes, axis=0)[0] < high


@pytest.mark.parametrize("bend", [0.0, 0.004, -0.01])
def test_roads_bend_by_their_curvature(bend):
    """Against a circle walked in small steps."""
    road, step = Road(bend), 0.01
    heading = bend * (np.arange(4000) + 0.5) * step
    expected = step * np.stack([np.cos(heading), np.sin(heading)], 1).sum(axis=0)
    assert np.allclose(road.place(40.0, 0.0), [*expected, 40 * bend], atol=1e-3)
    left = road.place(40.0, 3.0)[:2] - road.place(40.0, 0.0)[:2]
    assert np.allclose(left, 3 * np.array([-np.sin(40 * bend), np.cos(40 * bend)]))


def test_the_street_ends(world, tmp_path):
    longest = world.walk.longest
    assert longest >= 80 and world.walk.at(longest)[0][-1, 0] < world.road.last
    with pytest.raises(UserError, match=f"ends after {longest} frames"):
        write_scene(tmp_path / "street", world, frames=longest + 1, width=48, height=32)
    ahead = world.actors(longest + 30)[0]
    assert ahead.present[:40].all() and not ahead.present[-1], "it has left the street"
    gone = Raycaster(world, [ahead])
    gone.pose(longest + 29)
    assert gone.cast(ahead.world_from_actor[-1, :3, 3].numpy() + [0, 0, 9], np.array([[0, 0, -1.0]]))["t_hit"][0] > 8.5


def test_written_street_is_read_by_nerfstudio(world, tmp_path):
    write_scene(tmp_path / "street", world, frames=3, width=48, height=32)
    sample = photograph(world, 3, 48, 32)
    assert check_scene(tmp_path / "street") == "nerfstudio"
    import_open3d()
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.data.datasets.base_dataset import InputDataset

    outputs = NerfstudioDataParserConfig(data=tmp_path / "street", eval_mode="all", load_3D_points=True,
                                         downscale_factor=1).setup().get_dataparser_outputs(split="train")
    masks = torch.stack([item["mask"][..., 0] for item in InputDataset(outputs)])
    assert torch.equal(masks, sample.moving()[:, 0] == 0) and 0 < (~masks).sum() < masks.numel() / 2
    ids = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "street" / "actor_ids").iterdir())])
    assert ids.dtype == np.uint8 and np.array_equal(ids, sample.actor_ids[:, 0]) and ids.max() <= len(sample.actors)
    read = read_actors(tmp_path / "street" / "actors.json")
    for mine, actor in zip(read, sample.actors, strict=True):
        assert (mine.name, mine.kind) == (actor.name, actor.kind) and torch.equal(mine.present, actor.present)
        assert torch.allclose(mine.world_from_actor, actor.world_from_actor, atol=1e-5)
        assert torch.allclose(mine.size, actor.size, atol=1e-5)
    depth = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "street" / "depths").iterdir())])
    true = sample.depth[:, 0].numpy()
    assert np.abs(depth / 1000 - true)[true < 65].max() < 6e-4 and (depth[true > 65.54] == 0).all()
    assert json.loads((tmp_path / "street" / "world.json").read_text())["actors"] == len(read)
