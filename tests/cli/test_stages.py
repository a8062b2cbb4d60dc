"""Every stage as a command of its own, each fed with what the one before left on disk."""

import json
import re

import imageio.v3 as imageio
import pytest
import torch

from chopgrad_ns.chopgrad import strategy_named
from chopgrad_ns.cli.main import COMMANDS, main
from chopgrad_ns.data.pair_set import PairSet
from chopgrad_ns.losses import LOSSES
from chopgrad_ns.refiner import Refiner
from chopgrad_ns.splat.gaussians import Gaussians
from tests.cli.refusals import refused
from tests.data.kitti_sequence import write_sequence

SMALL = ["--every", "4", "--longest-side", "64"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Sample scene, splat, pairs, refiner and refined frames, made by the commands in turn."""
    folder = tmp_path_factory.mktemp("stages")
    scene, splat, pairs, refiner, refined = (str(folder / name)
                                             for name in ("scene", "splat.ply", "pairs", "refiner", "refined"))
    main(["sample", "objects", scene, "--frames", "12", "--width", "64", "--height", "48"])
    main(["reconstruct", scene, "--output", splat, "--steps", "60", *SMALL])
    main(["pairs", "--output", pairs, "--data", scene, "--folds", "3", "--sample-worlds", "0", "--steps", "40", *SMALL])
    main(["finetune", "--pairs", pairs, "--output", refiner, "--steps", "2"])
    main(["refine", scene, "--splat", splat, "--refiner", refiner, "--output", refined, "--frames", "6", *SMALL])
    return folder


def test_reconstruct_writes_a_splat(base):
    assert len(Gaussians.load(base / "splat.ply")) > 200


def test_render_writes_as_many_frames_as_asked(base, tmp_path):
    main(["render", str(base / "scene"), "--splat", str(base / "splat.ply"), "--output", str(tmp_path / "out"),
          "--frames", "30", "--beside", "0.5", *SMALL])
    assert len(list((tmp_path / "out" / "frames").glob("*.png"))) == 30
    assert imageio.immeta(tmp_path / "out" / "render.mp4")["duration"] == pytest.approx(30 / 12, abs=0.1)


def test_pairs_are_the_folds_of_the_training_views(base):
    pairs = [pair.read() for pair in PairSet(base / "pairs")]
    assert [pair.name for pair in pairs] == ["scene-fold-0", "scene-fold-1", "scene-fold-2"]
    assert all(len(pair.clean) == 3 for pair in pairs), "12 frames, every 4th"
    assert torch.equal(sum(pair.valid for pair in pairs), torch.ones_like(pairs[0].valid)), "each view in one fold"


def test_finetune_writes_a_refiner(base):
    refiner = Refiner.from_pretrained(base / "refiner")
    assert refiner.pretrained
    fresh = Refiner.from_pretrained("tiny").model.state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in refiner.model.state_dict().items())


@pytest.mark.parametrize("backprop", ["truncated-1", "full", "exact-offload-layers"])
def test_finetune_as_told(base, tmp_path, backprop):
    losses = "l1=1,frame_difference=0.5@1"
    main(["finetune", "--pairs", str(base / "pairs"), "--output", str(tmp_path), "--steps", "2", "--losses", losses,
          "--backprop", backprop])
    about = json.loads((tmp_path / "progress" / "progress.json").read_text())
    assert about["settings"]["losses"] == losses and about["backprop"] == str(strategy_named(backprop))
    mine, usual = (Refiner.from_pretrained(folder).model.state_dict() for folder in (tmp_path, base / "refiner"))
    assert any(not torch.equal(value, usual[name]) for name, value in mine.items())


def test_help_of_finetune_has_all_names_of_losses(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    shown = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    possible = [name for name, loss in LOSSES.items() if not getattr(loss, "needs_flow", False)]
    told = shown.split("names are ")[1].split(", the mean square")[0]
    assert re.findall(r"\w+", told.replace(" and ", " ")) == [*possible, "latent"]


def test_refine_writes_frames_and_videos(base):
    assert len(list((base / "refined" / "frames").glob("*.png"))) == 6
    for name in ("splat", "refined", "before_after"):
        assert len(imageio.imread(base / "refined" / f"{name}.mp4")) == 6


def test_refine_without_learning(base, tmp_path):
    """Nearer to the photo where the path goes through a training camera, whose own photo is the nearest reference."""
    main(["refine", str(base / "scene"), "--splat", str(base / "splat.ply"), "--refiner", "blend", "--output", str(tmp_path),
          "--frames", "3", *SMALL])
    truth = imageio.imread(base / "scene" / "images" / "00004.png").astype(float)
    shown, splat = (imageio.imread(path)[1] if path.suffix == ".mp4" else imageio.imread(path)
                    for path in (tmp_path / "frames" / "00001.png", tmp_path / "splat.mp4"))
    assert abs(shown - truth).mean() < 0.8 * abs(splat.astype(float) - truth).mean()


def test_refine_an_ensemble(base, tmp_path):
    other = str(tmp_path / "other.ply")
    main(["reconstruct", str(base / "scene"), "--output", other, "--steps", "60", "--seed", "5", *SMALL])
    shown = {}
    own = base / "splat.ply"
    for name, splats in {"first": [own], "second": [other], "both": [own, "--ensemble", other]}.items():
        main(["refine", str(base / "scene"), "--splat", *map(str, splats), "--output", str(tmp_path / name), "--frames", "6",
              "--refiner", "blend", "--references", "0", *SMALL])  # renders as they are
        shown[name] = imageio.imread(tmp_path / name / "frames" / "00002.png").astype(float)
    assert abs((shown["first"] + shown["second"]) / 2 - shown["both"]).max() <= 1
    assert abs(shown["first"] - shown["second"]).max() > 10


def test_refine_beside_the_cameras_sees_something_else(base, tmp_path):
    main(["refine", str(base / "scene"), "--splat", str(base / "splat.ply"), "--output", str(tmp_path), "--frames", "6",
          "--beside", "0.5", *SMALL])
    mine, other = (imageio.imread(folder / "frames" / "00002.png").astype(int)
                   for folder in (base / "refined", tmp_path))
    assert abs(mine - other).mean() > 2


def test_usage_lists_every_command(capsys):
    main([])
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0 and "Example: chopgrad" in capsys.readouterr().out


@pytest.mark.parametrize("option, value, message", [
    ("--losses", "robust_l1=1,ssim", "'ssim' in the losses 'robust_l1=1,ssim' is not of the form"),
    ("--losses", "robust_l2=1", "there is no loss 'robust_l2'"), ("--losses", "l1=1@5", "no loss has started at step 0"),
    ("--losses", "l1=1,warped_flicker=1@5", "warped_flicker needs optical flow"),
    ("--losses", "l1=1,lpips=1@5000", "LPIPS needs vgg16"),
    *(("--backprop", name, f"no --backprop '{name}'")
      for name in ("", "truncated", "truncated--1", "exact-keep-0", "exact-layers-offload", "full-2")),
])
def test_finetune_refuses_before_it_looks_at_pairs(empty_hub, tmp_path, capsys, option, value, message):
    refused(capsys, "finetune", "--pairs", tmp_path / "nowhere", "--output", tmp_path / "refiner", f"{option}={value}",
            message=message)
    assert not list(tmp_path.iterdir())


def test_drives_are_no_captures_and_their_scenes_no_files(tmp_path, capsys):
    drive = write_sequence(tmp_path / "drive")
    left = sorted(tmp_path.rglob("*"))
    refused(capsys, "pairs", "--output", tmp_path / "pairs", "--data", drive, message=f"--data {drive} kitti-odometry")
    refused(capsys, "reconstruct", drive, "--output", tmp_path / "splat.ply", message="name a folder")
    refused(capsys, "reconstruct", drive, "--output", tmp_path / "scene", "--every", "0", message="Every 0th of 5 frames")
    assert sorted(tmp_path.rglob("*")) == left, "nothing is left half-written"


def test_refusals(base, tmp_path, capsys):
    refused(capsys, "paint", message="no command 'paint'")
    refused(capsys, "sample", "room", base / "scene", message="not an empty folder")
    refused(capsys, "reconstruct", tmp_path / "nowhere", message="no folder")
    refused(capsys, "reconstruct", base / "scene", "--output", tmp_path / "splat.obj", message="cannot be written as splat.obj")
    for name, value in (("steps", 0), ("longest-side", 1), ("max-gaussians", 0)):
        refused(capsys, "reconstruct", base / "scene", f"--{name}={value}", message=f"--{name} is {value}; give")
    refused(capsys, "pairs", "--output", tmp_path / "pairs", "--sample-worlds", "0", message="nothing to make pairs from")
    refused(capsys, "finetune", "--pairs", tmp_path, "--output", tmp_path / "refiner", message="no pairs in")
    refused(capsys, "refine", base / "scene", "--splat", base / "scene" / "sparse_pc.ply", "--output", tmp_path / "out",
            message="is a PLY but not a splat")
    refused(capsys, "render", base / "scene", "--splat", base / "splat.ply", "--output", tmp_path / "out", "--frames", "0",
            message="--frames is 0")
    refused(capsys, "render", base / "scene", "--splat", base / "splat.ply", "--output", base, *SMALL,
            message="which no rendering wrote")
    assert not list(tmp_path.iterdir()), "nothing is left half-written"
