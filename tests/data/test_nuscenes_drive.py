"""A tiny nuScenes, read through the real kit: everything lands where it was put."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from chopgrad_ns.data.drives import nuscenes
from chopgrad_ns.data.drives.drive import Selection, inverse
from chopgrad_ns.data.drives.nuscenes import read_nuscenes
from chopgrad_ns.data.drives.open import open_drive
from chopgrad_ns.data.drives.projection import project
from chopgrad_ns.errors import UserError
from tests.data.nuscenes_tables import BOXED, CAMERAS, CAR, CYCLIST, VERSION, WALKER, WLH, K, camera_pose, write_nuscenes
from tests.data.recorded_world import POSTS, by_hand, car, one_sentence, seen, vehicle, walker

pytest.importorskip("nuscenes", reason="the kit of nuScenes (nuscenes-devkit) is not installed")
FRONT = {"CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_nuscenes(tmp_path_factory.mktemp("nuscenes") / "sets")


@pytest.fixture
def copy(root, tmp_path):
    """One to be damaged."""
    return shutil.copytree(root, tmp_path / "sets")


def change(root, table, edit):
    file = root / VERSION / f"{table}.json"
    rows = json.loads(file.read_text())
    edit(rows)
    file.write_text(json.dumps(rows))


def places_close(found, expected, tolerance=1e-3):
    assert (np.abs(np.asarray(found) - expected) < tolerance).all()


@pytest.mark.parametrize("sweeps", [False, True])
def test_places_are_seen_where_the_tables_say(root, sweeps):
    drive = open_drive(root, sweeps=sweeps)
    assert drive.key == read_nuscenes(root, sweeps=sweeps).key and set(drive.cameras) == FRONT and drive.name == "scene-0061"
    assert len(drive) == (41 if sweeps else 5) and len(drive.photos_of("CAM_FRONT")) == (25 if sweeps else 5)
    points, some = seen(inverse(drive.source_from_world), POSTS), 0
    for photo in drive.photos:
        time = photo.time  # the lidar's first turn was at 0 of the world's time
        pixels, depths = by_hand(K, camera_pose(photo.camera), vehicle(time), POSTS)
        uv, z, inside = project(drive, photo, points)
        places_close(uv[inside], pixels[inside], 1e-3)
        places_close(z[inside], depths[inside])
        assert abs(time - drive.times[photo.frame]) < 0.026
        some += inside.sum()
    assert some > 2 * len(drive), "posts are in the pictures"


def test_its_own_time_matters(root):
    """A picture is taken up to 13 ms from its frame: the vehicle's pose at the frame would be pixels off."""
    drive = read_nuscenes(root)
    photo = drive.photos_of("CAM_FRONT_RIGHT")[2]
    assert photo.time == pytest.approx(1 - 0.013)
    away = np.linalg.norm(photo.world_from_vehicle[:3, 3] - drive.world_from_vehicle[2, :3, 3])
    assert away == pytest.approx(0.013 * np.linalg.norm([9 + 0.8, 4 - 0.6, 0.1]), rel=0.02)


def test_velocities_are_those_of_the_vehicle(root):
    drive = read_nuscenes(root)
    turn = drive.source_from_world[:3, :3]
    for photo in drive.photos_of("CAM_FRONT")[1:-1]:
        before, after = vehicle(photo.time - 1e-4), vehicle(photo.time + 1e-4)
        assert np.allclose(turn @ photo.linear_velocity, (after - before)[:3, 3] / 2e-4, atol=0.03)
        spin = (after[:3, :3] - before[:3, :3]) / 2e-4 @ vehicle(photo.time)[:3, :3].T
        assert np.allclose(turn @ photo.angular_velocity, [spin[2, 1], spin[0, 2], spin[1, 0]], atol=3e-3)


def test_points_and_boxes_land_where_they_were_put(root):
    drive = read_nuscenes(root)
    for frame in range(len(drive)):
        points = drive.source.points(frame)
        places_close(seen(drive.source_from_world, points.xyz.astype(np.float64)), POSTS)
        assert points.intensity.tolist() == [0, 10, 20, 30, 40, 50] and set(points.returns) == {1} and set(points.lidar) == {0}
    actors = {actor.name: actor for actor in drive.actors}
    assert {name: actor.kind for name, actor in actors.items()} == {CAR: "vehicle", WALKER: "pedestrian", CYCLIST: "cyclist"}
    for name, (where, frames) in BOXED.items():
        assert actors[name].present.nonzero()[:, 0].tolist() == list(frames)
        width, length, height = WLH[name]
        assert np.allclose(actors[name].size, [length, width, height])
        for frame in frames:
            found = drive.source_from_world @ actors[name].world_from_actor[frame].double().numpy()
            places_close(found, where(0.5 * frame))
    assert drive.notes == [f"1 of 3 tracks have one box only ({WALKER})."]


def test_boxes_between_keyframes(root):
    """At every turn of the lidar between two keyframes that have one; nothing is made up where one is missing."""
    drive = read_nuscenes(root, sweeps=True)
    actors = {actor.name: actor for actor in drive.actors}
    assert actors[CAR].present.all() and actors[WALKER].present.nonzero()[:, 0].tolist() == [20]
    assert actors[CYCLIST].present.nonzero()[:, 0].tolist() == [*range(11), 30]
    for name, where in ((CAR, car), (CYCLIST, walker)):
        for frame in actors[name].present.nonzero()[:, 0].tolist():
            found = drive.source_from_world @ actors[name].world_from_actor[frame].double().numpy()
            places_close(found, where(drive.times[frame]))
    assert any("one box" in note for note in drive.notes)


def test_the_kit_sees_boxes_in_the_same_pixels(root):
    from nuscenes.nuscenes import NuScenes
    from nuscenes.utils.geometry_utils import BoxVisibility, view_points

    kit, drive = NuScenes(VERSION, str(root), verbose=False), read_nuscenes(root)
    compared = 0
    for photo in drive.photos:
        token = kit.sample[photo.frame]["data"][photo.camera]
        _, boxes, intrinsic = kit.get_sample_data(token, BoxVisibility.NONE)
        for box in boxes:
            track = kit.get("sample_annotation", box.token)["instance_token"]
            actor = next(actor for actor in drive.actors if actor.name == track)
            place = actor.world_from_actor[photo.frame, :3, 3].double().numpy()
            uv, _, inside = project(drive, photo, place[None])
            if inside[0]:
                places_close(uv[0] - 0.5, view_points(box.center[:, None], intrinsic, normalize=True)[:2, 0], 0.01)
                compared += 1
    assert compared >= 4


def test_a_part_of_it(root, copy):
    """Only what is asked for is looked at: the rest may be missing. Times stay those of the recording, the world is the
    vehicle's frame at the first frame chosen.
    """
    whole = read_nuscenes(root, Selection(cameras=("CAM_BACK", "CAM_FRONT")))
    for name in FRONT - {"CAM_FRONT"}:
        shutil.rmtree(copy / "samples" / name)
    shutil.rmtree(copy / "sweeps")
    part = read_nuscenes(copy, Selection(cameras=("CAM_BACK", "CAM_FRONT"), first=1, last=5, step=2))
    assert list(part.cameras) == ["CAM_BACK", "CAM_FRONT"] == list(dict.fromkeys(photo.camera for photo in part.photos))
    assert part.times.tolist() == [0.5, 1.5] == whole.times[[1, 3]].tolist()
    assert np.allclose(part.world_from_vehicle[0], np.eye(4)) and not np.allclose(whole.world_from_vehicle[1], np.eye(4))
    assert [photo.frame for photo in part.photos_of("CAM_BACK")] == [0, 1]
    photo, same = part.photos_of("CAM_BACK")[1], whole.photos_of("CAM_BACK")[3]
    assert part.source.picture(photo) == whole.source.picture(same)
    places_close(part.source_from_world @ photo.world_from_vehicle, whole.source_from_world @ same.world_from_vehicle, 1e-6)
    assert len(part.actors[0]) == 2 and part.key != read_nuscenes(copy, Selection(cameras=("CAM_FRONT",))).key
    assert {actor.name for actor in part.actors} == {CAR, CYCLIST}
    assert read_nuscenes(root, Selection(step=2)).key == read_nuscenes(root, Selection(step=2)).key


def test_scenes_and_versions(tmp_path):
    root = write_nuscenes(tmp_path / "sets", 2, ("scene-0061", "scene-0103"))
    with pytest.raises(UserError) as caught:
        read_nuscenes(root)
    one_sentence(caught, "2 scenes", "scene-0061, scene-0103")
    with pytest.raises(UserError) as caught:
        read_nuscenes(root, scene="scene-0999")
    one_sentence(caught, "scene-0999", "scene-0103")
    second = read_nuscenes(root, scene="scene-0103")
    assert second.name == "scene-0103" and not second.actors and "no annotations" in second.notes[0]
    assert len(second.photos) == 6 and second.times.tolist() == [0, 0.5]
    assert read_nuscenes(root, scene="scene-0061-token").name == "scene-0061"
    shutil.copytree(root / VERSION, root / "v1.0-test")
    for version, parts in ((None, ("v1.0-mini, v1.0-test", "choose")), ("v1.0", ("v1.0-mini", "no version v1.0 "))):
        with pytest.raises(UserError) as caught:
            read_nuscenes(root, version=version, scene="scene-0103")
        one_sentence(caught, *parts)
    assert read_nuscenes(root, version="v1.0-test", scene="scene-0103").name == "scene-0103"


def test_tables_are_loaded_once(copy):
    nuscenes._kit.cache_clear()
    limit = Image.MAX_IMAGE_PIXELS
    for step in (1, 2):
        read_nuscenes(copy, Selection(step=step))
    assert nuscenes._kit.cache_info().misses == 1 and Image.MAX_IMAGE_PIXELS == limit is not None
    change(copy, "scene", lambda rows: rows[0].update(name="scene-1100"))
    assert read_nuscenes(copy).name == "scene-1100", "until they change"


def test_a_gap_in_time_is_told(tmp_path):
    """Two keyframes of the lidar are lost, and the pictures taken then belong to no frame."""
    root = write_nuscenes(tmp_path / "sets", 8)
    whole = read_nuscenes(root)
    change(root, "sample_data", lambda rows: rows.__setitem__(slice(None), [
        row for row in rows if row["token"] not in ("scene-0061-LIDAR_TOP10", "scene-0061-LIDAR_TOP20")]))
    drive = read_nuscenes(root)
    assert drive.times.tolist() == whole.times[[0, *range(3, 8)]].tolist() and len(whole.photos) == len(drive.photos) + 6
    assert drive.notes[0] == "After frame 0 (0.00 s) the recording has a gap of 1.50 s."
    assert not any("gap" in note for note in whole.notes + read_nuscenes(root, Selection(first=1)).notes)
    assert drive.actors[0].present.tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("table, edit, parts", [
    ("ego_pose", lambda rows: rows[0].update(rotation=[0, 0, 0, 0]), ("pose", "LIDAR_TOP", "fetch")),
    ("ego_pose", lambda rows: rows[0].update(translation=[1, float("nan"), 0]), ("pose", "LIDAR_TOP")),
    ("calibrated_sensor", lambda rows: rows[1].update(camera_intrinsic=[]), ("CAM_FRONT", "camera_intrinsic")),
    ("sample_annotation", lambda rows: rows[0].update(size=[1.9, 0, 1.6]), ("size",)),
    ("sample_annotation", lambda rows: rows[3].update(size=[1.9, "long", 1.6]), ("long", "fetch")),
    ("sample_annotation", lambda rows: rows[0].pop("rotation"), ("rotation", "metadata")),
    ("sample", lambda rows: rows.pop(), ("sample", "fetch")),
    ("sensor", lambda rows: rows.clear(), ("fetch",)),
    ("map", lambda rows: rows[0].update(filename="maps/none.png"), ("maps/none.png", "maps again")),
])
def test_damaged_rows_are_refused(copy, table, edit, parts):
    change(copy, table, edit)
    with pytest.raises(UserError) as caught:
        read_nuscenes(copy)
    one_sentence(caught, *parts)


def test_what_is_missing_is_named(copy, tmp_path):
    def refused(*parts, **options):
        with pytest.raises(UserError) as caught:
            read_nuscenes(copy, **options)
        one_sentence(caught, *parts)

    refused("CAM_TOP", "CAM_BACK, CAM_FRONT", selection=Selection(cameras=("CAM_TOP",)))
    refused("No frame", "it has 5", selection=Selection(first=7))
    shutil.rmtree(copy / "sweeps" / "CAM_FRONT")
    refused("CAM_FRONT", "other files", "sweeps too", sweeps=True)
    file = next((copy / "samples" / "CAM_FRONT").iterdir())
    kept = file.read_bytes()
    file.unlink()
    refused(file, "is missing", "fetch")
    file.write_bytes(kept)
    (copy / VERSION / "log.json").unlink()
    refused("log.json", VERSION)
    (copy / VERSION / "log.json").write_text('[{"token": ')
    refused(VERSION, "fetch")
    with pytest.raises(UserError) as caught:
        read_nuscenes(tmp_path / "nothing")
    one_sentence(caught, "nothing", "v1.0-mini/sample_data.json")


def test_damaged_files_are_told_when_they_are_needed(copy):
    drive = read_nuscenes(copy)
    photo = drive.photos_of("CAM_FRONT")[1]
    whole = drive.source.picture(photo)
    file = drive.source.pictures["CAM_FRONT", 1]
    for content, part in ((whole[:len(whole) // 2], "cannot be read"), (b"", "cannot be read"),
                          (drive.source.pictures["CAM_BACK", 1].read_bytes() if "CAM_BACK" in drive.cameras else b"?", "read")):
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            drive.source.picture(photo)
        one_sentence(caught, file, "CAM_FRONT at 0.51 s of scene-0061", part)
    Image.new("RGB", (96, 64)).save(file)
    with pytest.raises(UserError) as caught:
        drive.source.picture(photo)
    one_sentence(caught, "96x64", "96x56")
    turn = drive.source.turns[2][0]
    for content in (turn.read_bytes()[:-4], np.full(5, np.nan, np.float32).tobytes()):
        turn.write_bytes(content)
        with pytest.raises(UserError) as caught:
            drive.source.points(2)
        one_sentence(caught, turn, "fetch that file")
    assert len(drive.source.points(1)) == len(POSTS), "the others can still be read"


def test_without_the_kit(copy, monkeypatch):
    nuscenes._kit.cache_clear()
    monkeypatch.setitem(sys.modules, "nuscenes.nuscenes", None)
    with pytest.raises(UserError) as caught:
        read_nuscenes(copy)
    one_sentence(caught, "pip install nuscenes-devkit")


def test_cameras_look_where_they_should(root):
    """The sides are not mixed up: what is ahead on the left is on the left."""
    drive = read_nuscenes(root, Selection(cameras=tuple(CAMERAS)))
    for name, (yaw, _) in CAMERAS.items():
        ahead = drive.cameras[name].vehicle_from_camera[:3, 2]
        assert np.degrees(np.arctan2(ahead[1], ahead[0])) % 360 == pytest.approx(yaw % 360, abs=0.1)
