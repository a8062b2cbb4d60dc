"""What is derived from a drive, against rays cast through every pixel at its own time."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from chopgrad_ns.data.drives.boxes import actor_ids_from_boxes, actors_at, boxes_in, moving_actors, moving_mask
from chopgrad_ns.data.drives.derived import MARGIN, actor_points, coloured_points, decoded, lidar_depth, owned_points, points_at
from chopgrad_ns.data.drives.drive import Points
from chopgrad_ns.data.drives.files import extract
from chopgrad_ns.data.drives.projection import camera_at, from_pixels, motion_of, project, readout_of, undistorted
from chopgrad_ns.errors import UserError
from tests.data.made_drive import RED, Made, cast, made_drive, road, seen_by


@pytest.fixture(scope="module")
def drive():
    return made_drive()


def grown(mask, pixels):
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2)).astype(bool)


def wrong(found, expected):
    """How many pixels differ that are not beside a border of what is expected, and how many in all."""
    edge = cv2.morphologyEx(expected.astype(np.int16), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
    return int(((found != expected) & ~edge).sum()), int((found != expected).sum())


@pytest.mark.parametrize("rolling", [True, False])
@pytest.mark.parametrize("distorted", [True, False])
def test_boxes_cover_what_rays_meet(rolling, distorted):
    drive, met = made_drive(rolling, distorted), set()
    for photo in drive.photos:
        expected = np.maximum(seen_by(drive, photo)[0], 0)
        far, every = wrong(actor_ids_from_boxes(drive, photo, 96, 64), expected)
        # What lens distortion bends inwards is filled up.
        assert far == 0 and every <= (12 if distorted else 5), photo.name
        met |= set(np.unique(expected))
    assert met == {0, 1, 2, 3}


def test_rolling_shutter_and_distortion_matter():
    drive = made_drive()
    photo = next(photo for photo in drive.photos_of("LEFT") if (seen_by(drive, photo)[0] == 1).sum() > 100)
    expected = np.maximum(seen_by(drive, photo)[0], 0)
    right = wrong(actor_ids_from_boxes(drive, photo, 96, 64), expected)[1]
    still = wrong(actor_ids_from_boxes(drive, replace(photo, shutter=None), 96, 64), expected)[1]
    straight = replace(drive, cameras={name: replace(camera, distortion=np.zeros(5)) for name, camera in drive.cameras.items()})
    bent = wrong(actor_ids_from_boxes(straight, photo, 96, 64), expected)[1]
    assert still > 2 * right and bent > 2 * right, (right, still, bent)


def test_masks_hold_what_moves_and_little_else(drive):
    assert [drive.actors[index].name for index in moving_actors(drive)] == ["coming", "beside"]
    parked = []
    for photo in drive.photos:
        ids = seen_by(drive, photo)[0]
        parked.append(moving_mask(drive, photo, 96, 64)[ids == 2].mean() if (ids == 2).any() else 0)
        moves, mask = np.isin(ids, [1, 3]), moving_mask(drive, photo, 96, 64, dilation=1)
        assert mask[moves].all() and not mask[~grown(moves, 7)].any(), photo.name
        assert (moving_mask(drive, photo, 96, 64, dilation=0) <= mask).all()
    assert max(parked) < 0.2, "the parked car stays"


def test_masks_of_other_sizes_are_the_same_masks(drive):
    photo = drive.photos[2]
    small, large = moving_mask(drive, photo, 96, 64, 0), moving_mask(drive, photo, 384, 256, 0)
    shrunk = large.reshape(64, 4, 96, 4).mean(axis=(1, 3))
    assert large.any() and (small[shrunk == 1]).all() and not grown(shrunk > 0, 1)[~grown(small, 2)].any()


def test_a_box_behind_the_camera_is_not_in_the_picture(drive):
    photo = drive.photos_of("FRONT")[0]
    actor = drive.actors[1]
    poses = actor.world_from_actor.clone()
    poses[:, 0, 3] = -10
    behind = replace(drive, actors=[replace(actor, world_from_actor=poses)])
    assert [box.actor for box in boxes_in(drive, photo)] and not boxes_in(behind, photo)
    assert not (actor_ids_from_boxes(behind, photo, 96, 64)).any()


def test_more_actors_than_ids_hold_are_refused(drive):
    with pytest.raises(ValueError, match="255"):
        actor_ids_from_boxes(replace(drive, actors=drive.actors * 100), drive.photos[0], 96, 64)


def test_points_belong_to_the_boxes_that_hold_them(drive):
    xyz = drive.source.points(1).xyz
    owner = actors_at(drive, 1, xyz, 0.05)
    expected = np.full(len(xyz), -1)
    for index, actor in enumerate(drive.actors):
        actor_from_world = np.linalg.inv(actor.world_from_actor[1].double().numpy())
        local = np.concatenate([xyz, np.ones((len(xyz), 1))], axis=1) @ actor_from_world.T
        expected[(abs(local[:, :3]) <= actor.size.numpy() / 2 + 0.05).all(axis=1)] = index
    assert (owner == expected).all() and set(np.unique(owner)) == {-1, 0, 1, 2}


def test_points_of_actors_are_where_the_actors_are(drive):
    before, owner = owned_points(drive, 2)
    xyz = points_at(drive, 2, before, owner, drive.times[2] + 0.04)
    assert (owner == actors_at(drive, 2, before, MARGIN)).all() and {-1, 0, 1} <= set(owner)
    assert np.abs(xyz[owner == 0] - before[owner == 0] - [-15 * 0.04, 0, 0]).max() < 1e-4
    assert np.array_equal(xyz[owner < 0], before[owner < 0]) and np.abs(xyz[owner == 1] - before[owner == 1]).max() < 1e-4


def test_points_of_actors_that_have_gone_are_left_out(drive):
    coming = drive.actors[0]
    gone = replace(drive, actors=[replace(coming, present=torch.tensor([True] + [False] * 4)), *drive.actors[1:]])
    gone.source = drive.source
    xyz, owner = owned_points(drive, 0)
    own = (owner == 0).sum()
    assert own > 20 and [len(xyz) - len(points_at(gone, 0, xyz, owner, time)) for time in (0.1, 0.3)] == [0, own]


def depth_of_rays(drive, photo, cameras):
    """z of what the pixels of an undistorted camera show."""
    v, u = np.mgrid[:cameras.height, :cameras.width] + 0.5
    world_from_camera = np.linalg.inv(cameras.camera_from_world[0].double().numpy())
    local = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], axis=1) @ np.linalg.inv(cameras.K[0].double().numpy()).T
    origins = np.broadcast_to(world_from_camera[:3, 3], local.shape)
    hit, z = cast(drive, origins, local @ world_from_camera[:3, :3].T, np.full(len(local), photo.middle))
    return hit.reshape(v.shape), z.reshape(v.shape)


def test_lidar_depth_is_what_rays_meet_at_the_photo_s_time(drive):
    share = []
    for name in drive.cameras:
        photos = drive.photos_of(name)
        cameras = undistorted(drive, photos, 48, 32)
        depths = lidar_depth(drive, photos, cameras)
        for index, photo in enumerate(photos):
            hit, z = depth_of_rays(drive, photo, cameras[index])
            found = depths[index, 0].numpy()
            known = (found > 0) & (hit >= 0)
            inner = known & ~(cv2.morphologyEx(hit.astype(np.int16), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0)
            slope = sum(np.abs(np.gradient(np.where(np.isfinite(z), z, 0), axis=axis)) for axis in (0, 1))  # in a pixel
            assert (np.abs(found - z) <= 0.1 + 1.5 * slope)[inner].mean() > 0.97, photo.name
            on_car = inner & (hit == 1)
            share.append((int(on_car.sum()), float(np.abs(found - z)[on_car].max(initial=0))))
    assert sum(count for count, _ in share) > 20 and max(error for _, error in share) < 0.25, share


def test_lidar_depth_is_where_a_rolling_shutter_shows_it():
    drive = made_drive(distorted=False)
    v, u, z = np.meshgrid(np.arange(4, 64, 12.0), np.arange(4, 96, 12.0), [4.0], indexing="ij")
    moved = 0
    for photo in drive.photos:
        camera = drive.cameras[photo.camera]
        local = from_pixels(camera, np.stack([u.ravel(), v.ravel()], axis=1)) * z.reshape(-1, 1)
        world_from_camera = camera_at(drive, photo, photo.middle)
        xyz = (local @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]).astype(np.float32)
        alone = replace(drive, actors=[], source=Few(xyz))
        rolling = {"readout": readout_of(camera, photo), "motion": motion_of(drive, photo)}
        rolling = {name: torch.from_numpy(value)[None].float() for name, value in rolling.items()}
        cameras = replace(undistorted(drive, [photo], 96, 64), **rolling)
        found, still = (lidar_depth(alone, [photo], views)[0, 0].numpy() for views in (cameras, cameras.still()))
        uv, depth, inside = project(drive, photo, xyz)
        sure = inside & (np.abs(uv % 1 - 0.5) < 0.49).all(axis=1)  # not between two pixels
        column, row = uv[sure].astype(int).T
        assert sure.sum() > 20 and np.abs(found[row, column] - depth[sure]).max() < 2e-3, photo.name
        moved += int((still[row, column] == 0).sum())
    assert moved > 40, "it matters"


@dataclass
class Few:
    """`Source` of a few points in every frame."""

    xyz: np.ndarray

    def points(self, frame):
        ones = np.ones(len(self.xyz), np.uint8)
        return Points(self.xyz, ones.astype(np.float32), ones, 0 * ones)


def test_neighbouring_frames_fill_in_what_stands_still(drive):
    photos = drive.photos_of("FRONT")
    sparse, cameras = replace(drive, source=Made(drive, rows=10)), undistorted(drive, photos, 48, 32)
    own, more = (lidar_depth(sparse, photos, cameras, neighbours=count) for count in (0, 1))
    assert (more > 0)[own > 0].float().mean() > 0.95 and (more > 0).sum() > 1.5 * (own > 0).sum()
    for index, photo in enumerate(photos):
        hit, z = depth_of_rays(drive, photo, cameras[index])
        added = ((more > 0) & (own == 0))[index, 0].numpy()
        assert (hit[added] == 0).mean() > 0.9, "the road, not where cars were in other frames"


def test_static_seeds_are_coloured_by_what_sees_them(drive):
    seeds, few = coloured_points(drive, 20_000), coloured_points(drive, 4000)
    assert 2000 < len(few.xyz) <= 4000 < len(seeds.xyz) <= 20_000 and seeds.xyz.dtype == seeds.rgb.dtype == np.float32
    assert np.abs(seeds.xyz[:, 2]).max() < 1e-3, "only the road stands still: cars, the parked one too, are left out"
    for frame in range(len(drive)):
        assert (actors_at(drive, frame, seeds.xyz[:1]) < 0).all()
    assert (np.abs(seeds.rgb * 255 - RED).max(axis=1) < 60).mean() < 0.002, "no colour of a car in front"
    near = np.hypot(seeds.xyz[:, 0] - 6, seeds.xyz[:, 1]) < 3.5
    near &= (np.abs(seeds.xyz[:, :2] % 2 - 1) < 0.6).all(axis=1)  # away from where the squares meet
    right = np.abs(seeds.rgb[near] - road(*seeds.xyz[near, :2].T) / 255).max(axis=1) < 0.3
    assert near.sum() > 80 and right.mean() > 0.9


def test_photos_that_are_taken_out_are_not_looked_at(drive):
    drive.source.asked.clear()
    coloured_points(replace(drive, photos=[photo for photo in drive.photos if photo.frame % 2 == 0]), 500)
    assert drive.source.asked and all(frame % 2 == 0 for _, frame in drive.source.asked)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_pictures_that_cannot_be_decoded_are_named(drive, content):
    class Source:
        def picture(self, photo):
            return content

    with pytest.raises(UserError, match="FRONT 0 cannot be decoded"):
        decoded(replace(drive, source=Source()), drive.photos[0])


def test_seeds_of_actors_lie_on_them(drive):
    coming, parked, beside = actor_points(drive, [0, 1, 2], 3000)
    for seeds in (coming, parked, beside):
        half = drive.actors[0].size.numpy() / 2
        assert len(seeds.xyz) > 50 and (np.abs(seeds.xyz) <= half + 1e-3).all()
        assert (np.abs(np.abs(seeds.xyz) - half).min(axis=1) < 2e-3).all(), "on the surface of the box"
        assert (np.abs(seeds.rgb * 255 - RED).max(axis=1) < 60).mean() > 0.8
        assert seeds.xyz[:, 2].min() > -half[2] + 0.09, "not the road"
    few, = actor_points(drive, [1], 20)
    assert len(few.xyz) == 20


def test_a_drive_without_points_has_no_seeds(drive):
    class Blind:
        picture = drive.source.picture

        def points(self, frame):
            return drive.source.points(frame).cat([])

    with pytest.raises(UserError, match="no lidar points"):
        coloured_points(replace(drive, source=Blind()), 100)


def test_pictures_become_files_once(drive, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    drive.source.asked.clear()
    told = []
    files = extract(drive, lambda *steps: told.append(steps))
    assert len(drive.source.asked) == len(drive.photos) and extract(drive) == files
    assert len(drive.source.asked) == len(drive.photos), "found, not made again"
    for photo, picture, mask in zip(drive.photos, files.pictures, files.masks):
        assert np.array_equal(np.array(Image.open(picture)), seen_by(drive, photo)[1])
        assert np.array_equal(np.array(Image.open(mask)) == 0, moving_mask(drive, photo, 96, 64))
    assert told[-1] == (10, 10)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name, content", [("../../out", None), ("FRONT", b"no picture"), ("FRONT", b"\x89PNG\r\n\x1a\n")])
def test_pictures_that_are_none_leave_nothing(drive, tmp_path, monkeypatch, name, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photo = replace(drive.photos[0], camera=name)

    class Source:
        def picture(self, photo):
            return content or drive.source.picture(drive.photos[0])

    odd = replace(drive, photos=[photo], cameras={name: replace(drive.cameras["FRONT"], name=name)}, source=Source(), key="odd")
    if content is None:
        files = extract(odd)
        assert files.pictures[0].is_relative_to(tmp_path / "cache") and files.pictures[0].is_file()
        assert [path.name for path in tmp_path.iterdir()] == ["cache"]
        return
    with pytest.raises(UserError, match="FRONT 0 cannot be read"):
        extract(odd)
    left = [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith("odd")]
    assert [(path.suffix, path.stat().st_size) for path in left] == [(".lock", 0)]


def test_two_at_a_time_find_the_same_files(drive, tmp_path, monkeypatch):
    """Other than one removing what the other is writing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def write(_):
        files = extract(drive, lambda *_: time.sleep(0.02))
        return sum(path.is_file() for path in files.pictures + files.masks)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, range(2))) == [20, 20]


def test_parts_of_a_drive_have_files_of_their_own(drive, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for frames in ([0], [1, 2]):
        files = extract(drive.of_frames(frames))
        assert len(files.pictures) == 2 * len(frames) and all(path.is_file() for path in files.pictures + files.masks)


def test_pictures_of_another_size_than_the_calibration_s_are_refused(drive, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    larger = {name: replace(camera, width=97) for name, camera in drive.cameras.items()}
    with pytest.raises(UserError, match="97×64"):
        extract(replace(drive, cameras=larger, key="larger"))
