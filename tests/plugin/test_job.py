"""`ns-train chopgrad-refine` end to end at toy size, and what nerfstudio's commands make of the result."""

import json
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import pytest
import torch
from safetensors.torch import load_file

from chopgrad_ns.splat.gaussians import Gaussians
from tests.plugin.conftest import ns_train, write_plane_scene


def nerfstudio(command: str, *arguments) -> subprocess.CompletedProcess:
    result = subprocess.run([str(Path(sys.executable).with_name(command)), *map(str, arguments)], capture_output=True,
                            text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def test_metrics_are_filled_for_all_three(toy_run):
    report = json.loads((toy_run / "metrics.json").read_text())
    assert report["views"] == {"train": 5, "held_out": 4}
    assert set(report["held_out"]) == {"splat", "refined", "distilled"}
    for values in report["held_out"].values():
        assert set(values) == {"psnr", "ssim", report["perceptual_metric"]}
        assert values["psnr"] > 12
    assert {"reconstruct", "pairs", "finetune", "refine", "distill", "report"} <= set(report["seconds"])


def test_videos_can_be_played(toy_run):
    for name in ("splat", "refined", "distilled", "before_after"):
        frames = imageio.imread(toy_run / "videos" / f"{name}.mp4")
        assert len(frames) == 8 and frames.std() > 5


def test_checkpoint_holds_the_splat_and_not_the_refiner(toy_run):
    checkpoint, = (toy_run / "nerfstudio_models").glob("*.ckpt")
    state = torch.load(checkpoint, weights_only=True)
    assert state["step"] == 40 + 2 * 6 - 1
    names = set(state["pipeline"])
    assert any("gauss_params.means" in name for name in names) and any("before_means" in name for name in names)
    assert not any("refiner" in name or "decoder" in name for name in names)


def test_pseudo_observations_change_the_splat(toy_run):
    before = Gaussians.load_ply(toy_run / "stages" / "splat_before.ply")
    state = torch.load(next((toy_run / "nerfstudio_models").glob("*.ckpt")), weights_only=True)
    assert torch.allclose(state["pipeline"]["_model.before_means"], before.means, atol=1e-6)
    assert not torch.equal(state["pipeline"]["_model.gauss_params.features_dc"], before.sh[:, 0])


def test_ns_eval(toy_run, tmp_path):
    nerfstudio("ns-eval", "--load-config", toy_run / "config.yml", "--output-path", tmp_path / "eval.json")
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    report = json.loads((toy_run / "metrics.json").read_text())["held_out"]["distilled"]
    # Evaluated after a round trip through the checkpoint by nerfstudio's own loop, one view at a time.
    assert results["psnr"] == pytest.approx(report["psnr"], abs=0.02)
    assert results["ssim"] == pytest.approx(report["ssim"], abs=2e-3)


def test_ns_export(toy_run, tmp_path):
    nerfstudio("ns-export", "gaussian-splat", "--load-config", toy_run / "config.yml", "--output-dir", tmp_path)
    assert len(Gaussians.load_ply(tmp_path / "splat.ply")) > 100


def test_ns_render_interpolate(toy_run, tmp_path):
    nerfstudio("ns-render", "interpolate", "--load-config", toy_run / "config.yml", "--output-path", tmp_path / "out.mp4",
               "--interpolation-steps", "2", "--rendered-output-names", "rgb", "rgb_before", "error")
    frames = imageio.imread(tmp_path / "out.mp4")
    assert frames.shape[2] >= 3 * 64 and len(frames) >= 6


def test_ns_render_camera_path(toy_run, tmp_path):
    pose = torch.eye(4)
    pose[1, 1] = pose[2, 2] = -1
    path = {"camera_type": "perspective", "render_height": 48, "render_width": 64, "seconds": 1, "fps": 2,
            "camera_path": [{"camera_to_world": pose.flatten().tolist(), "fov": 45, "aspect": 1.33}] * 2}
    (tmp_path / "path.json").write_text(json.dumps(path))
    nerfstudio("ns-render", "camera-path", "--load-config", toy_run / "config.yml", "--camera-path-filename",
               tmp_path / "path.json", "--output-path", tmp_path / "out.mp4")
    assert len(imageio.imread(tmp_path / "out.mp4")) == 2


def test_evaluation_views_reach_no_training_stage(toy_run, toy_cache, tmp_path):
    """With noise in place of every held-out photo, all that training made is the same, bit for bit."""
    scene = write_plane_scene(tmp_path / "plane", noise_on=(1, 3, 5, 7))
    ns_train(scene, tmp_path / "outputs", "--timestamp", "run", cache=toy_cache)
    other = tmp_path / "outputs" / "plane" / "chopgrad-refine" / "run"
    for name in ("refiner/model.safetensors", "round-1.safetensors", "round-2.safetensors"):
        mine, theirs = load_file(toy_run / "stages" / name), load_file(other / "stages" / name)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), name
    mine, theirs = (torch.load(next((run / "nerfstudio_models").glob("*.ckpt")), weights_only=True)["pipeline"]
                    for run in (toy_run, other))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    scores = [json.loads((run / "metrics.json").read_text())["held_out"]["splat"]["psnr"] for run in (toy_run, other)]
    assert scores[0] > scores[1] + 3, "the numbers, and they alone, must notice"


def test_interrupted_run_continues(toy_run, toy_cache, tmp_path):
    """Without its last stages a run is unfinished: the same command takes it up and ends at the same numbers."""
    scene = write_plane_scene(tmp_path / "plane")
    stopped = ns_train(scene, tmp_path / "outputs", "--steps-per-save", "10", cache=toy_cache)
    run, = (tmp_path / "outputs" / "plane" / "chopgrad-refine").iterdir()
    assert "Continuing" not in stopped.stdout
    (run / "metrics.json").unlink()
    (run / "stages" / "round-2.safetensors").unlink()
    again = ns_train(scene, tmp_path / "outputs", "--steps-per-save", "10", cache=toy_cache)
    assert "Continuing the unfinished run" in again.stdout
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert (run / "metrics.json").exists()


def test_finished_run_is_not_continued(toy_run):
    from chopgrad_ns.plugin.runs import METRICS_FILE, RUN_FILE

    assert (toy_run / METRICS_FILE).exists() and (toy_run / RUN_FILE).exists()
