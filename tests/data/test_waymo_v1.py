"""Records written with the data set's own messages read back as v2 does; what is damaged is refused in a sentence."""

import random
import sys
import zlib

import numpy as np
import pytest

pytest.importorskip("waymo_open_dataset", reason="waymo-open-dataset-tf-2-12-0 is not installed")

from chopgrad_ns.data.drives import wire  # noqa: E402
from chopgrad_ns.data.drives.drive import Selection  # noqa: E402
from chopgrad_ns.data.drives.tfrecord import Records  # noqa: E402
from chopgrad_ns.data.drives.waymo_v1 import read_waymo_v1  # noqa: E402
from chopgrad_ns.data.drives.waymo_v2 import read_waymo_v2  # noqa: E402
from chopgrad_ns.errors import UserError  # noqa: E402
from chopgrad_ns.sim.waymo_files import write_waymo_v2  # noqa: E402
from tests.data.waymo_folders import ALL, same  # noqa: E402
from tests.data.waymo_recording import recording  # noqa: E402
from tests.data.waymo_records import messages, packed, write_records, write_waymo_v1  # noqa: E402

FRAMES = list(messages(recording()))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    write_waymo_v1(folder / "street.tfrecord", recording())
    write_waymo_v2(folder, recording())
    return folder


def written(tmp_path, change=None, frame=1):
    """The records, one frame of them changed."""
    kept = [type(message).FromString(message.SerializeToString()) for message in FRAMES]
    if change is not None:
        change(kept[frame])
    write_records(tmp_path / "a.tfrecord", [message.SerializeToString() for message in kept])
    return tmp_path / "a.tfrecord"


def refusal(path, *words, selection=ALL, **options):
    with pytest.raises(UserError) as caught:
        drive = read_waymo_v1(path, selection, **options)
        for photo in drive.photos:
            drive.source.picture(photo)
        for frame in range(len(drive)):
            drive.source.points(frame)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and message.count(". ") == 0, message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("selection", [
    ALL, Selection(), Selection(cameras=("SIDE_LEFT", "FRONT"), first=1, last=5, step=2)], ids=["all", "usual", "part"])
def test_the_same_as_v2(both, selection):
    one, other = read_waymo_v1(both / "street.tfrecord", selection), read_waymo_v2(both, selection)
    assert one.name == other.name and [photo.name for photo in one.photos] == [photo.name for photo in other.photos]
    assert one.key != other.key
    for name, camera in other.cameras.items():
        read = one.cameras[name]
        assert (read.width, read.height, read.first_line) == (camera.width, camera.height, camera.first_line)
        assert all(np.abs(getattr(read, part) - getattr(camera, part)).max() < 1e-12
                   for part in ("K", "distortion", "vehicle_from_camera"))
    same(one, other, 1e-12)


def test_records_in_another_order(both, tmp_path):
    write_records(tmp_path / "a.tfrecord", [FRAMES[index].SerializeToString() for index in (3, 0, 4, 1, 2)])
    same(read_waymo_v1(tmp_path / "a.tfrecord", ALL), read_waymo_v2(both, ALL), 1e-12)


def test_only_chosen_records_are_read(both, monkeypatch):
    read, kept = [], Records.read
    monkeypatch.setattr(Records, "read", lambda self, index: read.append(index) or kept(self, index))
    drive = read_waymo_v1(both / "street.tfrecord", Selection(first=3))
    assert read == [3, 4] and drive.times == pytest.approx([0.3, 0.4], abs=1e-6)
    drive.source.points(1)
    assert read == [3, 4, 4]


def test_time_far_from_the_beginning(tmp_path):
    """Behind a context that is larger than what is looked at first."""
    path = written(tmp_path, lambda frame: frame.context.stats.__setattr__("weather", "fog" * 50_000))
    assert len(read_waymo_v1(path, ALL)) == 5


def test_folder(both, tmp_path):
    assert read_waymo_v1(both).name == "street_000"
    write_waymo_v1(both / "other.tfrecord", recording(1))
    refusal(both, "2 segments", "choose one", "other, street")
    refusal(both, "2 segments", "none is nowhere", segment="nowhere")
    assert len(read_waymo_v1(both, segment="other")) == 1
    (both / "other.tfrecord").unlink()
    refusal(tmp_path, "no *.tfrecord")
    refusal(tmp_path / "none.tfrecord", "cannot be read")


def test_damaged_record(tmp_path):
    path = written(tmp_path)
    content = bytearray(path.read_bytes())
    begin, length = Records.of(path).places[2]
    content[begin + length // 2] ^= 1
    path.write_bytes(bytes(content))
    refusal(path, f"Record 2 of {path}", "checksum")
    assert len(read_waymo_v1(path, Selection(last=2))) == 2
    path.write_bytes(bytes(content[:-5]))
    refusal(path, f"Record 4 of {path}", "cut off")


@pytest.mark.parametrize("content", [b"", b"\x0a\x05abc", random.Random(3).randbytes(1000)], ids=["empty", "cut off", "noise"])
def test_records_of_something_else(tmp_path, content):
    write_records(tmp_path / "a.tfrecord", [FRAMES[0].SerializeToString(), content])
    refusal(tmp_path / "a.tfrecord", f"Record 1 of {tmp_path / 'a.tfrecord'} is not a frame")


def with_laser(values):
    def change(frame):
        frame.lasers[0].ri_return2.range_image_compressed = values
    return change


BOMB = zlib.compress(b"\x0a\x80\x80\x80\x60" + bytes(3 << 26))
RANGES = packed(np.full((16, 60, 4), 5, np.float32))
WRONG = {
    "cut off": (with_laser(RANGES[:-20]), "cut off"),
    "no zlib": (with_laser(b"ranges"), "cannot be unpacked"),
    "bomb": (with_laser(BOMB), "larger than range images are"),
    "no matrix": (with_laser(zlib.compress(b"\x0a\xff")), "cannot be unpacked"),
    "shape": (with_laser(packed(np.zeros((16, 60, 3), np.float32))), "numbers for the shape [16, 60, 3]"),
    "pixels": (with_laser(packed(np.ones((15, 60, 4), np.float32))), "(15, 60) and poses for (16, 60) pixels"),
    "nan": (with_laser(packed(np.full((16, 60, 4), np.nan, np.float32))), "not finite"),
    "lidar": (lambda frame: frame.lasers[1].__setattr__("name", 5), "Lidar REAR"),
    "lidar twice": (lambda frame: frame.lasers.add().CopyFrom(frame.lasers[0]), "Lidar TOP is twice in record 1"),
    "pose": (lambda frame: frame.pose.transform.__setitem__(3, np.nan), "frame 1 in record 1"),
    "short pose": (lambda frame: frame.pose.transform.pop(), "15 numbers"),
    "picture's pose": (lambda frame: frame.images[0].pose.transform.__setitem__(0, 2), "FRONT of frame 1"),
    "picture": (lambda frame: frame.images[0].__setattr__("image", b"none"), "picture FRONT of frame 1"),
    "picture twice": (lambda frame: frame.images.add().CopyFrom(frame.images[1]), "camera FRONT_LEFT is twice in frame 1"),
    "unnamed picture": (lambda frame: frame.images[0].__setattr__("name", 0), "camera number 0 in frame 1"),
    "box": (lambda frame: frame.laser_labels[0].box.__setattr__("length", 0), "track ahead in record 1"),
    "box twice": (lambda frame: frame.laser_labels.add().CopyFrom(frame.laser_labels[0]), "Track ahead has two boxes in"),
    "time": (lambda frame: frame.__setattr__("timestamp_micros", FRAMES[3].timestamp_micros), "two frames at"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_frames(tmp_path, name):
    change, said = WRONG[name]
    refusal(written(tmp_path, change), said)


def test_wrong_calibration(tmp_path):
    refusal(written(tmp_path, lambda frame: frame.context.laser_calibrations[0].beam_inclinations.pop(), 0),
            "Lidar TOP of frame 0", "16 rows", "15 beam inclinations")
    refusal(written(tmp_path, lambda frame: frame.context.camera_calibrations[0].intrinsic.pop(), 0),
            "camera FRONT", "8 numbers")


def test_no_second_return_and_no_picture(tmp_path):
    def change(frame):
        frame.lasers[0].ClearField("ri_return2")
        del frame.images[0]
    drive = read_waymo_v1(written(tmp_path, change), ALL)
    points = drive.source.points(1)
    assert ((points.returns == 2) & (points.lidar == 0)).sum() == 0 < ((points.returns == 2) & (points.lidar == 1)).sum()
    assert "Camera FRONT has no picture in 1 of 5 frames (frame 1 is the first)." in drive.notes


def test_package_missing(both, monkeypatch):
    monkeypatch.setitem(sys.modules, "waymo_open_dataset", None)  # As where it is not installed.
    refusal(both / "street.tfrecord", "pip install --no-deps waymo-open-dataset-tf-2-12-0")


# Messages as they are encoded.

def test_matrices():
    from waymo_open_dataset import dataset_pb2

    values = np.random.default_rng(0).normal(size=(300, 2, 6)).astype(np.float32)
    matrix = dataset_pb2.MatrixFloat(data=values.ravel().tolist())
    matrix.shape.dims.extend(values.shape)
    content = matrix.SerializeToString()
    data, shape = wire.matrix(content)
    assert (data == values.ravel()).all() and shape == [300, 2, 6]
    data, shape = wire.matrix(content + content)  # Messages one after the other are one message: lists go on.
    assert len(data) == 2 * values.size and shape == [300, 2, 6] * 2
    one_by_one = b"".join(b"\x0d" + value.tobytes() for value in values.ravel()[:5])
    assert (wire.matrix(one_by_one + b"\x12\x03\x0a\x01\x05")[0] == values.ravel()[:5]).all()
    assert wire.matrix(b"\x12\x04\x0a\x02\xac\x02")[1] == [300]  # Packed.


def test_some_fields_only():
    frame = FRAMES[1]
    kept = type(frame).FromString(wire.only(frame.SerializeToString(), {2, 4}))
    assert kept.timestamp_micros == frame.timestamp_micros and list(kept.images) == list(frame.images)
    assert not kept.HasField("context") and not kept.lasers


@pytest.mark.parametrize("content", [b"\x0a", b"\x0a\x05abc", b"\xff" * 11, b"\x0b", b"\x02\x00", b"\x09abc"])
def test_no_messages(content):
    with pytest.raises(ValueError):
        list(wire.fields(content))
