"""Drives as nerfstudio's dataparsers: found by name, and what a data manager makes of them."""

import inspect
import subprocess
import sys
from importlib import import_module

import cv2
import numpy as np
import pytest
import torch
import tyro
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion, all_dataparsers
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig

from chopgrad_ns.data.drives.open import FORMATS
from chopgrad_ns.data.drives.projection import undistorted
from chopgrad_ns.errors import UserError
from chopgrad_ns.plugin.cameras import to_opencv
from chopgrad_ns.plugin.drives import DRIVE_PARSERS, DgpDataParserConfig, KittiDataParserConfig
from tests.data.kitti_sequence import write_sequence


EXACT = "donot_use_mm_for_euclid_dist"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "drives"))


def test_every_format_has_a_parser_that_ns_train_knows():
    assert set(DRIVE_PARSERS) == set(FORMATS)
    for name, config in DRIVE_PARSERS.items():
        assert type(all_dataparsers[name]) is type(config)
    arguments = "dgp --data somewhere --scene scene_02 --cameras A B --no-mask-moving".split()
    chosen = tyro.cli(AnnotatedDataParserUnion, args=arguments)
    assert isinstance(chosen, DgpDataParserConfig) and chosen.scene == "scene_02" and not chosen.mask_moving
    assert chosen.cameras == ("A", "B")


@pytest.mark.parametrize("name, option", [("waymo-v1", "segment"), ("waymo-v2", "segment"), ("dgp", "scene"),
                                          ("kitti-odometry", "sequence"), ("nuscenes-kit", "scene")])
def test_one_of_several_recordings_can_be_chosen(name, option):
    """As the readers ask for, where a folder has several."""
    chosen = tyro.cli(AnnotatedDataParserUnion, args=[name, "--data", "somewhere", f"--{option}", "this"])
    assert option in chosen.options and getattr(chosen, option) == "this"
    module, reader = FORMATS[name].reader.split(":")
    parameters = inspect.signature(getattr(import_module(f"chopgrad_ns.data.drives.{module}"), reader)).parameters
    assert set(chosen.options) == set(parameters) - {"path", "selection"}


def test_importing_the_parsers_reads_no_format():
    """Every ns-* command does so."""
    program = ("import sys, nerfstudio.data.dataparsers.base_dataparser, chopgrad_ns.data.actors\nbefore = set(sys.modules)\n"
               "import chopgrad_ns.plugin.drives\nprint(*{name.split('.')[0] for name in set(sys.modules) - before})")
    added = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    formats = {"pyarrow", "cv2", "scipy", "PIL", "nuscenes", "waymo_open_dataset"}
    assert "chopgrad_ns" in added and not formats & set(added), added


@pytest.fixture(scope="module")
def dgp(shared_data):
    return shared_data / "dgp" / "test_scene"


def outputs_of(config):
    parser = config.setup()
    return parser, parser.get_dataparser_outputs("train"), parser.get_dataparser_outputs("val")


def test_frames_are_split_and_files_are_there(dgp):
    parser, train, held_out = outputs_of(DgpDataParserConfig(data=dgp, scene="scene_02"))
    assert [photo.frame for photo in train.metadata["photos"]] == [0, 2] * 3
    assert [photo.frame for photo in held_out.metadata["photos"]] == [1] * 3
    for outputs in (train, held_out):
        assert len(outputs.cameras) == len(outputs.image_filenames) == len(outputs.mask_filenames)
        for photo, path in zip(outputs.metadata["photos"], outputs.image_filenames):
            assert path.read_bytes() == parser.drive.source.picture(photo)
        assert all(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (1216, 1936) for path in outputs.mask_filenames)
    assert train.metadata["drive"] is parser.drive and {photo.frame for photo in train.metadata["training"].photos} == {0, 2}


def test_cameras_are_those_of_the_drive(dgp):
    parser, train, _ = outputs_of(DgpDataParserConfig(data=dgp, scene="scene_02", cameras=("CAMERA_05", "CAMERA_01")))
    drive, photos = parser.drive, train.metadata["photos"]
    seconds, shift, scale = train.metadata["seconds"], train.dataparser_transform[:, 3], train.dataparser_scale
    assert torch.equal(train.dataparser_transform[:, :3], torch.eye(3)) and torch.equal(train.metadata["world"][:, 3], shift)
    for index, photo in enumerate(photos):
        found = to_opencv(train.cameras[index : index + 1], seconds)
        expected = undistorted(drive, [photo], 1936, 1216)
        assert (found.centers / scale - shift - expected.centers).abs().max() < 1e-4
        assert (found.camera_from_world[:, :3, :3] - expected.camera_from_world[:, :3, :3]).abs().max() < 1e-5
        assert torch.allclose(found.K, expected.K) and torch.allclose(found.times, expected.times, atol=1e-5)
    centers = torch.cat([to_opencv(outputs.cameras).centers for outputs in (train, parser.get_dataparser_outputs("val"))])
    assert centers.mean(dim=0).abs().max() < 1e-4 and float(centers.norm(dim=1).max()) == pytest.approx(1, abs=1e-4)
    assert train.metadata["points3D_xyz"].shape == train.metadata["points3D_rgb"].shape
    road = train.metadata["points3D_xyz"] / scale - shift
    assert road.abs().max() > 50 and (road[:, 2] > -5).all(), "metres, z up"


def test_points_are_of_training_frames_alone(dgp):
    config = DgpDataParserConfig(data=dgp, scene="scene_02", every=3, max_points=10 ** 6)
    parser, train, _ = outputs_of(config)
    xyz = train.metadata["points3D_xyz"] / train.dataparser_scale - train.dataparser_transform[:, 3]
    own = [torch.from_numpy(parser.drive.source.points(frame).xyz) for frame in (0, 1)]
    near = [float((torch.cdist(xyz[::50], points, compute_mode=EXACT).amin(dim=1) < 1e-3).float().mean()) for points in own]
    assert near[0] == 1 and near[1] < 0.1


def test_a_data_manager_undistorts_and_masks(dgp, tmp_path):
    config = FullImageDatamanagerConfig(dataparser=DgpDataParserConfig(data=dgp, scene="scene_01", cameras=("CAMERA_05",)),
                                        camera_res_scale_factor=0.1, cache_images_type="uint8")
    manager = config.setup(device="cpu", test_mode="val")
    camera, batch = manager.next_train(0)
    assert batch["image"].shape == (121, 193, 3) and batch["mask"].shape == (121, 193, 1) and camera.times is not None
    masked = 1 - batch["mask"].float().mean()
    assert 0.03 < masked < 0.2, "cars drive by on the left"
    _, held_out = manager.next_eval(0)
    assert held_out["image"].shape == (121, 193, 3)
    assert manager.train_dataset.metadata["drive"] is manager.dataparser.drive, "not copied"


def test_distorted_photos_are_undistorted_as_the_drive_says(tmp_path, monkeypatch):
    """Nerfstudio's order of coefficients is another than OpenCV's: a wrong one would bend other places."""
    from chopgrad_ns.plugin.drives import nerfstudio_cameras
    from tests.data.made_drive import made_drive

    drive = made_drive(rolling=False)
    cameras = nerfstudio_cameras(drive, drive.photos, torch.zeros(3), 1.0, 1.0)
    assert cameras.distortion_params[0].tolist() == pytest.approx([-0.2, 0.03, 0, 0, 0.001, -0.002])
    K = np.array([[60.0, 0, 47.5], [0, 60, 31.5], [0, 0, 1]])
    coordinates = torch.tensor([[10.5, 80.5]])
    rays = cameras.generate_rays(camera_indices=0, coords=coordinates)
    local = rays.directions[0].double() @ cameras.camera_to_worlds[0, :, :3].double()
    expected = cv2.undistortPoints(np.array([[[80.0, 10.0]]]), K, np.array([-0.2, 0.03, 0.001, -0.002, 0]))[0, 0]
    assert (local[:2] / -local[2]).tolist() == pytest.approx([expected[0], -expected[1]], abs=1e-4)


def test_kitti_trains_with_any_method(tmp_path):
    config = FullImageDatamanagerConfig(dataparser=KittiDataParserConfig(data=write_sequence(tmp_path), mask_moving=False))
    manager = config.setup(device="cpu", test_mode="val")
    _, batch = manager.next_train(0)
    assert batch["image"].shape == (30, 80, 3) and "mask" not in batch
    assert len(manager.train_dataset) == 6 and len(manager.eval_dataset) == 4
    assert len(manager.train_dataparser_outputs.metadata["points3D_xyz"]) > 500


def test_a_drive_without_lidar_has_no_points(tmp_path):
    _, train, _ = outputs_of(KittiDataParserConfig(data=write_sequence(tmp_path, scans=False)))
    assert "points3D_xyz" not in train.metadata


@pytest.mark.parametrize("every, last", [(1, None), (0, None), (9, 1)])
def test_splits_that_leave_nothing_are_refused(tmp_path, every, last):
    with pytest.raises(UserError, match="to train on and . to judge by"):
        outputs_of(KittiDataParserConfig(data=write_sequence(tmp_path), every=every, last=last))
