"""`ns-train chopgrad-refine` end to end at toy size, and what nerfstudio's commands make of the result."""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import imageio.v3 as imageio
import pytest
import torch
from safetensors.torch import load_file

from chopgrad_ns.cli.main import main
from chopgrad_ns.splat.gaussians import Gaussians
from tests.plugin.conftest import LOSSES, command, environment, ns_train, write_plane_scene


def nerfstudio(command: str, *arguments) -> subprocess.CompletedProcess:
    result = subprocess.run([str(Path(sys.executable).with_name(command)), *map(str, arguments)], capture_output=True,
                            text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def test_metrics_are_filled_for_all_three(toy_run):
    report = json.loads((toy_run / "metrics.json").read_text())
    assert report["views"] == {"train": 5, "held_out": 4}
    assert set(report["held_out"]) == {"splat", "ensemble", "refined", "distilled"}
    for values in report["held_out"].values():
        assert set(values) == {"psnr", "ssim", report["perceptual_metric"]}
        assert values["psnr"] > 12
    assert {"reconstruct", "pairs", "finetune", "refine", "distill", "report"} <= set(report["seconds"])


def test_losses_reach_fine_tuning(toy_run):
    progress = json.loads((toy_run / "stages" / "finetune" / "progress.json").read_text())
    assert progress["step"] == 3 and progress["settings"]["losses"] == LOSSES


def test_videos_can_be_played(toy_run):
    for name in ("splat", "ensemble", "refined", "distilled", "before_after"):
        frames = imageio.imread(toy_run / "videos" / f"{name}.mp4")
        assert len(frames) == 8 and frames.std() > 5


def test_a_page_shows_the_run(toy_run, tmp_path):
    main(["report", str(toy_run), "--output", str(tmp_path / "page")])
    run, = json.loads((tmp_path / "page" / "data.js").read_text().removeprefix("window.REPORT = ").rstrip(";\n"))["runs"]
    held_out = json.loads((toy_run / "metrics.json").read_text())["held_out"]
    assert [row["label"] for row in run["rows"]] == ["splat", "an ensemble of splats", "mended renders",
                                                     "distilled splat"]
    assert [row["cells"][0]["text"] for row in run["rows"]] == [f"{values['psnr']:.2f}" for values in held_out.values()]
    assert run["measuredOn"] == "Means over 4 held-out views" and run["truth"] is None
    clip, = run["clips"]
    for side, name in zip("0123", held_out):
        frames = imageio.imread(toy_run / "videos" / f"{name}.mp4")
        shown = [imageio.imread(path) for path in sorted((tmp_path / "page" / clip["sides"][side]).iterdir())]
        # Decoded by another library, which blurs colours in another way.
        assert abs(frames.astype(float) - shown).mean() < 5 < abs(frames[::-1].astype(float) - shown).mean()


def test_checkpoint_holds_the_splat_and_not_the_refiner(toy_run):
    checkpoint, = (toy_run / "nerfstudio_models").glob("*.ckpt")
    state = torch.load(checkpoint, weights_only=True)
    assert state["step"] == 40 + 2 * 6 - 1
    names = set(state["pipeline"])
    assert any("gauss_params.means" in name for name in names) and any("before_means" in name for name in names)
    assert not any("refiner" in name or "decoder" in name for name in names)


def test_pseudo_observations_change_the_splat(toy_run):
    before = Gaussians.load(toy_run / "stages" / "splat_before.ply")
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
    assert len(Gaussians.load(tmp_path / "splat.ply")) > 100


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


def test_ns_viewer(toy_run, tmp_path):
    """It starts on the finished run, draws the three outputs, and its page is served on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = tmp_path / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen([str(Path(sys.executable).with_name("ns-viewer")), "--load-config", toy_run / "config.yml",
                                    "--viewer.websocket-host", "127.0.0.1", "--viewer.websocket-port", str(port)],
                                   stdout=file, stderr=subprocess.STDOUT)
    try:
        # urllib's own keeps the proxies of whoever opened something first.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        page, deadline = None, time.monotonic() + 120
        while page is None and time.monotonic() < deadline and process.poll() is None:
            # Where the port has been taken meanwhile, the viewer says which one it has.
            for found in re.findall(r"http://(?:localhost|127\.0\.0\.1):(\d+)", output.read_text()) or [port]:
                with contextlib.suppress(OSError):
                    page = direct.open(f"http://127.0.0.1:{found}", timeout=5).read()
            time.sleep(0.2)
        assert page is not None and b"<html" in page and process.poll() is None, output.read_text()[-2000:]
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert "Traceback" not in output.read_text(), output.read_text()[-2000:]


def test_outputs_for_the_viewer(toy_run):
    """`rgb`, `rgb_before` and `error` have constant keys and say what they say."""
    from nerfstudio.utils.eval_utils import eval_setup

    _, pipeline, _, _ = eval_setup(toy_run / "config.yml")
    camera = pipeline.datamanager.eval_dataset.cameras[:1]
    shown = pipeline.model.get_outputs_for_camera(camera)
    assert {"rgb", "rgb_before", "error", "depth", "accumulation"} <= set(shown)
    difference = (shown["rgb"] - shown["rgb_before"]).abs().mean(dim=-1, keepdim=True)
    assert torch.equal(shown["error"], difference) and difference.max() > 0.01


def test_evaluation_views_reach_no_training_stage(toy_run, toy_cache, tmp_path):
    """With noise in place of every held-out photo, all that training made is the same, bit for bit."""
    scene = write_plane_scene(tmp_path / "plane", noise_on=(1, 3, 5, 7))
    ns_train(scene, tmp_path / "outputs", "--timestamp", "run", cache=toy_cache)
    other = tmp_path / "outputs" / "plane" / "chopgrad-refine" / "run"
    for name in ("refiner/model.safetensors", "round-1.safetensors", "round-2.safetensors"):
        mine, theirs = load_file(toy_run / "stages" / name), load_file(other / "stages" / name)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), name
    for name in ("ensemble-1.ply", "ensemble-2.ply"):
        assert (toy_run / "stages" / name).read_bytes() == (other / "stages" / name).read_bytes()
    mine, theirs = (torch.load(next((run / "nerfstudio_models").glob("*.ckpt")), weights_only=True)["pipeline"]
                    for run in (toy_run, other))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    scores = [json.loads((run / "metrics.json").read_text())["held_out"]["splat"]["psnr"] for run in (toy_run, other)]
    assert scores[0] > scores[1] + 3, "the numbers, and they alone, must notice"


@pytest.mark.parametrize("until", ["stages/pairs/complete.json", "stages/round-1.safetensors"])
def test_killed_run_continues(toy_run, toy_cache, tmp_path, until):
    """Killed in the middle, the same command takes the run up, keeps what was complete, and finishes it."""
    scene = write_plane_scene(tmp_path / "plane")
    runs = tmp_path / "outputs" / "plane" / "chopgrad-refine"
    process = subprocess.Popen(command(scene, tmp_path / "outputs"), env=environment(toy_cache),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(runs.glob(f"*/{until}")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made, = runs.glob(f"*/{until}")
    kept = made.stat().st_mtime_ns
    again = ns_train(scene, tmp_path / "outputs", cache=toy_cache)
    assert "Continuing the unfinished run" in again.stdout and "Continuing after step 39" in again.stdout
    run, = runs.iterdir()
    assert made.stat().st_mtime_ns == kept
    report, whole = (json.loads((folder / "metrics.json").read_text()) for folder in (run, toy_run))
    assert report["held_out"]["splat"] == whole["held_out"]["splat"]
    assert report["held_out"]["refined"] == whole["held_out"]["refined"]
    assert list(report["seconds"]) and report["views"] == whole["views"]


def test_killed_before_the_report_it_still_reports(toy_run, toy_cache, tmp_path):
    """All steps done, the numbers missing: there is nothing left to train, and the report is made."""
    shutil.copytree(toy_run.parents[1], tmp_path / "plane")
    run = tmp_path / "plane" / "chopgrad-refine" / "run"
    before = (run / "metrics.json").read_text()
    (run / "metrics.json").unlink()
    ns_train(toy_run.parents[3] / "plane", tmp_path, "--timestamp", "run", cache=toy_cache)
    assert json.loads((run / "metrics.json").read_text())["held_out"] == json.loads(before)["held_out"]


def test_stages_can_be_given(toy_run, toy_cache, tmp_path):
    """A splat and a refiner made elsewhere: nothing is reconstructed, nothing fine-tuned, only distilled."""
    stages = toy_run / "stages"
    ns_train(toy_run.parents[3] / "plane", tmp_path, "--timestamp", "run", "--refine.splat", str(stages / "splat_before.ply"),
             "--refine.refiner", str(stages / "refiner"), "--refine.finetune-steps", "0", cache=toy_cache)
    run = tmp_path / "plane" / "chopgrad-refine" / "run"
    report, whole = (json.loads((folder / "metrics.json").read_text())["held_out"] for folder in (run, toy_run))
    assert report["splat"] == pytest.approx(whole["splat"], abs=1e-4)
    assert set(report) == {"splat", "refined", "distilled"}, "what others would be fitted to is not what was given"
    assert not (run / "stages" / "pairs").exists()
    mine, theirs = (load_file(folder / "stages" / "refiner" / "model.safetensors") for folder in (run, toy_run))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_colmap_capture(shared_data, toy_cache, tmp_path):
    """The whole job on a real COLMAP model."""
    ns_train(shared_data / "lund_door", tmp_path, "--timestamp", "run", "--refine.every", "3", "--refine.longest-side", "96",
             cache=toy_cache)
    report = json.loads((tmp_path / "lund_door" / "chopgrad-refine" / "run" / "metrics.json").read_text())
    assert report["views"] == {"train": 4, "held_out": 8}
    assert max(report["size"]) in range(92, 97), "undistorting crops a little"
