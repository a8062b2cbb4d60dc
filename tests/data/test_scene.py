"""Every kind of bad scene is refused in one sentence; good ones, real ones too, are not."""

import json
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from chopgrad_ns.data.scene import check_scene, find_colmap_model, sparse_split
from chopgrad_ns.errors import UserError

SIZE = (20, 12)


def refused(scene, *parts):
    """The scene is refused, in one sentence that names all `parts`."""
    with pytest.raises(UserError) as caught:
        check_scene(scene)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message
    for part in parts:
        assert str(part) in message, message


def write_images(folder, count=3):
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", SIZE).save(folder / f"{index}.png")


@pytest.fixture
def scene(tmp_path):
    """A good nerfstudio scene, and a function that changes its description."""
    write_images(tmp_path / "images")
    meta = {"w": SIZE[0], "h": SIZE[1], "fl_x": 15.0, "fl_y": 15.0, "cx": 10.0, "cy": 6.0,
            "frames": [{"file_path": f"images/{i}.png", "transform_matrix": np.eye(4).tolist()}
                       for i in range(3)]}

    def change(edit=None):
        changed = json.loads(json.dumps(meta))
        if edit is not None:
            edit(changed)
        (tmp_path / "transforms.json").write_text(json.dumps(changed))
        return tmp_path

    change()
    return change


def test_good_scene(scene):
    assert check_scene(scene()) == "nerfstudio"


def test_intrinsics_may_be_given_per_frame(scene):
    def move(meta):
        for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
            value = meta.pop(key)
            for frame in meta["frames"]:
                frame[key] = value

    assert check_scene(scene(move)) == "nerfstudio"


def test_no_folder(tmp_path):
    refused(tmp_path / "nowhere", "no folder", "nowhere")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "not a folder")


def test_neither_format(tmp_path):
    refused(tmp_path, "neither transforms.json nor a COLMAP model")


def test_not_json(scene):
    folder = scene()
    (folder / "transforms.json").write_text("{")
    refused(folder, "transforms.json", "not readable JSON")


@pytest.mark.parametrize("content", [[], {"a": 1}, {"frames": 3}, {"frames": [1, 2]}])
def test_without_frames(scene, content):
    folder = scene()
    (folder / "transforms.json").write_text(json.dumps(content))
    refused(folder, "no list of frames")


def test_one_view(scene):
    refused(scene(lambda meta: meta.update(frames=meta["frames"][:1])), "1 frames", "at least 2")


def test_frame_without_a_file(scene):
    refused(scene(lambda meta: meta["frames"][1].pop("file_path")), "Frame 1", "no file_path")


def test_missing_images(scene):
    folder = scene()
    (folder / "images" / "1.png").unlink()
    (folder / "images" / "2.png").unlink()
    refused(folder, "2 of 3 images", "images/1.png")


def test_broken_image(scene):
    folder = scene()
    (folder / "images" / "1.png").write_text("not a picture")
    refused(folder, "images/1.png", "cannot be read")


def test_other_size(scene):
    refused(scene(lambda meta: meta.update(w=SIZE[0] * 2)), "images/0.png", "20×12", "40×12")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pose_not_finite(scene, value):
    def spoil(meta):
        meta["frames"][2]["transform_matrix"][0][3] = value

    refused(scene(spoil), "images/2.png", "not finite")


@pytest.mark.parametrize("factor", [2.0, -1.0])
def test_pose_not_rigid(scene, factor):
    def spoil(meta):
        meta["frames"][1]["transform_matrix"][0][0] = factor

    refused(scene(spoil), "images/1.png", "not a rigid motion")


@pytest.mark.parametrize("value", [None, "x", [[1, 0], [0, 1]], [[1], [1, 2]]])
def test_pose_not_a_matrix(scene, value):
    refused(scene(lambda meta: meta["frames"][0].update(transform_matrix=value)), "images/0.png",
            "not a 4×4 matrix")


@pytest.mark.parametrize("key", ["w", "h", "fl_x", "fl_y", "cx", "cy"])
def test_intrinsics_missing(scene, key):
    refused(scene(lambda meta: meta.pop(key)), f"no {key}")


@pytest.mark.parametrize("value", [0, -3, "wide", float("nan")])
def test_intrinsics_wrong(scene, value):
    refused(scene(lambda meta: meta.update(fl_x=value)), f"fl_x of frame 0 (images/0.png)", "positive")


def write_text_model(model, poses="1 0 0 0 0 0 1", params="15 15 10 6", size=SIZE, count=3):
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"1 PINHOLE {size[0]} {size[1]} {params}\n")
    (model / "images.txt").write_text("".join(f"{i + 1} {poses} 1 {i}.png\n\n" for i in range(count)))
    (model / "points3D.txt").write_text("1 0 0 1 255 0 0 0.1 1 0\n")


def write_binary_model(model, count=3):
    model.mkdir(parents=True)
    (model / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 1, 1, *SIZE, 15, 15, 10, 6))
    rows = [struct.pack("<i7di", i + 1, 1, 0, 0, 0, 0, 0, 1, 1) + f"{i}.png".encode() + b"\0"
            + struct.pack("<Q", 0)
            for i in range(count)]
    (model / "images.bin").write_bytes(struct.pack("<Q", count) + b"".join(rows))
    (model / "points3D.bin").write_bytes(struct.pack("<Q", 0))


@pytest.mark.parametrize("write", [write_text_model, write_binary_model])
@pytest.mark.parametrize("folder", ["colmap/sparse/0", "sparse/0"])
def test_good_colmap(tmp_path, write, folder):
    write_images(tmp_path / "images")
    write(tmp_path / folder)
    assert check_scene(tmp_path) == "colmap"
    assert find_colmap_model(tmp_path) == tmp_path / folder


@pytest.mark.parametrize("change, parts", [
    ({"count": 1}, ("1 images", "at least 2")),
    ({"count": 5}, ("2 of 5 images", "3.png")),
    ({"poses": "1 0 0 0 nan 0 1"}, ("0.png", "not finite")),
    ({"poses": "2 0 0 0 0 0 1"}, ("0.png", "unit quaternion")),
    ({"params": "0 15 10 6"}, ("intrinsics of camera 1",)),
    ({"size": (40, 12)}, ("0.png", "20×12", "40×12"))])
def test_bad_colmap(tmp_path, change, parts):
    write_images(tmp_path / "images")
    write_text_model(tmp_path / "sparse/0", **change)
    refused(tmp_path, *parts)


def test_colmap_without_points(tmp_path):
    write_images(tmp_path / "images")
    write_text_model(tmp_path / "sparse/0")
    (tmp_path / "sparse/0/points3D.txt").unlink()
    refused(tmp_path, "no points3D")


def test_colmap_damaged(tmp_path):
    write_images(tmp_path / "images")
    write_binary_model(tmp_path / "sparse/0")
    (tmp_path / "sparse/0/images.bin").write_bytes(b"\1\2\3")
    refused(tmp_path, "cannot be read")


def test_colmap_unknown_camera(tmp_path):
    write_images(tmp_path / "images")
    write_text_model(tmp_path / "sparse/0")
    (tmp_path / "sparse/0/cameras.txt").write_text("7 PINHOLE 20 12 15 15 10 6\n")
    refused(tmp_path, "camera 1")


def test_real_captures_pass(shared_data):
    assert check_scene(shared_data / "scenes" / "fox") == "nerfstudio"
    assert check_scene(shared_data / "lund_door") == "colmap"


def test_real_capture_with_an_image_removed(shared_data, tmp_path):
    shutil.copytree(shared_data / "scenes" / "fox", tmp_path / "fox", copy_function=shutil.copyfile)
    removed = sorted((tmp_path / "fox" / "images").iterdir())[3]
    (tmp_path / "fox" / "images").chmod(0o755)
    removed.unlink()
    refused(tmp_path / "fox", "1 of 50 images", removed.name)


@pytest.mark.parametrize("count, every", [(2, 1), (40, 8), (41, 8), (5, 3), (9, 2)])
def test_split_is_by_name_and_never_mixes(count, every):
    names = [f"{(7 * i) % count:03d}.png" if count % 7 else f"{i:03d}.png" for i in range(count)]
    if every == 1:
        with pytest.raises(UserError, match="none is held out"):
            sparse_split(names, every)
        return
    train, held_out = sparse_split(names, every)
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == list(range(count))
    assert [names[i] for i in train] == sorted(names)[::every]


@pytest.mark.parametrize("every", [0, -2, 10])
def test_split_that_leaves_too_few(every):
    with pytest.raises(UserError, match="--refine.every"):
        sparse_split([f"{i}.png" for i in range(10)], every)
