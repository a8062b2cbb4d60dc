"""Bad input of `ns-train chopgrad-refine` is refused before anything is written: one sentence, exit code 2."""

import copy
import json
import shutil

import pytest
import torch

from chopgrad_ns.plugin.config import chopgrad_refine
from chopgrad_ns.plugin.drives import DRIVE_PARSERS
from chopgrad_ns.plugin.runs import RunLock
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.tasks import task_named
from chopgrad_ns.splat.gaussians import Gaussians
from tests.data.kitti_sequence import write_sequence
from tests.plugin.conftest import ns_train, write_plane_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_plane_scene(tmp_path_factory.mktemp("borders") / "plane")


@pytest.fixture
def refused(scene, tmp_path, capsys):
    """Start a run, as `ns-train` does up to making its folder, and take the sentence that it is refused with."""

    def start(data=scene, dataparser=None, **settings):
        config = copy.deepcopy(chopgrad_refine.config)
        config.pipeline.datamanager.dataparser = dataparser or config.pipeline.datamanager.dataparser
        config.output_dir = tmp_path / "outputs"
        config.data = config.pipeline.datamanager.data = data
        config.timestamp = settings.pop("timestamp", "{timestamp}")
        for name, value in settings.items():
            setattr(config.refine, name, value)
        config.__post_init__()
        with pytest.raises(SystemExit) as caught:
            config.set_timestamp()
        message = capsys.readouterr().out.strip()
        assert caught.value.code == 2 and message.startswith("Error: ") and message.endswith(".")
        assert "\n" not in message and "Traceback" not in message
        assert not config.output_dir.exists()
        return message

    return start


def test_the_command_itself(tmp_path, toy_cache):
    result = ns_train(tmp_path / "nowhere", tmp_path / "outputs", cache=toy_cache, check=False)
    assert result.returncode == 2
    assert "There is no folder" in result.stdout and "Traceback" not in result.stdout + result.stderr
    assert not (tmp_path / "outputs").exists()


def test_no_scene(refused):
    assert "--data FOLDER" in refused(data=None)


def test_a_splat_and_nothing_to_train(refused, tmp_path):
    assert "nothing to train" in refused(splat=tmp_path / "splat.ply", rounds=0)


def test_neither_format(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "neither transforms.json nor a COLMAP model" in refused(data=tmp_path / "empty")


@pytest.mark.parametrize("every, message", [(9, "leaves 1 to train on"), (1, "none is held out"), (0, "--refine.every")])
def test_views_left_after_sparsifying(refused, every, message):
    assert message in refused(every=every)


def test_missing_image(refused, scene, tmp_path):
    shutil.copytree(scene, tmp_path / "plane")
    (tmp_path / "plane" / "images" / "004.png").unlink()
    assert "1 of 9 images" in refused(data=tmp_path / "plane")


@pytest.mark.parametrize("edit, message", [
    (lambda meta: meta.update(w=70), "70×48 is stated"),
    (lambda meta: meta["frames"][3]["transform_matrix"][1].__setitem__(2, float("nan")), "is not finite"),
])
def test_bad_description(refused, scene, tmp_path, edit, message):
    shutil.copytree(scene, tmp_path / "plane")
    path = tmp_path / "plane" / "transforms.json"
    meta = json.loads(path.read_text())
    edit(meta)
    path.write_text(json.dumps(meta))
    assert message in refused(data=tmp_path / "plane")


@pytest.mark.parametrize("settings, message", [
    ({"round_frames": 2}, "--refine.round-frames is 2; give 4 or more"),
    ({"longest_side": 8}, "--refine.longest-side is 8"),
    ({"finetune_steps": 1, "folds": 0, "sample_worlds": 0}, "nothing to fine-tune on"),
    ({"finetune_steps": 1, "losses": "robust_l2=1"}, "there is no loss 'robust_l2'"),
    ({"finetune_steps": 1, "losses": "robust_l1=1,warped_flicker=1@9"}, "warped_flicker needs optical flow"),
    ({"finetune_steps": 1, "losses": "robust_l1=1,lpips=1@9"}, "LPIPS needs vgg16"),
])
def test_settings(refused, empty_hub, settings, message):
    assert message in refused(**settings)


def test_losses_by_default():
    assert chopgrad_refine.config.refine.losses == task_named("artifact-removal").losses


def test_unreadable_refiner_and_splat(refused, tmp_path):
    assert "neither a folder nor a Hugging Face id" in refused(refiner=str(tmp_path / "refiner"))
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert "does not describe a refiner" in refused(refiner=str(folder))
    assert "cannot be read" in refused(splat=tmp_path / "splat.ply")


def test_a_drive_does_not_start_from_a_splat(refused, tmp_path):
    drive = write_sequence(tmp_path / "drive")
    Gaussians.from_points(torch.rand(9, 3), torch.rand(9, 3), 0).save(tmp_path / "splat.ply")
    message = refused(data=drive, dataparser=copy.deepcopy(DRIVE_PARSERS["kitti-odometry"]), splat=tmp_path / "splat.ply")
    assert "actors and sky" in message
    assert f"--data {drive} kitti-odometry" in refused(data=drive)


def test_a_run_is_not_continued_with_other_settings(scene, tmp_path, capsys):
    config = copy.deepcopy(chopgrad_refine.config)
    config.output_dir, config.timestamp = tmp_path, "run"
    config.data = config.pipeline.datamanager.data = scene
    config.refine.every = 2
    config.__post_init__()
    config.set_timestamp()
    config.save_config()
    config.vis = "tensorboard"
    config.set_timestamp()  # the same run in every respect that matters
    config.refine.rounds = 1
    with pytest.raises(SystemExit):
        config.set_timestamp()
    assert "other settings" in capsys.readouterr().out


def test_only_unfinished_runs_are_continued(scene, tmp_path):
    def start():
        config = copy.deepcopy(chopgrad_refine.config)
        config.output_dir, config.data = tmp_path, scene
        config.pipeline.datamanager.data = scene
        config.refine.every = 2
        config.__post_init__()
        config.set_timestamp()
        return config

    first = start()
    first.timestamp = "first"
    first.save_config()
    assert start().timestamp == "first"
    (first.get_base_dir() / "metrics.json").write_text("{}")
    assert start().timestamp != "first"


def test_two_processes_do_not_share_a_run(tmp_path):
    lock = RunLock(tmp_path)
    with pytest.raises(UserError, match="Another process"):
        RunLock(tmp_path)
    lock.release()
    RunLock(tmp_path).release()
