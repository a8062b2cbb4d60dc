"""KITTI odometry: places and pixels by hand, parts of a sequence, and what is refused."""

import numpy as np
import pytest

from chopgrad_ns.data.drives.drive import Selection
from chopgrad_ns.data.drives.kitti import read_kitti
from chopgrad_ns.data.drives.open import open_drive
from chopgrad_ns.data.drives.projection import project
from chopgrad_ns.errors import UserError
from tests.data.kitti_sequence import BASE, FRAMES, TR, K, camera0, scan, turned, write_sequence


@pytest.fixture
def dataset(tmp_path):
    return write_sequence(tmp_path)


def test_points_project_as_the_matrices_say(dataset):
    drive = read_kitti(dataset)
    tr = np.concatenate([turned(TR[:, :3]), TR[:, 3:]], axis=1)
    for photo in drive.photos:
        points = scan(photo.frame).astype(np.float64)[:, :3]
        uv, depth, inside = project(drive, photo, drive.source.points(photo.frame).xyz)
        assert inside.sum() > 100
        for point, found, z in zip(points[inside], uv[inside], depth[inside]):
            x = tr @ [*point, 1]
            u, v, w = K @ (x + [BASE[f"P{photo.camera[-1]}"], 0, 0])
            assert found == pytest.approx([u / w + 0.5, v / w + 0.5], abs=2e-3) and z == pytest.approx(w, abs=1e-4)


def test_the_world_is_the_first_vehicle_and_what_stands_still_stays(dataset):
    drive = read_kitti(dataset, Selection(first=1))
    assert drive.world_from_vehicle[0] == pytest.approx(np.eye(4), abs=1e-9)
    ahead = drive.world_from_vehicle[-1][:3, 3]
    assert ahead[0] > 3.5 and abs(ahead[1]) < 0.5 and abs(ahead[2]) < 0.2, "x is forward and z is up"
    camera = drive.photos_of("image_2")[2]
    world_from_camera0 = np.linalg.inv(camera0(1)) @ camera0(3)
    tr = np.eye(4)
    tr[:3] = np.concatenate([turned(TR[:, :3]), TR[:, 3:]], axis=1)
    assert camera.world_from_vehicle == pytest.approx(np.linalg.inv(tr) @ world_from_camera0 @ tr, abs=1e-6)
    assert drive.times.tolist() == pytest.approx([0.1036, 0.2072, 0.3108, 0.4144])
    assert camera.vehicle_at(np.array(camera.time + 0.0518)) == pytest.approx(
        (drive.world_from_vehicle[2] + drive.world_from_vehicle[3]) / 2, abs=0.01)


def test_cameras_are_beside_each_other(tmp_path):
    drive = read_kitti(write_sequence(tmp_path, cameras=("image_0", "image_2", "image_3")), Selection(("image_0", "image_3")))
    left, right = (drive.cameras[name].vehicle_from_camera for name in ("image_0", "image_3"))
    tr = turned(TR[:, :3])
    assert right[:3, 3] - left[:3, 3] == pytest.approx(tr.T @ [0.47, 0, 0], abs=1e-9)
    assert list(drive.cameras) == ["image_0", "image_3"] and len(drive.photos) == 2 * FRAMES and not drive.actors


def test_without_scans_the_axes_are_guessed(tmp_path):
    drive = read_kitti(write_sequence(tmp_path, scans=False))
    assert not drive.lidars and not len(drive.source.points(0)) and "no velodyne" in drive.notes[0]
    assert drive.cameras["image_2"].vehicle_from_camera[:3, 2] == pytest.approx([1, 0, 0])


def test_sequences_are_chosen_and_found(dataset):
    write_sequence(dataset, "07")
    with pytest.raises(UserError, match="2 sequences.*03, 07"):
        read_kitti(dataset)
    chosen = read_kitti(dataset, sequence="07")
    assert chosen.name == "07" and open_drive(dataset / "sequences" / "07").key == chosen.key
    assert chosen.key != read_kitti(dataset, sequence="03").key
    (dataset / "sequences/07/image_2/000001.png").write_bytes(b"other")
    assert read_kitti(dataset, sequence="07").key != chosen.key


def test_gaps_in_time_are_noted(dataset):
    (dataset / "sequences/03/times.txt").write_text("0\n.1\n.2\n.9\n1.0\n")
    assert "gap of 0.70 s" in read_kitti(dataset).notes[0]


def damaged(name, content):
    def change(root):
        file = root / name.replace("SEQ", "sequences/03")
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
    return change


@pytest.mark.parametrize("break_it, told", [
    (damaged("SEQ/calib.txt", b"P2: 1 2 x\n"), "calib.txt holds no numbers"),
    (damaged("SEQ/calib.txt", b"P0: 1 2 3\n"), "no proper matrix P2"),
    (damaged("SEQ/calib.txt", b"Tr: " + b"1 " * 12), "not a rigid motion"),
    (damaged("SEQ/times.txt", b"0\n1\n1\n2\n3\n"), "Frame 2 of .* is not later"),
    (damaged("SEQ/times.txt", b"0\n1\n"), "5 lines and .* 2"),
    (damaged("poses/03.txt", None), "list of poses .* cannot be read"),
    (damaged("poses/03.txt", b"1 2 3\n" * 5), "12 numbers"),
    (damaged("poses/03.txt", b"1 0 0 0 0 1 0 0 0 0 1 nan\n" * 5), "12 numbers"),
    (damaged("poses/03.txt", b"2 0 0 0 0 1 0 0 0 0 1 0\n" * 5), "Pose 0 of .* not a rigid"),
    (damaged("SEQ/image_3/000003.png", None), "000003.png is missing"),
    (damaged("SEQ/velodyne/000002.bin", None), "000002.bin is missing"),
    (damaged("SEQ/image_2/000000.png", b"nothing"), "000000.png cannot be read"),
])
def test_damage_is_told_in_a_sentence(dataset, break_it, told):
    break_it(dataset)
    with pytest.raises(UserError, match=told) as refused:
        read_kitti(dataset)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


def test_scans_that_end_within_a_point_are_refused(dataset):
    file = dataset / "sequences/03/velodyne/000001.bin"
    file.write_bytes(file.read_bytes()[:-3])
    drive = read_kitti(dataset)
    assert len(drive.source.points(0)) == 600
    with pytest.raises(UserError, match="ends within a point"):
        drive.source.points(1)


@pytest.mark.parametrize("selection, told", [(Selection(("image_9",)), "no camera image_9"), (Selection(first=9), "No frame")])
def test_what_is_not_there_is_told(dataset, selection, told):
    with pytest.raises(UserError, match=told):
        read_kitti(dataset, selection)


def test_folders_of_no_recording_are_told_what_there_could_be(tmp_path):
    with pytest.raises(UserError, match="layout of no recording.*waymo-v2.*dgp: scene_dataset_.*kitti-odometry"):
        open_drive(tmp_path)
    with pytest.raises(UserError, match="nothing at"):
        open_drive(tmp_path / "gone")
    with pytest.raises(UserError, match="no format kitty"):
        open_drive(tmp_path, "kitty")
    with pytest.raises(UserError, match="no KITTI odometry"):
        open_drive(tmp_path, "kitti-odometry")
