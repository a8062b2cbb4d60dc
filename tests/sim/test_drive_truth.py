"""A street that was written is read back as it is, and its truth is that of its frames, also where it never was so."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from chopgrad_ns.cli.main import main
from chopgrad_ns.data.drives.drive import Selection
from chopgrad_ns.data.drives.projection import from_pixels, line_times, project, undistorted
from chopgrad_ns.data.drives.tracks import at_times
from chopgrad_ns.data.drives.waymo_v2 import read_waymo_v2
from chopgrad_ns.data.references import lift
from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.drive_files import TRUTH, write_drive
from chopgrad_ns.sim.light import Exposure
from chopgrad_ns.sim.raycast import Raycaster
from chopgrad_ns.sim.rig import make_rig
from chopgrad_ns.sim.truth import Truth
from tests.sim.drives import off_surfaces
from tests.sim.made import SEED, made

FRAMES, WIDTH, HEIGHT = 3, 96, 64


@pytest.fixture(scope="module")
def world():
    return replace(made("street", SEED), exposure=Exposure())


@pytest.fixture(scope="module")
def street(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drives") / "street"
    told = []
    write_drive(folder, world, FRAMES, WIDTH, HEIGHT, report=lambda done, count, note: told.append((done, count, note())))
    assert told[-1][:2] == (len(told),) * 2 and len(told) == FRAMES * 3 * 8 and told[0][2] == "recorded FRONT in frame 0"
    return folder


@pytest.fixture(scope="module")
def drive(street):
    return read_waymo_v2(street)


@pytest.fixture(scope="module")
def truth(drive):
    return Truth.of(drive)


def in_source(drive, points):
    return points @ drive.source_from_world[:3, :3].T + drive.source_from_world[:3, 3]


def test_lidar_points_lie_on_surfaces(world, drive):
    """Of both lidars and both returns, through the file."""
    assert drive.lidars == ["TOP", "FRONT"] and not drive.notes
    points = drive.source.points(1)
    rng = np.random.default_rng(0)
    for lidar in range(2):
        for which, least in ((1, 2000), (2, 1)):
            rows = np.flatnonzero((points.lidar == lidar) & (points.returns == which))
            assert len(rows) >= least
            rows = rng.permutation(rows)[:40]
            xyz = in_source(drive, points.xyz[rows].astype(np.float64))
            # A point of the turning lidar was measured when its column was: at the instant whose vehicle saw it there.
            times = np.full(len(rows), 0.1) if lidar else _measured_at(world, xyz, 0.1)
            assert off_surfaces(world, xyz, times).max() < 1e-3


def _measured_at(world, points, time):
    """When a lidar that turns by its azimuth in 0.1 s, looking ahead at `time`, measured points in the world."""
    rig, times = make_rig(world, WIDTH, HEIGHT), np.full(len(points), time)
    lidar = rig.lidars[0].vehicle_from_lidar
    for _ in range(8):
        local = np.einsum("nij,nj->ni", np.linalg.inv(rig.poses(times) @ lidar), np.c_[points, np.ones(len(points))])
        azimuth = np.arctan2(local[:, 1], local[:, 0]) + np.arctan2(lidar[1, 0], lidar[0, 0])
        times = time - 0.1 * ((azimuth + np.pi) % (2 * np.pi) - np.pi) / (2 * np.pi)
    return times


def test_boxes_are_where_vehicles_are(world, drive):
    """Centres and headings exactly; the format knows no pitch and roll, so corners are as far off as the vehicle tilts."""
    vehicles = {vehicle.name: vehicle for vehicle in world.vehicles}
    assert len(drive.actors) > 10
    for actor in drive.actors:
        assert actor.kind == "vehicle" and np.allclose(actor.size, vehicles[actor.name].size, atol=1e-6)
        poses, _ = world.poses_at(vehicles[actor.name], drive.times)
        there = actor.present.numpy()
        mine = drive.source_from_world @ actor.world_from_actor.double().numpy()[there]
        assert np.abs(mine - poses[there])[:, :3, 3].max() < 1e-3
        assert np.abs(mine - poses[there])[:, :3, :3].max() < 0.012


@pytest.mark.parametrize("camera", ["FRONT", "FRONT_LEFT", "FRONT_RIGHT"])
def test_true_depth_projects_into_its_pixels(world, drive, truth, camera):
    photos, seen = drive.photos_of(camera), truth.recorded(camera)
    photo, lens = photos[1], drive.cameras[camera]
    row, column = (seen.depth[1, 0].numpy() > 0).nonzero()
    uv = np.stack([column, row], axis=1) + 0.5
    times = line_times(lens, photo, uv)
    poses = photo.vehicle_at(times) @ lens.vehicle_from_camera
    local = from_pixels(lens, uv) * seen.depth[1, 0].numpy()[row, column, None]
    points = np.einsum("nij,nj->ni", poses[:, :3, :3], local) + poses[:, :3, 3]
    found, _, inside = project(drive, photo, points)
    assert inside.all() and np.abs(found - uv).max() < 0.1
    some = np.random.default_rng(1).permutation(len(points))[:60]
    assert off_surfaces(world, in_source(drive, points[some]), times[some]).max() < 2e-3, "depth is told in millimetres"
    assert np.abs(project(drive, replace(photo, shutter=None), points)[0] - uv)[inside].max() > 0.5
    ids = seen.actor_ids[1, 0].numpy()[row, column]
    for index in np.unique(ids[ids > 0]) - 1:
        actor = seen.actors[index]
        (tracked,), _ = at_times(next(one for one in drive.actors if one.name == actor.name), torch.from_numpy(drive.times),
                                 torch.tensor([photo.middle]))
        assert (tracked - actor.world_from_actor[1])[:3, 3].abs().max() < 5e-3, "interpolated between frames"


def test_videos_have_the_cameras_of_undistorted_photos(drive, truth):
    for camera in truth.cameras:
        expected = undistorted(drive, drive.photos_of(camera), WIDTH, HEIGHT)
        for metres in range(4):
            video = truth.video(f"lane_{metres}", camera)
            assert torch.allclose(video.cameras.times, expected.times, atol=1e-6)
            assert torch.allclose(video.cameras.K, expected.K)
            vehicle = np.stack([photo.world_from_vehicle for photo in drive.photos_of(camera)])
            aside = torch.from_numpy(metres * vehicle[:, :3, 1]).float()
            assert torch.allclose(video.cameras.centers, expected.centers + aside, atol=1e-4)
            assert torch.allclose(video.cameras.camera_from_world[:, :3, :3], expected.camera_from_world[:, :3, :3], atol=1e-5)
            assert video.clear.all() and len(video.frames) == FRAMES
            if metres:
                assert ((video.frames - truth.video("lane_0", camera).frames).abs() > 0.1).float().mean() > 0.1


def test_a_video_is_what_a_raycaster_of_frames_sees(world, drive, truth):
    """FRONT is triggered at the frames' times, at which the world's own actors are known."""
    video = truth.video("lane_2", "FRONT")
    poses = video.cameras.camera_from_world.double() @ torch.linalg.inv(torch.from_numpy(drive.source_from_world))
    shot = Raycaster(world, world.actors(FRAMES)).frame(replace(video.cameras, camera_from_world=poses.float())[2], 2)
    apart = torch.from_numpy(shot.picture).permute(2, 0, 1) - video.frames[2]
    assert apart.abs().mean() < 3e-3
    assert (torch.from_numpy(shot.depth) - video.depth[2, 0]).abs()[video.depth[2, 0] > 0].median() < 6e-4


@pytest.mark.parametrize("change", ["inserted", "removed", "moved"])
def test_edits_change_the_vehicle_its_shadow_and_its_mirror_image_only(world, drive, truth, change):
    name, changed, shaded = truth.about["edits"][change]["actor"], 0, 0
    for camera in truth.cameras:
        before, after = truth.video("lane_0", camera), truth.video(change, camera)
        different = ((before.frames - after.frames).abs().amax(dim=1) > 2 / 255)
        assert different.float().mean() < 0.5, "most stays as it is"
        own, boxes = torch.zeros_like(different), []
        for video in (before, after):
            for index, actor in enumerate(video.actors):
                if actor.name == name:
                    own |= video.actor_ids[:, 0] == index + 1
                    boxes.append(actor)
        assert len(boxes) == (2 if change == "moved" else 1)
        changed += int((different & own).sum())
        # Mixed pixels at the vehicle's outline are partly its.
        outside = different & (torch.nn.functional.max_pool2d(own.float()[:, None], 3, 1, 1)[:, 0] == 0)
        shaded += int(outside.sum())
        for t in range(FRAMES):
            excused = sum(_may_change(world, drive, video.cameras[t], video.depth[t], boxes, t) for video in (before, after))
            # A pixel is mixed of what it and its neighbours show.
            excused = torch.nn.functional.max_pool2d(excused[None].float(), 3, 1, 1)[0] > 0
            elsewhere = int((outside[t] & ~excused).sum())
            assert elsewhere <= 2, "something shiny may be smaller than a pixel"
        kept = (after.actor_ids == 0) == (before.actor_ids == 0)
        assert (~kept[:, 0] & ~own).sum() == 0
    assert changed > 40 and (shaded > 8 or change == "moved")


def _may_change(world, drive, camera, depth, boxes, t):
    """Where a picture shows places that a box covers, or shades, or which are shiny, vehicles included; [H, W]."""
    points = lift(camera, depth).double().numpy()
    found = _shiny(world, drive, camera, t)
    for actor in boxes:
        found |= _touches(world, drive, actor.size.numpy(), actor.world_from_actor[t].double().numpy(), points)
    return torch.from_numpy(found).reshape(depth[0].shape) & (depth[0] > 0)


def _touches(world, drive, size, pose, points):
    """Whether points are within the reach of a box's cover, or the way to the sun passes close to it."""
    sun = np.linalg.inv(drive.source_from_world)[:3] @ np.append(world.lighting.lamps[0].position, 1)
    local, toward = ((x - pose[:3, 3]) @ pose[:3, :3] for x in (points, sun[None]))
    near = (np.abs(local) < size / 2 + world.lighting.shelter + 0.1).all(axis=1)
    way, grown = toward - local, size / 2 + 0.3
    ends = np.stack([(-grown - local) / way, (grown - local) / way])
    return near | (ends.min(axis=0).max(axis=1) <= ends.max(axis=0).min(axis=1))


def _shiny(world, drive, camera, t):
    poses = camera.camera_from_world.double() @ torch.linalg.inv(torch.from_numpy(drive.source_from_world))
    placed = replace(camera, camera_from_world=poses.float())
    caster = Raycaster(world, [actor[[t]] for actor in world.actors(FRAMES)])
    rays = lift(placed, torch.ones(1, camera.height, camera.width)) - placed.centers
    hits = caster.cast(placed.centers[0].numpy(), rays.numpy())
    seen = np.isfinite(hits["t_hit"].numpy())
    return seen & (world.atlas.mirror[caster._mesh.material[np.where(seen, hits["face"].numpy(), 0)]] > 0)


def test_part_of_a_drive_has_its_part_of_the_truth(street, truth):
    part = read_waymo_v2(street, Selection(("FRONT_LEFT",), first=1))
    video, whole = Truth.of(part).video("lane_1", "FRONT_LEFT"), truth.video("lane_1", "FRONT_LEFT")
    assert torch.equal(video.frames, whole.frames[1:]) and torch.equal(video.actor_ids, whole.actor_ids[1:])
    expected = undistorted(part, part.photos, WIDTH, HEIGHT)
    left = torch.from_numpy(np.stack([photo.world_from_vehicle[:3, 1] for photo in part.photos])).float()
    assert torch.allclose(video.cameras.centers, expected.centers + left, atol=1e-4), "in the world of its first frame"
    name = video.actors[0].name
    assert torch.allclose(next(actor for actor in part.actors if actor.name == name).world_from_actor[:, :3, 3],
                          video.actors[0].world_from_actor[:, :3, 3], atol=0.3)


def test_cameras_in_vehicles_are_told(world, tmp_path):
    """The car ahead stands where the rig is, two metres to the left."""
    ahead = world.vehicles[0]
    there = replace(ahead, track=replace(ahead.track, start=1.0, aside=world.walk.aside + 2, speed=world.walk.speed))
    write_drive(tmp_path / "street", replace(world, vehicles=[there, *world.vehicles[1:]]), 2, 32, 24, ("lane_0", "lane_2"))
    truth = Truth(tmp_path / "street" / "truth")
    assert truth.videos == ["lane_0", "lane_2"] and not truth.video("lane_2", "FRONT").clear.any()
    assert truth.video("lane_0", "FRONT").clear.all()
    with pytest.raises(UserError, match="no video moved; there are lane_0, lane_2"):
        truth.video("moved", "FRONT")
    with pytest.raises(UserError, match="no recorded ids"):
        truth.recorded("FRONT")


def test_damaged_truth(street, drive, tmp_path):
    def broken(change, message, camera="FRONT"):
        folder = tmp_path / "truth"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(street / "truth", folder)
        change(folder)
        with pytest.raises(UserError, match=message):
            truth = Truth(folder)
            truth.video("lane_0", camera), truth.recorded(camera)

    broken(lambda folder: None, "no camera REAR; choose among FRONT, FRONT_LEFT", camera="REAR")
    broken(lambda folder: (folder / "world.json").write_text("{"), "world.json cannot be read")
    broken(lambda folder: (folder / "lane_0/FRONT/frames/00001.png").unlink(), "00001.png cannot be read")
    broken(lambda folder: (folder / "lane_0/FRONT/depths/00000.png").write_bytes(b"PNG"), "depths/00000.png cannot be read")
    broken(lambda folder: (folder / "lane_0/FRONT/cameras.json").write_text("{}"), "cameras.json cannot be read")
    broken(lambda folder: (folder / "recorded/FRONT/actors.json").unlink(), "actors.json cannot be read")

    def other_size(folder):
        path = folder / "lane_0/FRONT/cameras.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"width": 48}))

    broken(other_size, "96×64 px, not 48×64")
    with pytest.raises(UserError, match="has no folder truth"):
        Truth.of(replace(drive, truth=None))
    with pytest.raises(UserError, match="has no frame at 7.000 s"):
        Truth.of(replace(drive, times=np.array([0, 0.1, 7])))


def content(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def test_command(tmp_path, capsys):
    """The same seed gives the same bytes, whoever makes it."""
    small = ["--frames", "2", "--width", "32", "--height", "24"]
    some = ["--truth", "lane_1", "recorded"]
    main(["sample", "street", str(tmp_path / "one"), "--seed", "4", *small, *some])
    assert f"next: ns-train chopgrad-refine --data {tmp_path / 'one'} waymo-v2" in capsys.readouterr().out
    for made in (1, 0):
        main(["sample", "street", str(tmp_path / "many"), "--seed", "4", "--scenes", "1", *small, *some])
        shown = capsys.readouterr().out
        assert f"{made} of them" in shown and f"--data {tmp_path / 'many' / 'street-4'} waymo-v2" in shown
    assert content(tmp_path / "one") == content(tmp_path / "many" / "street-4")
    assert {path.name for path in (tmp_path / "one" / "truth").iterdir()} == {"world.json", "recorded", "lane_1"}
    for command, message in (
            (["sample", "street", tmp_path / "one"], "not an empty folder"),
            (["sample", "room", tmp_path / "new", "--layout", "waymo"], "give the kind street"),
            (["sample", "street", tmp_path / "new", "--truth", "all", "lane_1"], "give all, none, or some of recorded"),
            (["sample", "street", tmp_path / "many", "--scenes", "1", "--seed", "4", *small], "made with other truth")):
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, command)))
        assert caught.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_all_truth_there_is():
    assert TRUTH == ("recorded", "lane_0", "lane_1", "lane_2", "lane_3", "inserted", "removed", "moved")
