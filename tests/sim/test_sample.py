"""A written sample scene is what nerfstudio reads: cameras, points, photos and depth agree."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from chopgrad_ns.data.open3d_import import import_open3d
from chopgrad_ns.data.references import project
from chopgrad_ns.data.scene import check_scene
from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.sample import POINTS, photograph, sample_clip, write_scene
from chopgrad_ns.splat.cameras import Cameras
from tests.sim.made import SEED, made

FRAMES, WIDTH, HEIGHT = 12, 96, 64


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds") / "room"
    write_scene(folder, made("room", 7), frames=FRAMES, width=WIDTH, height=HEIGHT)
    return folder


@pytest.fixture(scope="module")
def sample():
    return photograph(made("room", 7), FRAMES, WIDTH, HEIGHT)


def pictures(folder, kind):
    return [np.asarray(Image.open(path)) for path in sorted((folder / kind).iterdir())]


def test_what_was_drawn_is_recorded(scene, sample):
    about = json.loads((scene / "world.json").read_text())
    assert (about["kind"], about["seed"], about["frames"], about["width"]) == ("room", 7, FRAMES, WIDTH)
    assert np.allclose(about["gains"], sample.gains) and about["licence"].startswith("Apache-2.0")
    assert not (scene / "masks").exists() and not (scene / "actors.json").exists() and sample.actor_ids is None


def test_files(scene, sample):
    assert [path.name for path in scene.parent.iterdir()] == ["room"]
    assert check_scene(scene) == "nerfstudio"
    photos = torch.from_numpy(np.stack(pictures(scene, "images"))).permute(0, 3, 1, 2) / 255
    assert (photos - sample.frames).abs().max() <= 0.51 / 255
    depth = np.stack(pictures(scene, "depths"))
    assert depth.dtype in (np.uint16, np.int32)
    assert np.abs(depth / 1000 - sample.depth[:, 0].numpy()).max() < 6e-4


def project_into(points, cameras, index, depth, frames):
    """Points that the depth map of frame `index` says are seen, and the colours there."""
    uv, z = (value[0] for value in project(points, cameras[index]))
    inside = (z > 0) & (uv >= 0).all(dim=1) & (uv[:, 0] < cameras.width) & (uv[:, 1] < cameras.height)
    column, row = uv[inside].floor().long().T
    seen = (depth[index, 0, row, column] - z[inside]).abs() < 0.02 * z[inside]
    return inside.nonzero()[seen, 0], frames[index][:, row[seen], column[seen]].T


def test_points_are_like_those_of_sfm(sample):
    assert 0.5 * POINTS < len(sample.points) <= POINTS and sample.points.shape == sample.colors.shape
    assert sample.colors.min() >= 0 and sample.colors.max() <= 1
    times_seen = torch.zeros(len(sample.points))
    for index in range(0, FRAMES, 4):
        seen, colors = project_into(sample.points, sample.cameras, index, sample.depth, sample.frames)
        times_seen[seen] += 1
        assert len(seen) > 300 and (sample.colors[seen] - colors).abs().median() < 0.06
    assert (times_seen >= 2).float().mean() > 0.85, "noise moves some across an edge, no more"


def test_nerfstudio_reads_it(scene):
    import_open3d()
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    outputs = NerfstudioDataParserConfig(data=scene, eval_mode="all", load_3D_points=True, downscale_factor=1
                                         ).setup().get_dataparser_outputs(split="train")
    assert len(outputs.image_filenames) == len(outputs.metadata["depth_filenames"]) == FRAMES
    assert outputs.metadata["depth_unit_scale_factor"] == 1e-3
    read = outputs.cameras
    cameras = Cameras.from_opengl(read.camera_to_worlds, read.fx[:, 0], read.fy[:, 0], read.cx[:, 0],
                                  read.cy[:, 0], WIDTH, HEIGHT)
    points, colors = outputs.metadata["points3D_xyz"], outputs.metadata["points3D_rgb"] / 255
    assert len(points) > 0.5 * POINTS
    photos = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
                          for path in outputs.image_filenames])
    depth = torch.stack([torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32))[None]
                         for path in outputs.metadata["depth_filenames"]]) * 1e-3 * outputs.dataparser_scale
    for index in (0, 5, FRAMES - 1):
        seen, there = project_into(points, cameras, index, depth, photos)
        assert len(seen) > 300 and (colors[seen] - there).abs().median() < 0.06


def test_poses_are_opengl(scene, sample):
    frame = json.loads((scene / "transforms.json").read_text())["frames"][3]
    pose = np.array(frame["transform_matrix"])
    assert np.allclose(pose[:3, 3], sample.cameras.centers[3], atol=1e-5)
    assert np.allclose(-pose[:3, 2], sample.cameras.camera_from_world[3, 2, :3], atol=1e-5), "looks along −z"
    assert pose[2, 1] > 0.5, "y is up"


def test_in_memory(sample):
    again = sample_clip("room", 7, FRAMES, WIDTH, HEIGHT)
    for name in ("frames", "depth", "points", "colors"):
        assert torch.equal(getattr(again, name), getattr(sample, name)), name


def test_refusals(tmp_path):
    world = made("objects", SEED)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(UserError, match="not an empty folder"):
        write_scene(tmp_path / "full", world)
    for wrong in ({"frames": 1}, {"width": 8}):
        with pytest.raises(UserError, match="at least 2 frames"):
            write_scene(tmp_path / "new", world, **wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_empty_folder_is_taken(tmp_path):
    write_scene(tmp_path, made("objects", SEED), frames=2, width=32, height=24)
    assert check_scene(tmp_path) == "nerfstudio"
