"""A tiny log of Argoverse 2: everything lands where it was put, and where its kit puts it."""

import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import feather

from chopgrad_ns.data.drives.argoverse import read_argoverse
from chopgrad_ns.data.drives.drive import Selection, inverse
from chopgrad_ns.data.drives.open import open_drive
from chopgrad_ns.data.drives.projection import project
from chopgrad_ns.errors import UserError
from tests.data.argoverse_log import BOXED, CAMERAS, CAR, LWH, SIGN, START, WALKER, K, camera_pose, write_argoverse
from tests.data.recorded_world import POSTS, by_hand, one_sentence, seen, vehicle

MATRIX = [[K[0], 0, K[2]], [0, K[1], K[3]], [0, 0, 1]]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_argoverse(tmp_path_factory.mktemp("argoverse") / "01bb304d-7bd8")


@pytest.fixture
def copy(log, tmp_path):
    """One to be damaged."""
    return shutil.copytree(log, tmp_path / "01bb304d-7bd8")


def change(path, **columns):
    """Write a table again, with columns that a function has changed; None drops one."""
    table = feather.read_table(path, memory_map=False).to_pydict()
    for name, edit in columns.items():
        if edit is None:
            del table[name]
        else:
            table[name] = edit(table[name])
    feather.write_feather(pa.table(table), path)


def refused(log, *parts, selection=Selection()):
    with pytest.raises(UserError) as caught:
        read_argoverse(log, selection)
    one_sentence(caught, *parts)


def test_places_are_seen_where_the_tables_say(log):
    """In the pictures as they are, without distortion, though the calibration has coefficients of the lenses."""
    drive = open_drive(log, selection=Selection(cameras=tuple(CAMERAS)))
    assert drive.key == read_argoverse(log, Selection(cameras=tuple(CAMERAS))).key
    assert len(drive) == 10 and len(drive.photos) == 40 and np.allclose(drive.times, np.arange(10) / 10)
    points, some = seen(inverse(drive.source_from_world), POSTS), 0
    for photo in drive.photos:
        uv, z, inside = project(drive, photo, points)
        pixels, depths = by_hand(MATRIX, camera_pose(photo.camera), vehicle(photo.time), POSTS)
        assert np.allclose(uv[inside], pixels[inside], atol=1e-3) and np.allclose(z[inside], depths[inside], atol=1e-3)
        some += inside.sum()
    assert some > 20


def test_each_frame_has_the_nearest_picture(log):
    drive = read_argoverse(log)
    assert list(drive.cameras) == ["ring_front_left", "ring_front_right"]
    assert [photo.frame for photo in drive.photos_of("ring_front_left")] == list(range(10))
    for photo in drive.photos:
        assert photo.time - drive.times[photo.frame] == pytest.approx(0.0115, abs=1e-6)
        moved = np.linalg.norm((photo.world_from_vehicle - drive.world_from_vehicle[photo.frame])[:3, 3])
        assert moved > 0.1, "its own pose, not the frame's"


def test_velocities_are_those_of_the_vehicle(log):
    """Though poses come a few milliseconds apart, and some twice."""
    drive = read_argoverse(log)
    turn = drive.source_from_world[:3, :3]
    for photo in drive.photos:
        before, after = vehicle(photo.time - 1e-4), vehicle(photo.time + 1e-4)
        assert np.allclose(turn @ photo.linear_velocity, (after - before)[:3, 3] / 2e-4, atol=0.03)
        spin = (after[:3, :3] - before[:3, :3]) / 2e-4 @ vehicle(photo.time)[:3, :3].T
        assert np.allclose(turn @ photo.angular_velocity, [spin[2, 1], spin[0, 2], spin[1, 0]], atol=3e-3)


def test_points_and_boxes_land_where_they_were_put(log):
    drive = read_argoverse(log)
    for frame in range(len(drive)):
        points = drive.source.points(frame)
        away = np.abs(seen(drive.source_from_world, points.xyz.astype(np.float64)) - POSTS).max()
        assert away < (0.05 if frame % 2 else 1e-3), "half floats are coarse"
        assert points.lidar.tolist() == [0, 0, 0, 1, 1, 1] and points.intensity.tolist() == [0, 10, 20, 30, 40, 50]
        assert set(points.returns) == {1}
    assert drive.lidars == ["up_lidar", "down_lidar"]
    actors = {actor.name: actor for actor in drive.actors}
    assert {name: actor.kind for name, actor in actors.items()} == {CAR: "vehicle", WALKER: "pedestrian", SIGN: "sign"}
    for name, (where, frames, _) in BOXED.items():
        assert actors[name].present.nonzero()[:, 0].tolist() == list(frames) and np.allclose(actors[name].size, LWH[name])
        for frame in frames:
            found = drive.source_from_world @ actors[name].world_from_actor[frame].double().numpy()
            assert np.abs(found - where(0.1 * frame)).max() < 1e-3
    assert drive.notes == [f"1 of 3 tracks have one box only ({WALKER})."]


def test_a_part_of_it(log, copy):
    """Only what is asked for is looked at: the rest may be missing."""
    whole = read_argoverse(log, Selection(cameras=("ring_rear_left",)))
    for name in set(CAMERAS) - {"ring_rear_left"}:
        shutil.rmtree(copy / "sensors" / "cameras" / name)
    part = read_argoverse(copy, Selection(cameras=("ring_rear_left",), first=3, last=9, step=3))
    assert part.times.tolist() == whole.times[[3, 6]].tolist() and [photo.frame for photo in part.photos] == [0, 1]
    assert np.allclose(part.world_from_vehicle[0], np.eye(4))
    same = whole.photos[6]
    assert part.source.picture(part.photos[1]) == whole.source.picture(same)
    assert np.allclose(part.source_from_world @ part.photos[1].world_from_vehicle,
                       whole.source_from_world @ same.world_from_vehicle, atol=1e-6)
    assert np.allclose(seen(part.source_from_world, part.source.points(1).xyz), POSTS, atol=1e-3)
    assert [actor.name for actor in part.actors] == [CAR], "of the others no box is left"
    assert part.key != whole.key
    key = read_argoverse(copy, Selection(cameras=("ring_rear_left",))).key
    change(copy / "annotations.feather", length_m=lambda values: [value * 2 for value in values])
    assert read_argoverse(copy, Selection(cameras=("ring_rear_left",))).key != key


def test_without_annotations_nothing_moves(copy):
    (copy / "annotations.feather").unlink()
    drive = read_argoverse(copy)
    assert not drive.actors and "annotations.feather" in drive.notes[0]


def test_a_gap_in_time_is_told(copy):
    for index in (4, 5):
        (copy / "sensors" / "lidar" / f"{START + index * 100_000_000}.feather").unlink()
    drive = read_argoverse(copy)
    assert len(drive) == 8 and len(drive.photos) == 16, "the pictures of the sweeps that are lost belong to none"
    assert drive.notes[0] == "After frame 3 (0.30 s) the recording has a gap of 0.30 s."
    assert drive.actors[0].present.all() and len(drive.actors[0]) == 8
    assert not any("gap" in note for note in read_argoverse(copy, Selection(last=4)).notes)


def test_poses_in_between_are_interpolated(copy):
    """Where the table has none at the times of pictures; where it has none for long, that is said."""
    whole = read_argoverse(copy)
    table = copy / "city_SE3_egovehicle.feather"
    rows = feather.read_table(table, memory_map=False)
    stamps = rows["timestamp_ns"].to_numpy()
    at_pictures = {START + round(photo.time * 1e9) for photo in whole.photos}
    feather.write_feather(rows.filter(pa.array([stamp not in at_pictures for stamp in stamps.tolist()])), table)
    drive = read_argoverse(copy)
    for photo, same in zip(drive.photos, whole.photos):
        assert photo.time == same.time and np.allclose(photo.world_from_vehicle, same.world_from_vehicle, atol=1e-4)
    lost = (stamps > START + 200_000_000) & (stamps < START + 800_000_000)
    feather.write_feather(rows.filter(pa.array(~lost)), table)
    refused(copy, table, "at 0.30 s")
    assert len(read_argoverse(copy, Selection(last=2))) == 2
    feather.write_feather(rows.slice(200), table)
    refused(copy, table, "at 0.00 s")


@pytest.mark.parametrize("table, columns, parts", [
    ("city_SE3_egovehicle", {"qw": lambda values: [0.0] + values[1:], "qz": lambda values: [0.0] + values[1:]}, ("pose of",)),
    ("city_SE3_egovehicle", {"tx_m": lambda values: values[:3] + [float("nan")] + values[4:]}, ("tx_m in row 3", "finite")),
    ("city_SE3_egovehicle", {"timestamp_ns": lambda values: ["soon"] * len(values)}, ("cannot be read",)),
    ("city_SE3_egovehicle", {"tz_m": None}, ("tz_m", "cannot be read")),
    ("city_SE3_egovehicle", {"tz_m": lambda values: values[:-1] + [None]}, ("tz_m is empty in some rows",)),
    ("calibration/intrinsics", {"fx_px": lambda values: [0.0] * len(values)}, ("ring_front_center", "focal length")),
    ("calibration/intrinsics", {"sensor_name": lambda values: ["roof"] + values[1:]}, ("roof", "no pose")),
    ("calibration/egovehicle_SE3_sensor", {"qx": lambda values: [2.0] * len(values)}, ("ring_front_center in", "unit")),
    ("annotations", {"track_uuid": None}, ("track_uuid", "cannot be read")),
    ("annotations", {"width_m": lambda values: [-1.0] * len(values)}, (CAR, "size")),
    ("annotations", {"qw": lambda values: [0.0] * len(values), "qz": lambda values: [0.0] * len(values)}, (CAR, "pose")),
])
def test_damaged_tables_are_refused(copy, table, columns, parts):
    path = copy / f"{table}.feather"
    change(path, **columns)
    refused(copy, *parts)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_tables_that_end_early_are_refused(copy, share):
    for name in ("city_SE3_egovehicle", "annotations", "calibration/intrinsics"):
        path = copy / f"{name}.feather"
        content = path.read_bytes()
        path.write_bytes(content[:int(share * len(content))])
        refused(copy, path, "cannot be read", "fetch")
        path.write_bytes(content)


def test_any_damaged_byte_is_refused_or_harmless(log, copy):
    """Never another error than a sentence."""
    path = copy / "annotations.feather"
    content, told = path.read_bytes(), 0
    for place in np.random.default_rng(0).integers(0, len(content), 60):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1:])
        try:
            read_argoverse(copy)
        except UserError as error:
            one_sentence(SimpleNamespace(value=error), "annotation" if "track" not in str(error) else "track")
            told += 1
    assert told > 5


def test_what_is_missing_is_named(log, copy, tmp_path):
    refused(log.parent, "holds 1 logs", log)
    refused(copy, "roof", "ring_front_center, ring_front_left", selection=Selection(cameras=("roof",)))
    refused(copy, "No frame", "it has 10", selection=Selection(first=10))
    shutil.rmtree(copy / "sensors" / "cameras" / "ring_front_left")
    refused(copy, "ring_front_left", "TIME.jpg")
    for file in (copy / "sensors" / "lidar").iterdir():
        file.rename(file.with_name(f"sweep_{file.name}"))
    refused(copy, "sensors/lidar", "TIME.feather")
    (copy / "calibration" / "intrinsics.feather").unlink()
    refused(copy, "calibration/intrinsics.feather", "Argoverse 2")
    refused(tmp_path / "nothing", "nothing", "city_SE3_egovehicle.feather")


def test_damaged_files_are_told_when_they_are_needed(copy):
    drive = read_argoverse(copy)
    photo = drive.photos_of("ring_front_left")[1]
    file = drive.source.pictures["ring_front_left", 1]
    whole = drive.source.picture(photo)
    assert whole == file.read_bytes()
    file.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError) as caught:
        drive.source.picture(photo)
    one_sentence(caught, file, "ring_front_left at 0.11 s of 01bb304d-7bd8")
    Image.new("RGB", (56, 80)).save(file)
    with pytest.raises(UserError) as caught:
        drive.source.picture(photo)
    one_sentence(caught, "56x80", "80x56")
    sweep = drive.source.sweeps[2]
    sweep.write_bytes(sweep.read_bytes()[:400])
    with pytest.raises(UserError) as caught:
        drive.source.points(2)
    one_sentence(caught, sweep, "fetch")
    assert len(drive.source.points(1)) == len(POSTS)


def test_the_kit_says_the_same(log):
    """Where it is installed (`pip install --no-deps av2 universal-pathlib pathlib-abc "pandas<3.1"`, beside this package)."""
    kit = pytest.importorskip("av2.datasets.sensor.av2_sensor_dataloader", reason="the kit of Argoverse 2 is not installed")
    from av2.structures.cuboid import CuboidList
    from av2.structures.sweep import Sweep

    loader = kit.AV2SensorDataLoader(log.parent, log.parent)
    drive = read_argoverse(log, Selection(cameras=tuple(CAMERAS)))
    cuboids = CuboidList.from_feather(log / "annotations.feather").cuboids
    for frame in range(len(drive)):
        stamp = loader.get_ordered_log_lidar_timestamps(log.name)[frame]
        city_from_vehicle = loader.get_city_SE3_ego(log.name, stamp).transform_matrix
        assert np.allclose(drive.source_from_world @ drive.world_from_vehicle[frame], city_from_vehicle, atol=1e-6)
        sweep = Sweep.from_feather(loader.get_lidar_fpath(log.name, stamp))
        points = drive.source.points(frame)
        assert np.allclose(seen(drive.source_from_world, points.xyz), seen(city_from_vehicle, sweep.xyz), atol=1e-3)
        assert (points.intensity == sweep.intensity).all()
        theirs = sorted(seen(city_from_vehicle, cuboid.xyz_center_m[None])[0].tolist()
                        for cuboid in cuboids if cuboid.timestamp_ns == stamp)
        ours = sorted(seen(drive.source_from_world, actor.world_from_actor[frame, :3, 3].double().numpy()[None])[0].tolist()
                      for actor in drive.actors if actor.present[frame])
        assert np.allclose(theirs, ours, atol=1e-3)
    for photo in drive.photos:
        camera = loader.get_log_pinhole_camera(log.name, photo.camera)
        file = loader.get_closest_img_fpath(log.name, photo.camera, START + round(drive.times[photo.frame] * 1e9))
        assert file == drive.source.pictures[photo.camera, photo.frame]
        city_from_vehicle = loader.get_city_SE3_ego(log.name, int(file.stem)).transform_matrix
        uv, _, seen_by_kit = camera.project_ego_to_img(seen(inverse(city_from_vehicle), POSTS))
        ours, _, inside = project(drive, photo, seen(inverse(drive.source_from_world), POSTS))
        assert np.allclose(ours[inside] - 0.5, uv[inside], atol=1e-3) and (seen_by_kit <= inside).all()
