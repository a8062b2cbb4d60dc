"""A recording written in Waymo's layout is read back as it was, in whole and in part, as other writers have it too."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from chopgrad_ns.data.drives import parquet
from chopgrad_ns.data.drives import waymo_names as names
from chopgrad_ns.data.drives.drive import Drive, Selection, inverse, moved
from chopgrad_ns.data.drives.parquet import ParquetRows
from chopgrad_ns.data.drives.projection import project
from chopgrad_ns.data.drives.range_images import uniform_inclinations
from chopgrad_ns.data.drives.waymo_v2 import read_waymo_v2
from chopgrad_ns.sim.waymo_files import SCHEMAS, write_waymo_v2
from tests.data.test_range_images import plain
from tests.data.waymo_folders import ALL, SEGMENT, alter, cast, put, same
from tests.data.waymo_recording import cameras, lidars, recording, vehicle


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


def as_waymo_projects(calibration, image, point):
    """Pixel of a place in the segment's world, found line by line, from the numbers on disk and the steps that the data
    set's own camera model takes: it moves on with the linear velocity along the world's axes, and turns with the angular
    one along the vehicle's, small turns added up.
    """
    lens = {name: calibration[names.INTRINSIC + name] for name in names.LENS}
    pose, camera = (np.reshape(row, (4, 4)) for row in (image[names.IMAGE_POSE], calibration[names.CAMERA_EXTRINSIC]))
    linear, angular = (np.array([image[prefix + axis] for axis in "xyz"]) for prefix in (names.LINEAR, names.ANGULAR))
    exposure, trigger, read_out = (image[name] for name in (names.EXPOSURE, names.TRIGGER, names.READ_OUT))
    later = 0.0
    for _ in range(8):
        x, y, z = angular * later
        turn = pose[:3, :3] @ (np.eye(3) + np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
        in_vehicle = np.linalg.inv(turn) @ (point - pose[:3, 3] - linear * later)
        ahead, left, up = np.linalg.inv(camera[:3, :3]) @ (in_vehicle - camera[:3, 3])
        u, v = -left / ahead, -up / ahead
        r2 = u * u + v * v
        radial = 1 + lens["k1"] * r2 + lens["k2"] * r2**2 + lens["k3"] * r2**3
        u, v = (u * radial + 2 * lens["p1"] * u * v + lens["p2"] * (r2 + 2 * u * u),
                v * radial + lens["p1"] * (r2 + 2 * v * v) + 2 * lens["p2"] * u * v)
        u, v = lens["f_u"] * u + lens["c_u"], lens["f_v"] * v + lens["c_v"]
        share = {names.DIRECTIONS["top"]: v / calibration[names.HEIGHT], names.DIRECTIONS["left"]: u / calibration[names.WIDTH]}
        line = trigger + exposure / 2 + share[calibration[names.DIRECTION]] * (read_out - trigger - exposure)
        later = line - image[names.IMAGE_TIME]
    return u, v


def test_photos_project_as_waymos(written, drive):
    """To 1e-3 of the 48 pixels of a picture; were the angular velocity along the world's axes, it would be 0.05."""
    rows = pq.read_table(written / "camera_image" / SEGMENT).to_pylist()
    calibrations = {row[names.CAMERA]: row for row in pq.read_table(written / "camera_calibration" / SEGMENT).to_pylist()}
    rng, checked, straying = np.random.default_rng(4), 0, 0.0
    for photo in drive.photos_of("FRONT") + drive.photos_of("FRONT_LEFT"):
        code = names.CAMERAS[photo.camera]
        row = next(row for row in rows if row[names.CAMERA] == code and abs(
            row[names.IMAGE_TIME] - drive.source.frames.start - photo.time) < 1e-6)
        local = np.column_stack([rng.uniform(-3, 3, 20), rng.uniform(-2, 2, 20), rng.uniform(5, 30, 20), np.ones(20)])
        points = (photo.world_from_vehicle @ drive.cameras[photo.camera].vehicle_from_camera @ local.T).T
        uv, _, inside = project(drive, photo, points[:, :3])
        other = replace(photo, angular_velocity=WORLD_FROM_SOURCE[:3, :3] @ [row[names.ANGULAR + axis] for axis in "xyz"])
        straying = max(straying, np.abs(project(drive, other, points[:, :3])[0] - uv)[inside].max())
        for index in inside.nonzero()[0]:
            expected = as_waymo_projects(calibrations[code], row, (drive.source_from_world @ points[index])[:3])
            assert np.abs(uv[index] - expected).max() < 1e-3
            checked += 1
    assert checked > 50 and straying > 0.05


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


def test_only_what_is_needed_is_read(written, monkeypatch):
    """Opening reads no picture and no range; then a row group each, once."""
    groups, wanted, one, whole = [], [], pq.ParquetFile.read_row_group, pq.ParquetFile.read
    monkeypatch.setattr(pq.ParquetFile, "read_row_group",
                        lambda self, index, columns: groups.append((index, tuple(columns))) or one(self, index, columns))
    monkeypatch.setattr(pq.ParquetFile, "read", lambda self, columns: wanted.extend(columns) or whole(self, columns))
    part = read_waymo_v2(written, Selection(first=3))
    assert not groups and names.IMAGE_POSE in wanted and names.IMAGE not in wanted
    assert not any(name.endswith("values") and "range_image" in name for name in wanted)
    for photo in part.photos_of("FRONT_LEFT"):
        part.source.picture(photo)
        part.source.picture(photo)
    assert groups == [(3, (names.IMAGE,)), (4, (names.IMAGE,))]


def test_little_is_kept(written, drive, monkeypatch):
    """Row groups are read again where they have made place for others."""
    monkeypatch.setattr(parquet, "KEPT", 1)
    read = read_waymo_v2(written, ALL)
    same(read, drive)
    assert [len(file._kept) for file in read.source.files.values() if file._kept] == [1, 1, 1]


def test_rows_in_another_order(folder, drive):
    rng = np.random.default_rng(2)
    for component in SCHEMAS:
        alter(folder, component, lambda table: table.take(rng.permutation(table.num_rows)))
    same(read_waymo_v2(folder, ALL), drive)


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
