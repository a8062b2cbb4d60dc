"""What is damaged or missing in Waymo's components is refused in a sentence that says where."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from chopgrad_ns.data.drives import parquet
from chopgrad_ns.data.drives import waymo_names as names
from chopgrad_ns.data.drives.drive import Selection
from chopgrad_ns.data.drives.waymo_v2 import read_waymo_v2
from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.waymo_files import SCHEMAS, write_waymo_v2
from tests.data.waymo_folders import ALL, SEGMENT, alter, cast, put
from tests.data.waymo_recording import recording, vehicle


FRAMES = list(recording().frames)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v2")
    write_waymo_v2(folder, recording())
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """To be damaged."""
    return shutil.copytree(written, tmp_path / "v2")


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


def test_claim_beyond_reason(folder, monkeypatch):
    monkeypatch.setattr(parquet, "MOST_ROWS", 2)
    refusal(folder, str(folder / "camera_calibration" / SEGMENT), "more than 2 rows")


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
