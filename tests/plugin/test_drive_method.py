"""`ns-train chopgrad-refine` on drives: a tiny street with its truth end to end, and a real recording."""

import copy
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import tyro
from PIL import Image

from chopgrad_ns.cli.main import main
from chopgrad_ns.cli.scenes import open_recording
from chopgrad_ns.data.drives.drive import Selection
from chopgrad_ns.data.drives.waymo_v2 import read_waymo_v2
from chopgrad_ns.data.pairs import fold_pairs
from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.page import open_run
from chopgrad_ns.plugin.config import chopgrad_refine
from chopgrad_ns.plugin.datamanager import AnyDataParser
from chopgrad_ns.plugin.drive_scene import in_metres, placed, seeded_actors, unplaced, views_in_metres
from chopgrad_ns.sim.drive_files import write_drive
from chopgrad_ns.sim.scene_graph import SceneGraph
from chopgrad_ns.sim.world import make_world
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.fit import FitSettings
from chopgrad_ns.splat.gaussians import Gaussians
from tests.plugin.conftest import environment

FRAMES, WIDTH, HEIGHT, SEED = 8, 72, 48, 15
TINY = ["--refine.reconstruct-steps", "60", "--refine.folds", "0", "--refine.sample-worlds", "0",
        "--refine.finetune-steps", "0", "--refine.rounds", "2", "--refine.round-steps", "6", "--refine.round-frames", "16",
        "--refine.lane-shifts", "0", "1", "2", "3"]


@pytest.fixture(scope="module")
def street(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drives") / "street"
    write_drive(folder, make_world("street", SEED, 0.0), FRAMES, WIDTH, HEIGHT, truth=("lane_0", "lane_2"))
    return folder


def ns_train(data: Path, output: Path, *arguments: str, cache: Path) -> subprocess.CompletedProcess:
    command = [str(Path(sys.executable).with_name("ns-train")), "chopgrad-refine", "--data", str(data), "--output-dir",
               str(output), "--vis", "tensorboard", *TINY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(cache), timeout=500)


@pytest.fixture(scope="module")
def run(street, tmp_path_factory) -> Path:
    """Folder of a finished run on the street."""
    base = tmp_path_factory.mktemp("runs")
    done = ns_train(street, base, "--timestamp", "run", "waymo-v2", "--cameras", "FRONT", "FRONT_LEFT", cache=base / "cache")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return base / "street" / "chopgrad-refine" / "run"


def test_a_street_is_judged_by_camera_and_beside_its_lane(run):
    report = json.loads((run / "metrics.json").read_text())
    assert report["views"] == {"train": 8, "held_out": 8}
    stages = {"splat", "refined", "distilled"}
    assert set(report["held_out"]) == stages == set(report["moving"]) and set(report["lane_shift"]) == {"0", "2"}
    assert all(math.isfinite(value["psnr"]) and value["psnr"] > 8 for value in report["held_out"].values())
    lane = {shift: values["splat"]["psnr"] for shift, values in report["lane_shift"].items()}
    assert lane["0"] > lane["2"] + 0.1


def test_every_camera_is_shown_in_its_lane_and_beside_it(run):
    names = {path.stem for path in (run / "videos").glob("*.mp4")}
    kinds = {f"{kind}-{camera}{lane}" for kind in ("splat", "refined", "distilled", "before_after")
             for camera in ("FRONT", "FRONT_LEFT") for lane in ("", "-lane-3")}
    assert names == kinds
    on, beside = (imageio.imread(run / "videos" / f"splat-FRONT{lane}.mp4").astype(float) for lane in ("", "-lane-3"))
    assert on.shape == beside.shape and abs(on - beside).mean() > 3


def test_a_page_shows_each_camera_in_each_lane(run):
    page = open_run(run)
    assert {clip.name for clip in page.clips} == {"FRONT", "FRONT_LEFT", "FRONT-lane-3", "FRONT_LEFT-lane-3"}
    assert page.columns[-1].title == "PSNR, moving" and page.plots[0].title == "PSNR beside the recorded lane"
    lanes = json.loads((run / "metrics.json").read_text())["lane_shift"]
    assert page.plots[0].series[0].points == [(float(shift), lanes[shift]["splat"]["psnr"]) for shift in lanes]


def test_refined_trajectories_are_those_of_each_camera_in_each_lane(run, street):
    from chopgrad_ns.distill.store import PseudoObservations

    drive = read_waymo_v2(street, Selection(cameras=("FRONT", "FRONT_LEFT")))
    frames = {}
    for index in (1, 2):
        seen = PseudoObservations.load(run / "stages" / f"round-{index}.safetensors")
        lanes = 2 if index == 1 else 4
        assert len(seen) == 2 * lanes * 8 and seen.cameras.times is not None
        frames[index] = seen.cameras.centers.reshape(2, lanes, 8, 3)
    metre = (frames[2][0, 1] - frames[2][0, 0]).norm(dim=1).mean()
    for index, side in ((1, 1), (2, -1)):
        left = torch.from_numpy(drive.world_from_vehicle[0, :3, 1]).float()
        for camera in frames[index]:
            for lane in range(len(camera)):
                step = (camera[lane] - camera[0]) / metre
                torch.testing.assert_close(step @ left, torch.full((8,), float(side * lane)), atol=0.02, rtol=0)


def test_the_scene_graph_is_saved_in_metres(run, street):
    scene, drive = SceneGraph.load(run / "scene"), read_waymo_v2(street)
    assert set(scene.names()) <= {actor.name for actor in drive.actors} and len(scene.names()) >= 2
    sizes = {actor.name: actor.size for actor in drive.actors}
    for name, node in scene.nodes.items():
        torch.testing.assert_close(node.actor.size, sizes[name], atol=1e-5, rtol=0)
    center = torch.from_numpy(drive.world_from_vehicle[-1, :3, 3]).float()
    low, high = scene.background.bounding_box(0.9)
    assert (high - low)[0] > 10 and low[0] < center[0] < high[0] + 40


def test_nerfstudio_takes_the_result_for_a_splatfacto(run, tmp_path, monkeypatch):
    from nerfstudio.scripts.exporter import ExportGaussianSplat
    from nerfstudio.utils.eval_utils import eval_setup

    monkeypatch.setenv("XDG_CACHE_HOME", str(run.parents[2] / "cache"))
    _, pipeline, _, step = eval_setup(run / "config.yml")
    report = json.loads((run / "metrics.json").read_text())
    assert step == 60 + 2 * 6 - 1
    assert pipeline.get_average_eval_image_metrics()["psnr"] == pytest.approx(report["held_out"]["distilled"]["psnr"], abs=0.05)
    ExportGaussianSplat(load_config=run / "config.yml", output_dir=tmp_path).main()
    exported, = tmp_path.glob("*.ply")
    assert len(Gaussians.load(exported)) == report["gaussians"]["distilled"]


def spoiled(street: Path, folder: Path) -> Path:
    """The street with noise in the place of its held-out photos, and nothing in the place of their lidar sweeps."""
    poses = pq.read_table(next((street / "vehicle_pose").glob("*")))
    held_out = set(sorted(set(poses.column("key.frame_timestamp_micros").to_pylist()))[1::2])
    for path in street.glob("*/*.parquet"):
        table = pq.read_table(path)
        if path.parent.name in ("camera_image", "lidar"):
            rows = table.to_pylist()
            for row in rows:
                if row["key.frame_timestamp_micros"] not in held_out:
                    continue
                if path.parent.name == "camera_image":
                    noise = (torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
                    content = io.BytesIO()
                    Image.fromarray(noise).save(content, "JPEG")
                    row["[CameraImageComponent].image"] = content.getvalue()
                else:
                    for name, value in row.items():
                        if name.endswith(".values"):
                            row[name] = [-1.0] * len(value)
            table = pa.Table.from_pylist(rows, table.schema)
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / path.parent.name / path.name, row_group_size=1, write_page_checksum=True)
    return folder


def test_nothing_of_held_out_frames_reaches_training(street, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = []
    for path in (street, spoiled(street, tmp_path / "spoiled")):
        manager = open_recording(path, 2, WIDTH, "metric")
        views = manager.training_views()
        seeds = [part for seed in seeded_actors(manager.train_dataset.metadata) for part in (seed.points, seed.colors)]
        found.append([views.photos, views.points, views.colors, views.depths, views.cameras.camera_from_world, *seeds])
        truth = manager.held_out().photos
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert truth.std() > 0.17, "the held-out photos of the second are noise"
    with pytest.raises(ValueError, match="not in this part"):
        training = manager.train_dataset.metadata["training"]
        training.source.picture(next(photo for photo in manager.drive.photos if photo.frame == 1))
    assert len(training.source.points(1)) == 0 < len(training.source.points(2))


def test_a_drive_is_reconstructed_by_one_command(street, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    main(["reconstruct", str(street), "--output", str(tmp_path / "scene"), "--steps", "12", "--longest-side", str(WIDTH)])
    scene = SceneGraph.load(tmp_path / "scene")
    assert f"{len(scene.nodes)} actors" in capsys.readouterr().out and len(scene.nodes) >= 2


@pytest.mark.parametrize("arguments, every, words", [
    (["waymo-v2", "--cameras", "REAR"], None, "no camera REAR"), (["waymo-v2", "--first", "50"], None, "No frame"),
    (["waymo-v2", "--last", "1"], None, "leaves 1 to train on"), (["dgp"], None, "no DGP"), (["waymo-v2"], 0, "every"),
    (["waymo-v2", "--segment", "other"], None, "other"), (["kitti-odometry"], None, "KITTI"),
])
def test_bad_requests_are_refused_before_anything_is_made(street, arguments, every, words):
    config = copy.deepcopy(chopgrad_refine.config)
    config.data, config.refine.every = street, every
    config.pipeline.datamanager.dataparser = tyro.cli(AnyDataParser, args=arguments)
    with pytest.raises(UserError, match=words) as refusal:
        config._check()
    assert "\n" not in str(refusal.value)


def test_the_command_refuses_in_a_sentence(street, tmp_path):
    done = ns_train(street, tmp_path / "out", "waymo-v2", "--cameras", "REAR", cache=tmp_path / "cache")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2 and "Traceback" not in said and not (tmp_path / "out").exists(), said[-1500:]


def test_cameras_go_to_nerfstudios_world_and_back(street, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manager = open_recording(street, 2, WIDTH, None)
    views, metadata = manager.training_views(), manager.train_dataset.metadata
    metric = views_in_metres(views, metadata)
    photos = metadata["photos"]
    drive = metadata["drive"]
    for index in (0, len(photos) - 1):
        camera = drive.cameras[photos[index].camera].vehicle_from_camera
        expected = photos[index].vehicle_at(photos[index].middle) @ camera
        found = metric.cameras.world_from_camera[index].double()
        torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-4, rtol=0)
        assert metric.cameras.times[index] == pytest.approx(photos[index].middle, abs=1e-5)
    back = placed(metric.cameras, *in_metres(metadata))
    for name in ("camera_from_world", "motion", "readout"):
        torch.testing.assert_close(getattr(back, name), getattr(views.cameras, name), atol=1e-5, rtol=1e-5)
    speed = metric.cameras.motion[:, :3].norm(dim=1)
    assert (speed > 3).all() and isinstance(unplaced(back, *in_metres(metadata)), Cameras)


def test_a_real_recording_becomes_a_scene(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    main(["reconstruct", str(shared_data / "dgp" / "test_scene" / "scene_01"), "--output", str(tmp_path / "scene"), "--steps",
          "30", "--longest-side", "96"])
    assert len(SceneGraph.load(tmp_path / "scene").nodes) > 10


def test_pairs_of_a_drive_are_of_each_camera(street, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    views = open_recording(street, 2, WIDTH, None).training_views()
    pairs = list(fold_pairs(views, 2, FitSettings(steps=5), references=1))
    assert [pair.name for pair in pairs] == [f"fold-{fold}-{camera}" for fold in (0, 1)
                                             for camera in ("FRONT", "FRONT_LEFT", "FRONT_RIGHT")]
    for pair, camera in zip(pairs, views.rig.cameras() * 2):
        own = views.rig.of_camera(camera)
        assert torch.equal(pair.clean, views.photos[own]) and not (pair.valid > views.masks[own]).any()
