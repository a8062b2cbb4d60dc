"""A recording written in Waymo's layout is read back as it was; what is damaged or missing is refused in a sentence."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from chopgrad_ns.data.drives import waymo_names as names
from chopgrad_ns.data.drives.drive import Drive, Photo, Selection, inverse, moved
from chopgrad_ns.data.drives.parquet import ParquetRows
from chopgrad_ns.data.drives.projection import project
from chopgrad_ns.data.drives.range_images import uniform_inclinations
from chopgrad_ns.data.drives.waymo_v2 import read_waymo_v2
from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.waymo_files import SCHEMAS, write_waymo_v2
from tests.data.test_range_images import plain
from tests.data.waymo_recording import SIZE, cameras, lidars, recording, vehicle

SEGMENT = "street_000.parquet"
ALL = Selection(cameras=tuple(SIZE))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v2")
    write_waymo_v2(folder, recording())
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """To be damaged."""
    return shutil.copytree(written, tmp_path / "v2")


@pytest.fixture(scope="module")
def drive(written) -> Drive:
    return read_waymo_v2(written, ALL)


FRAMES = list(recording().frames)
WORLD_FROM_SOURCE = inverse(vehicle(0))


def alter(folder, component, change):
    """Rewrite a component with its table changed."""
    path = folder / component / SEGMENT
    pq.write_table(change(pq.read_table(path)), path)


def put(column, row, value):
    """A change of one value, or of all."""
    def change(table):
        values = table.column(column).to_pylist()
        values = [value] * len(values) if row is None else [*values[:row], value, *values[row + 1:]]
        at = table.column_names.index(column)
        return table.set_column(at, column, pa.array(values, table.schema.field(column).type))
    return change


def cast(column, kind):
    return lambda table: table.set_column(table.column_names.index(column), column,
                                          pa.array(table.column(column).to_pylist(), kind))


def refusal(folder, *words, selection=ALL, **options):
    with pytest.raises(UserError) as caught:
        drive = read_waymo_v2(folder, selection, **options)
        for photo in drive.photos:
            drive.source.picture(photo)
        for frame in range(len(drive)):
            drive.source.points(frame)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and message.count(". ") == 0, message
    for word in words:
        assert word in message, message


# What is read back.

def test_frames(drive):
    assert drive.name == "street_000" and drive.times == pytest.approx([0.1 * frame for frame in range(5)], abs=1e-6)
    for frame, pose in enumerate(drive.world_from_vehicle):
        assert np.abs(pose - WORLD_FROM_SOURCE @ FRAMES[frame].world_from_vehicle).max() < 1e-9
    assert np.abs(drive.source_from_world - vehicle(0)).max() < 1e-12
    assert np.abs(drive.world_from_vehicle[0] - np.eye(4)).max() < 1e-9
    assert drive.notes == ["1 of 3 tracks have one box only (once)."]


def test_cameras(drive):
    for camera in cameras():
        read = drive.cameras[camera.name]
        assert (read.width, read.height, read.first_line) == (camera.width, camera.height, camera.first_line)
        for name in ("K", "distortion", "vehicle_from_camera"):
            assert np.abs(getattr(read, name) - getattr(camera, name)).max() < 1e-12


def test_photos_project_alike(drive):
    """With lens distortion and rolling shutter, to 1e-4 pixels; and a photo read without either is pixels away."""
    rng, worst, ignoring = np.random.default_rng(1), 0.0, []
    direct = Drive("direct", drive.times, drive.world_from_vehicle, drive.source_from_world,
                   {camera.name: camera for camera in cameras()}, [], [], [], None, "")
    for read in drive.photos:
        frame = FRAMES[read.frame]
        kept = next(photo for photo in frame.photos if photo.camera == read.camera)
        kept = moved(kept, WORLD_FROM_SOURCE)
        assert read.time == pytest.approx(kept.time, abs=1e-6) and read.middle == pytest.approx(kept.middle, abs=1e-6)
        local = np.column_stack([rng.uniform(-3, 3, 300), rng.uniform(-2, 2, 300), rng.uniform(4, 30, 300)])
        pose = kept.world_from_vehicle @ direct.cameras[kept.camera].vehicle_from_camera
        points = local @ pose[:3, :3].T + pose[:3, 3]
        (uv, depth, inside), (expected, far, seen) = project(drive, read, points), project(direct, kept, points)
        assert (inside == seen).all() and inside.sum() > 100
        worst = max(worst, np.abs(uv - expected)[inside].max(), np.abs(depth - far)[inside].max())
        ignoring.append(np.abs(project(drive, replace(read, shutter=None), points)[0] - expected)[inside].max())
    assert worst < 1e-4, worst
    rolling = [drive.cameras[photo.camera].first_line is not None for photo in drive.photos]
    assert all((pixels > 0.3) == rolls for pixels, rolls in zip(ignoring, rolling, strict=True)), ignoring


def test_pictures_are_as_recorded(drive):
    for photo in drive.photos:
        number = [taken.camera for taken in FRAMES[photo.frame].photos].index(photo.camera)
        assert drive.source.picture(photo) == FRAMES[photo.frame].pictures[number]


def test_points(drive):
    """Both returns of both lidars, the one with poses of pixels and the one with uniform beams, to 1e-3 m."""
    assert drive.lidars == ["TOP", "FRONT"]
    for frame in range(5):
        points, world = drive.source.points(frame), drive.world_from_vehicle[frame]
        for index, (lidar, sweep) in enumerate(zip(lidars(), FRAMES[frame].sweeps, strict=True)):
            for number, image in enumerate(sweep.returns, 1):
                pose = FRAMES[frame].world_from_vehicle
                expected = plain(image, lidar.inclinations[::-1], lidar.vehicle_from_lidar, pose, sweep.pixel_poses)
                expected = expected @ world[:3, :3].T + world[:3, 3]
                these = (points.lidar == index) & (points.returns == number)
                assert these.sum() == len(expected) > 20
                assert np.abs(points.xyz[these] - expected).max() < 1e-4
                assert (points.intensity[these] == image[..., 1][image[..., 0] > 0]).all()
    assert points.xyz.dtype == points.intensity.dtype == np.float32


def test_written_span_gives_the_beams_again(written):
    columns = ParquetRows(written / "lidar_calibration" / SEGMENT).columns(
        [names.INCLINATION + part for part in ("min", "max", "values")])
    span, values = columns.vectors(names.INCLINATION, ("min", "max")), columns.arrays(names.INCLINATION + "values")
    assert values[1] is None and len(values[0]) == 16
    assert uniform_inclinations(*span[1], 10) == pytest.approx(lidars()[1].inclinations)


def test_boxes(drive):
    assert [(actor.name, actor.kind) for actor in drive.actors] == [
        ("ahead", "vehicle"), ("turning", "cyclist"), ("once", "pedestrian")]
    for actor in drive.actors:
        for frame in range(5):
            box = next((box for box in FRAMES[frame].boxes if box.name == actor.name), None)
            assert bool(actor.present[frame]) == (box is not None)
            if box is not None:
                difference = actor.world_from_actor[frame].double().numpy() - WORLD_FROM_SOURCE @ box.pose
                assert np.abs(difference).max() < 1e-4 and np.abs(actor.size.numpy() - box.size).max() < 1e-6


# Parts of it.

def test_usual_cameras_are_those_in_front(written):
    assert list(read_waymo_v2(written).cameras) == ["FRONT", "FRONT_LEFT"]


def test_part(written, drive):
    part = read_waymo_v2(written, Selection(cameras=("SIDE_LEFT", "FRONT"), first=1, last=5, step=2))
    assert list(part.cameras) == ["SIDE_LEFT", "FRONT"]
    assert [(photo.camera, photo.frame) for photo in part.photos] == [
        ("SIDE_LEFT", 0), ("SIDE_LEFT", 1), ("FRONT", 0), ("FRONT", 1)]
    assert part.times == pytest.approx([0.1, 0.3], abs=1e-6)
    assert np.abs(part.source_from_world - vehicle(0.1)).max() < 1e-12
    assert part.source.picture(part.photos[3]) == FRAMES[3].pictures[0]
    assert part.photos[3].name == "FRONT of frame 3 of segment street_000"
    whole, points = drive.source.points(3).xyz, part.source.points(1).xyz
    back = part.source_from_world @ np.concatenate([points, np.ones((len(points), 1))], axis=1).T
    assert np.abs((inverse(drive.source_from_world) @ back).T[:, :3] - whole).max() < 1e-4
    assert [actor.name for actor in part.actors] == ["ahead", "turning"]
    assert part.key != drive.key and part.notes == []


def test_only_what_is_needed_is_read(written, drive, tmp_path, monkeypatch):
    """Opening reads no picture and no range; then a row group each, once."""
    groups, kept = [], pq.ParquetFile.read_row_group

    def counted(self, index, columns=None, **options):
        groups.append((index, tuple(columns)))
        return kept(self, index, columns=columns, **options)

    columns, whole = [], pq.ParquetFile.read
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda self, columns=None: columns_of(columns, whole(self, columns=columns)))

    def columns_of(wanted, table):
        columns.extend(wanted)
        return table

    part = read_waymo_v2(written, Selection(first=3))
    assert not groups and names.IMAGE in SCHEMAS["camera_image"] and names.IMAGE not in columns
    assert not any(name.endswith(".values") and "range_image" in name for name in columns)
    for photo in part.photos_of("FRONT_LEFT"):
        part.source.picture(photo)
        part.source.picture(photo)
    assert groups == [(3, (names.IMAGE,)), (4, (names.IMAGE,))]


def test_rows_in_another_order(folder, drive):
    rng = np.random.default_rng(2)
    for component in SCHEMAS:
        alter(folder, component, lambda table: table.take(rng.permutation(table.num_rows)))
    same(read_waymo_v2(folder, ALL), drive)


def same(read, kept, tolerance=0.0):
    """Two readings of one recording."""
    assert read.lidars == kept.lidars and list(read.cameras) == list(kept.cameras) and read.notes == kept.notes
    assert np.abs(read.times - kept.times).max() <= tolerance
    assert np.abs(read.world_from_vehicle - kept.world_from_vehicle).max() <= tolerance
    assert len(read.photos) == len(kept.photos) and len(read.actors) == len(kept.actors)
    for one, other in zip(read.photos, kept.photos, strict=True):
        assert (one.camera, one.frame) == (other.camera, other.frame) and one.shutter == other.shutter
        assert one.time == other.time and np.abs(one.world_from_vehicle - other.world_from_vehicle).max() <= tolerance
        assert np.abs(one.linear_velocity - other.linear_velocity).max() <= tolerance
        assert np.abs(one.angular_velocity - other.angular_velocity).max() <= tolerance
        assert read.source.picture(one) == kept.source.picture(other)
    for one, other in zip(read.actors, kept.actors, strict=True):
        assert (one.name, one.kind) == (other.name, other.kind) and torch.equal(one.present, other.present)
        assert (one.world_from_actor - other.world_from_actor).abs().max() <= tolerance
        assert (one.size - other.size).abs().max() <= tolerance
    for frame in range(len(read)):
        one, other = read.source.points(frame), kept.source.points(frame)
        assert len(one) == len(other) and np.abs(one.xyz - other.xyz).max() <= tolerance
        assert all((getattr(one, name) == getattr(other, name)).all() for name in ("intensity", "returns", "lidar"))


def test_names_as_words_and_poses_as_singles(folder, drive):
    words = {number: name for name, number in names.CAMERAS.items()}
    for component in ("camera_image", "camera_calibration"):
        alter(folder, component, lambda table: table.set_column(
            table.column_names.index(names.CAMERA), names.CAMERA,
            pa.array([words[number] for number in table.column(names.CAMERA).to_pylist()]).dictionary_encode()))
    alter(folder, "camera_image", cast(names.IMAGE_POSE, pa.list_(pa.float32())))
    alter(folder, "vehicle_pose", cast(names.VEHICLE_POSE, pa.list_(pa.float32())))
    read = read_waymo_v2(folder, ALL)
    assert [(photo.camera, photo.frame) for photo in read.photos] == [(photo.camera, photo.frame) for photo in drive.photos]
    # Single precision, three kilometres from the origin.
    assert np.abs(read.world_from_vehicle - drive.world_from_vehicle).max() < 3e-3
    assert max(np.abs(one.world_from_vehicle - other.world_from_vehicle).max()
               for one, other in zip(read.photos, drive.photos, strict=True)) < 3e-3


def test_one_row_group(folder, drive):
    """As other writers do: all rows in one row group, compressed otherwise, with dictionaries."""
    for component in SCHEMAS:
        path = folder / component / SEGMENT
        pq.write_table(pq.read_table(path), path, compression="zstd")
    same(read_waymo_v2(folder, ALL), drive)


def test_unknown_velocity_and_no_shutter(folder):
    alter(folder, "camera_image", put(names.LINEAR + "x", None, None))
    for column in (names.TRIGGER, names.READ_OUT):
        alter(folder, "camera_image", put(column, None, 0.0))
    for photo in read_waymo_v2(folder).photos:
        assert photo.linear_velocity is None and photo.angular_velocity is not None and photo.shutter is None
        assert photo.middle == photo.time


def test_global_shutter(folder, drive):
    alter(folder, "camera_calibration", put(names.DIRECTION, None, names.GLOBAL_SHUTTER))
    read = read_waymo_v2(folder)
    assert all(camera.first_line is None for camera in read.cameras.values())
    assert all(photo.shutter.first == photo.shutter.last == photo.middle for photo in read.photos)
    assert read.photos[0].middle == pytest.approx(drive.photos[0].shutter.first)


@pytest.mark.parametrize("number, side", [(1, "top"), (2, "left"), (3, "bottom"), (4, "right"), (0, None)])
def test_shutter_directions(folder, number, side):
    alter(folder, "camera_calibration", put(names.DIRECTION, None, number))
    assert read_waymo_v2(folder).cameras["FRONT"].first_line == side


def test_without_what_may_be_missing(folder, drive):
    (folder / "lidar_pose" / SEGMENT).unlink()
    (folder / "lidar_box" / SEGMENT).unlink()
    read = read_waymo_v2(folder)
    assert read.actors == [] and len(read.notes) == 2
    assert "lidar_pose is missing" in read.notes[0] and "lidar_box is missing" in read.notes[1]
    away = np.abs(read.source.points(1).xyz - drive.source.points(1).xyz).max()
    assert 0.3 < away < 3
    (folder / "lidar" / SEGMENT).unlink()
    read = read_waymo_v2(folder)
    assert read.lidars == [] and len(read.source.points(0)) == 0 and "lidar is missing" in read.notes[0]


def test_truth_beside(folder, drive):
    assert drive.truth is None
    (folder / "truth").mkdir()
    assert read_waymo_v2(folder).truth == folder / "truth"


def test_gap(folder):
    lost = pq.read_table(folder / "vehicle_pose" / SEGMENT).column(names.TIME)[3]
    for component in ("vehicle_pose", "camera_image", "lidar", "lidar_pose", "lidar_box"):
        alter(folder, component, lambda table: table.filter(pc.not_equal(table.column(names.TIME), lost)))
    read = read_waymo_v2(folder, ALL)
    assert len(read) == 4 and read.times[3] == pytest.approx(0.4, abs=1e-6)
    assert any("After frame 2" in note and "gap of 0.20 s" in note for note in read.notes)


def test_missing_pictures_and_ranges(folder):
    alter(folder, "camera_image", lambda table: table.take([*range(3), *range(4, 15)]))
    alter(folder, "lidar", lambda table: table.slice(2))
    read = read_waymo_v2(folder, ALL)
    assert "Camera FRONT has no picture in 1 of 5 frames (frame 1 is the first)." in read.notes
    assert "1 of 5 frames have no lidar points (frame 0 is the first)." in read.notes
    assert len(read.source.points(0)) == 0 and len(read.source.points(1)) > 0 and len(read.photos_of("FRONT")) == 4


def test_unknown_kind_is_other(folder):
    alter(folder, "lidar_box", put(names.BOX_KIND, None, 0))
    assert {actor.kind for actor in read_waymo_v2(folder).actors} == {"other"}


def test_key(folder, drive):
    assert read_waymo_v2(folder).key == read_waymo_v2(folder).key
    before = read_waymo_v2(folder).key
    alter(folder, "lidar_box", put(names.BOX_KIND, None, 0))
    assert read_waymo_v2(folder).key != before


# What is wrong.

def test_several_segments(folder):
    for component in SCHEMAS:
        shutil.copy(folder / component / SEGMENT, folder / component / "other.parquet")
    refusal(folder, "2 segments", "choose one", "other, street_000")
    refusal(folder, "no segment nowhere", "other, street_000", segment="nowhere")
    assert read_waymo_v2(folder, segment="other").name == "other"


def test_no_components(tmp_path):
    refusal(tmp_path, "no vehicle_pose/*.parquet", "camera_image")


@pytest.mark.parametrize("component", ["camera_image", "camera_calibration"])
def test_missing_component(folder, component):
    (folder / component / SEGMENT).unlink()
    refusal(folder, f"component {component} of segment street_000 is missing", str(folder / component / SEGMENT))


def test_unknown_camera(folder):
    refusal(folder, "no camera REAR", "FRONT, FRONT_LEFT, SIDE_LEFT", selection=Selection(cameras=("REAR",)))
    refusal(folder, "it has 5", selection=Selection(first=5))


@pytest.mark.parametrize("component", list(SCHEMAS))
def test_cut_off(folder, component):
    path = folder / component / SEGMENT
    path.write_bytes(path.read_bytes()[:-100])
    refusal(folder, str(path), "cannot be read as parquet")


@pytest.mark.parametrize("component", list(SCHEMAS))
def test_changed_bytes(folder, component):
    """Pages have checksums, which are checked."""
    path = folder / component / SEGMENT
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 2, len(content) // 2 + 40):
        content[at] ^= 0xFF
    path.write_bytes(bytes(content))
    refusal(folder, str(path), "cannot be read as parquet")


def test_no_parquet(folder):
    (folder / "lidar" / SEGMENT).write_bytes(b"PAR1 no PAR1")
    refusal(folder, "lidar", "cannot be read as parquet")


@pytest.mark.parametrize("component, column", [
    ("vehicle_pose", names.VEHICLE_POSE), ("camera_image", names.TRIGGER), ("camera_image", names.IMAGE),
    ("lidar", names.RETURNS[0] + "shape"), ("lidar_calibration", names.INCLINATION + "min"), ("lidar_box", names.BOX_HEADING),
    ("camera_calibration", names.INTRINSIC + "k1")])
def test_missing_column(folder, component, column):
    alter(folder, component, lambda table: table.drop_columns([column]))
    refusal(folder, f"{component}/{SEGMENT} has no column {column}")


@pytest.mark.parametrize("component, column, kind", [
    ("vehicle_pose", names.VEHICLE_POSE, pa.string()), ("vehicle_pose", names.TIME, pa.string()),
    ("camera_image", names.IMAGE_TIME, pa.string()), ("camera_image", names.IMAGE, pa.int32()),
    ("lidar", names.RETURNS[0] + "values", pa.float64()), ("lidar_box", names.TRACK, pa.int64())])
def test_wrong_type(folder, component, column, kind):
    alter(folder, component, lambda table: table.set_column(
        table.column_names.index(column), column,
        pa.array(["x" if kind == pa.string() else 1] * table.num_rows, kind)))
    refusal(folder, f"{column} of {folder / component / SEGMENT}", str(kind))


def broken_pose(change):
    pose = vehicle(0.2)
    change(pose)
    return pose.ravel().tolist()


@pytest.mark.parametrize("pose", [
    broken_pose(lambda pose: pose.__setitem__((0, 3), np.nan)), broken_pose(lambda pose: pose.__setitem__((0, 0), 2)),
    broken_pose(lambda pose: pose.__imul__(-1)), broken_pose(lambda pose: pose.__setitem__((3, 0), 1))],
    ids=["nan", "stretched", "mirrored", "projective"])
def test_poses_that_are_none(folder, pose):
    alter(folder, "vehicle_pose", put(names.VEHICLE_POSE, 2, pose))
    refusal(folder, "frame 2", f"row 2 of {folder / 'vehicle_pose' / SEGMENT}", "rigid")
    assert len(read_waymo_v2(folder, Selection(last=2))) == 2
    alter(folder, "camera_image", put(names.IMAGE_POSE, 4, pose))
    refusal(folder, "FRONT_LEFT of frame 1", "rigid", selection=Selection(last=2))


def test_missing_values(folder):
    alter(folder, "vehicle_pose", lambda table: put(names.VEHICLE_POSE, 1, None)(
        cast(names.VEHICLE_POSE, pa.list_(pa.float64()))(table)))
    refusal(folder, f"Row 1 of {folder / 'vehicle_pose' / SEGMENT} has no {names.VEHICLE_POSE}")


def test_short_pose(folder):
    alter(folder, "vehicle_pose", lambda table: put(names.VEHICLE_POSE, 1, [1.0] * 12)(
        cast(names.VEHICLE_POSE, pa.list_(pa.float64()))(table)))
    refusal(folder, f"Row 1 of {folder / 'vehicle_pose' / SEGMENT}", "16 numbers")


@pytest.mark.parametrize("component, said", [
    ("vehicle_pose", "two frames"), ("camera_image", "both of camera"), ("camera_calibration", "both of camera"),
    ("lidar", "both of lidar"), ("lidar_pose", "both of lidar"), ("lidar_calibration", "both of lidar"),
    ("lidar_box", "both of track")])
def test_rows_twice(folder, component, said):
    alter(folder, component, lambda table: pa.concat_tables([table, table.slice(1, 1)]))
    refusal(folder, said, str(folder / component / SEGMENT))


@pytest.mark.parametrize("content, said", [
    (b"", "0 bytes"), (None, "0 bytes"), (b"no picture", "cannot be read"), ("half", "cannot be read"), ("small", "48x24")])
def test_damaged_pictures(folder, content, said):
    pictures = FRAMES[2].pictures
    content = {"half": pictures[0][:len(pictures[0]) // 2], "small": pictures[2]}.get(content, content)
    alter(folder, "camera_image", put(names.IMAGE, 6, content))
    refusal(folder, "picture FRONT of frame 2 of segment street_000", said)


@pytest.mark.parametrize("column, value", [
    (names.TRIGGER, 5.0), (names.READ_OUT, np.nan), (names.EXPOSURE, -1.0), (names.IMAGE_TIME, 0.0)])
def test_wrong_times(folder, column, value):
    alter(folder, "camera_image", put(column, 3, value))
    refusal(folder, "FRONT of frame 1 of segment street_000")


@pytest.mark.parametrize("column, value", [
    (names.BOX_CENTER + "x", np.nan), (names.BOX_HEADING, None), (names.BOX_SIZE + "y", 0.0), (names.BOX_SIZE + "z", -1.0)])
def test_wrong_boxes(folder, column, value):
    alter(folder, "lidar_box", put(column, 3, value))
    refusal(folder, "track turning", f"row 3 of {folder / 'lidar_box' / SEGMENT}")


@pytest.mark.parametrize("component, prefix, shape", [
    ("lidar", names.RETURNS[1], [16, 60, 3]), ("lidar", names.RETURNS[0], [2**15, 2**15, 4]),
    ("lidar", names.RETURNS[0], [-16, -60, 4]), ("lidar_pose", names.PIXEL_POSES, [60, 16, 6])])
def test_wrong_shapes(folder, component, prefix, shape):
    alter(folder, component, put(prefix + "shape", 0, shape))
    refusal(folder, "Lidar TOP of frame 0", "get the")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_ranges_that_are_none(folder, value):
    alter(folder, "lidar", put(names.RETURNS[0] + "values", 2, [value] * (16 * 60 * 4)))
    refusal(folder, "Lidar TOP of frame 1", "not finite or beyond 10000 m")


@pytest.mark.parametrize("value", [np.nan, 1e30, 0.0])
def test_pixel_poses_that_are_none(folder, value):
    alter(folder, "lidar_pose", put(names.PIXEL_POSES + "values", 1, [value] * (16 * 60 * 6)))
    refusal(folder, "Lidar TOP of frame 1", "more than 100 m from the frame's")


def test_wrong_number_of_beams(folder):
    alter(folder, "lidar_calibration", put(names.INCLINATION + "values", 0, [0.1, 0.2]))
    refusal(folder, "2 beam inclinations", "frame 0")


def test_unknown_names(folder):
    alter(folder, "lidar", put(names.LIDAR, 1, 9))
    refusal(folder, f"Row 1 of {folder / 'lidar' / SEGMENT} has 9 for {names.LIDAR}", "TOP, FRONT")


def test_lidar_without_calibration(folder):
    alter(folder, "lidar_calibration", lambda table: table.slice(1))
    refusal(folder, "Lidar TOP", "lidar_calibration")


def test_pixel_poses_of_some_frames(folder):
    alter(folder, "lidar_pose", lambda table: table.take([0, 1, 3, 4]))
    refusal(folder, "Lidar TOP of frame 2 has no row", str(folder / "lidar_pose" / SEGMENT))


def test_no_picture_of_a_camera(folder):
    alter(folder, "camera_image", lambda table: table.take([0, 1, 2, 4, 5]))
    refusal(folder, "no picture of camera FRONT in the frames chosen", selection=Selection(cameras=("FRONT",), first=1))


@pytest.mark.parametrize("lens", ["f_u", "width"])
def test_wrong_calibration(folder, lens):
    column = {"f_u": names.INTRINSIC + "f_u", "width": names.WIDTH}[lens]
    alter(folder, "camera_calibration", put(column, 0, 0))
    refusal(folder, f"camera FRONT in {folder / 'camera_calibration' / SEGMENT}")


def test_columns_are_the_data_sets():
    """Names and types are those of the classes that the data set's own package has; they import with a name in TensorFlow's
    place that is used for annotations only.
    """
    pytest.importorskip("waymo_open_dataset", reason="waymo-open-dataset-tf-2-12-0 is not installed")
    script = """
import sys, types
sys.modules["tensorflow"] = types.SimpleNamespace(Tensor=object)
import importlib.util
from pathlib import Path
import waymo_open_dataset
package = types.ModuleType("waymo_open_dataset.v2")
package.__path__ = [str(Path(list(waymo_open_dataset.__path__)[0]) / "v2")]
sys.modules["waymo_open_dataset.v2"] = package
from waymo_open_dataset.v2.perception import box, camera_image, context, lidar, pose
from chopgrad_ns.sim.waymo_files import SCHEMAS
classes = {"vehicle_pose": pose.VehiclePoseComponent, "camera_calibration": context.CameraCalibrationComponent,
           "camera_image": camera_image.CameraImageComponent, "lidar_calibration": context.LiDARCalibrationComponent,
           "lidar": lidar.LiDARComponent, "lidar_pose": lidar.LiDARPoseComponent, "lidar_box": box.LiDARBoxComponent}
assert classes.keys() == SCHEMAS.keys()
for component, columns in SCHEMAS.items():
    schema = classes[component].schema()
    for name, kind in columns.items():
        assert schema.field(name).type == kind, (name, schema.field(name).type, kind)
    left = set(schema.names) - set(columns)
    assert not left or component == "lidar_box", left
print("columns agree")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "columns agree", done.stderr
