"""`chopgrad pairs`: data sets that are whole however often they are interrupted, here and on a Ray cluster."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from chopgrad_ns.cli.main import main
from chopgrad_ns.data.manifest import Manifest, read_manifest
from chopgrad_ns.data.pair_set import PairSet
from chopgrad_ns.data.stored import StoredPair
from tests.cli.refusals import refused
from tests.data.broken import BROKEN
from tests.data.test_stored import flip_byte

WORLDS = ["--frames", "6", "--width", "48", "--height", "32", "--sparse-every", "3", "--folds", "2", "--steps", "15",
          "--ways", "sparse", "folds", "--kinds", "objects"]
THREE = {f"objects-{seed}-{part}" for seed in (1000, 1001, 1002) for part in ("sparse-3", "fold-0", "fold-1")}


def arguments(output, *more) -> list[str]:
    return ["pairs", "--output", str(output), "--sample-worlds", "3", *WORLDS, *map(str, more)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Made without interruption."""
    folder = tmp_path_factory.mktemp("pairs") / "whole"
    main(arguments(folder))
    return folder


def same_pairs(folder, other):
    assert {path.name for path in folder.iterdir()} == {*THREE, "manifest.json"}
    for name in THREE:
        mine, theirs = StoredPair(folder / name), StoredPair(other / name)
        assert {**mine.about, "made": 0} == {**theirs.about, "made": 0}
        mine, theirs = mine.read(), theirs.read()
        for field in ("frames", "alpha", "depth", "references", "reference_masks"):
            assert torch.equal(getattr(mine.degraded, field), getattr(theirs.degraded, field)), (name, field)
        assert torch.equal(mine.clean, theirs.clean)
    listed = [pair["name"] for pair in read_manifest(folder)["pairs"]]
    assert len(listed) == len(set(listed)) and set(listed) == THREE


def test_manifest_tells_what_pairs_were_made_from(whole):
    manifest = read_manifest(whole)
    pair = {pair["name"]: pair for pair in manifest["pairs"]}["objects-1001-fold-1"]
    assert (pair["way"], pair["fold"], pair["folds"]) == ("folds", 1, 2)
    assert pair["scene"]["kind"] == "objects" and pair["scene"]["seed"] == 1001 and "Apache" in pair["scene"]["licence"]
    assert pair["fitted"] == ["00000", "00002", "00004"] and len(pair["cameras"]) == pair["frames"] == 6
    assert pair["settings"]["steps"] == 15 and pair["size"] == [32, 48]
    assert pair["bytes"] == sum(path.stat().st_size for path in (whole / pair["name"]).iterdir())
    assert [piece["state"] for piece in manifest["work"].values()] == ["done"] * 3
    assert str(Path.home()) not in (whole / "manifest.json").read_text()


def stamps(folder) -> dict[str, tuple]:
    """When each pair was written; another file in its place has another."""
    found = {}
    for path in folder.glob("objects-*/pair.json"):
        if path.parent.suffix != ".part":
            status = path.stat()
            found[path.parent.name] = status.st_mtime_ns, status.st_ino
    return found


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_nothing_is_done_again(whole):
    before = stamps(whole)
    main(arguments(whole))
    assert stamps(whole) == before
    main(arguments(whole, "--ways", "sparse"))  # less than there is: it stays
    assert stamps(whole) == before and len(read_manifest(whole)["pairs"]) == 9


def test_killed_and_given_again(whole, tmp_path):
    """No pair is missing, none made twice, and all are as without the kill."""
    command = [sys.executable, "-m", "chopgrad_ns.cli.main", *arguments(tmp_path / "out", "--workers", 2)]
    process = subprocess.Popen(command)
    wait_for(lambda: len(stamps(tmp_path / "out")) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # workers notice within that time
    before = stamps(tmp_path / "out")
    assert 2 <= len(before) < 9
    main(arguments(tmp_path / "out"))
    after = stamps(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    same_pairs(tmp_path / "out", whole)


def test_two_runs_in_one_folder(whole, capsys):
    """The second is refused for as long as the first is at work."""
    before = stamps(whole)
    with Manifest(whole):
        refused(capsys, *arguments(whole), message="Another chopgrad pairs is at work")
    main(arguments(whole))
    assert stamps(whole) == before


def test_damaged_and_missing_pairs_are_made_again(whole, tmp_path):
    import shutil

    shutil.copytree(whole, tmp_path / "out")
    flip_byte(tmp_path / "out" / "objects-1001-fold-0" / "pair.safetensors")
    shutil.rmtree(tmp_path / "out" / "objects-1002-fold-1")
    before = stamps(tmp_path / "out")
    main(arguments(tmp_path / "out"))
    after = stamps(tmp_path / "out")
    assert {name for name in after if after[name] != before.get(name)} == {"objects-1001-fold-0", "objects-1002-fold-1"}
    same_pairs(tmp_path / "out", whole)


def test_a_damaged_pair_is_left_out_of_training_and_the_exit_code_says_so(whole, tmp_path, capsys):
    import shutil

    shutil.copytree(whole, tmp_path / "out")
    flip_byte(tmp_path / "out" / "objects-1001-fold-0" / "pair.safetensors")
    shutil.rmtree(tmp_path / "out" / "objects-1002-fold-0")
    with pytest.raises(SystemExit) as caught:
        main(["finetune", "--pairs", str(tmp_path / "out"), "--output", str(tmp_path / "refiner"), "--steps", "1"])
    shown = capsys.readouterr().err
    assert caught.value.code == 3 and "2 of 9 pairs" in shown.splitlines()[-1]
    assert "objects-1001-fold-0 cannot be read" in shown and "objects-1002-fold-0 cannot be read" in shown
    assert (tmp_path / "refiner" / "model.safetensors").exists(), "trained on the others"


def make_scene(folder, *more):
    main(["sample", "objects", str(folder), "--frames", "8", "--width", "64", "--height", "48", *more])
    return folder


def test_captures_keep_what_is_held_out_to_themselves(tmp_path):
    scene = make_scene(tmp_path / "scene")
    (scene / "LICENSE.txt").write_text("MIT License\n\nAnybody may.")
    out = str(tmp_path / "out")
    small = ["--every", "2", "--longest-side", "48", "--steps", "10", "--sparse-every", "2", "--output", out]
    main(["pairs", "--data", str(scene), "--ways", "sparse", "folds", "underfit", *small])
    pairs = read_manifest(tmp_path / "out")["pairs"]
    assert {pair["name"] for pair in pairs} == {"scene-sparse-2", "scene-fold-0", "scene-fold-1", "scene-fold-2",
                                                "scene-underfit-100-2000"}
    training = [f"images/{index:05d}.png" for index in (0, 2, 4, 6)]
    assert all(pair["cameras"] == training and set(pair["fitted"]) <= set(training) for pair in pairs)
    assert all(pair["scene"]["licence"] == "see LICENSE.txt: MIT License" for pair in pairs)
    # Garbage in the held-out photos reaches nothing.
    noisy = make_scene(tmp_path / "noisy" / "scene")
    (noisy / "LICENSE.txt").write_text("MIT License\n\nAnybody may.")
    from PIL import Image
    for index in (1, 3, 5, 7):
        path = noisy / "images" / f"{index:05d}.png"
        Image.effect_noise((64, 48), 90).convert("RGB").save(path)
    main(["pairs", "--data", str(noisy), "--ways", "folds", *small[:-1], str(tmp_path / "other")])
    for part in ("fold-0", "fold-1"):
        mine, other = (StoredPair(tmp_path / name / f"scene-{part}").read() for name in ("out", "other"))
        assert torch.equal(mine.degraded.frames, other.degraded.frames) and torch.equal(mine.clean, other.clean)
    main(["pairs", "--data", str(scene), "--ways", "sparse", "--views", "all", *small[:-1], str(tmp_path / "all")])
    assert len(read_manifest(tmp_path / "all")["pairs"][0]["cameras"]) == 8


def test_cameras_of_a_rig(tmp_path):
    scene = make_scene(tmp_path / "scene")
    about = json.loads((scene / "transforms.json").read_text())
    for index, frame in enumerate(about["frames"]):
        old, camera = scene / frame["file_path"], "left" if index % 2 else "right"
        frame["file_path"] = f"images/{camera}/{old.name}"
        (scene / "images" / camera).mkdir(exist_ok=True)
        old.rename(scene / frame["file_path"])
    (scene / "transforms.json").write_text(json.dumps(about))
    main(["pairs", "--data", str(scene), "--ways", "cameras", "sparse", "--views", "all", "--longest-side", "48", "--steps", "10",
          "--sparse-every", "2", "--output", str(tmp_path / "out")])
    pairs = {pair["name"]: pair for pair in read_manifest(tmp_path / "out")["pairs"]}
    assert set(pairs) == {"scene-without-left", "scene-without-right", "scene-sparse-2-left", "scene-sparse-2-right"}
    held = pairs["scene-without-left"]
    assert all("/left/" in name for name in held["cameras"]) and all("/right/" in name for name in held["fitted"])


def test_cameras_are_told_apart_by_all_of_their_folders(tmp_path):
    from chopgrad_ns.cli.scenes import named_views

    scene = make_scene(tmp_path / "scene")
    assert named_views(scene, 2, 64, None, hold_out=False).cameras == ["."] * 8
    about = json.loads((scene / "transforms.json").read_text())
    for index, frame in enumerate(about["frames"]):
        old = scene / frame["file_path"]
        frame["file_path"] = f"./cam{index % 2}/rgb/{old.name}"
        (scene / frame["file_path"]).parent.mkdir(parents=True, exist_ok=True)
        old.rename(scene / frame["file_path"])
    (scene / "transforms.json").write_text(json.dumps(about))
    named = named_views(scene, 2, 64, None, hold_out=False)
    assert named.cameras == ["cam0-rgb"] * 4 + ["cam1-rgb"] * 4 and named.names[0] == "cam0/rgb/00000.png"


def test_output_may_lie_in_the_scene(tmp_path):
    scene = make_scene(tmp_path / "scene")
    command = ["pairs", "--data", str(scene), "--output", str(scene / "pairs"), "--every", "2", "--folds", "2", "--longest-side", "48",
               "--steps", "5"]
    main(command)
    before = {path: path.stat().st_mtime_ns for path in scene.glob("pairs/*/pair.json")}
    main(command)
    assert len(before) == 2 and {path: path.stat().st_mtime_ns for path in scene.glob("pairs/*/pair.json")} == before


def test_what_was_made_before_a_failure_counts(tmp_path, capsys):
    """A pair of that name, but of other settings, is in the way of the last fold."""
    scene = make_scene(tmp_path / "scene")
    command = ["pairs", "--data", str(scene), "--output", str(tmp_path / "out"), "--every", "2", "--longest-side", "48"]
    main([*command, "--folds", "2", "--steps", "5"])
    import shutil
    shutil.rmtree(tmp_path / "out" / "scene-fold-0")
    refused(capsys, *command, "--folds", "2", "--steps", "6", message="scene-fold-1 was made with other settings")
    assert {pair["name"] for pair in read_manifest(tmp_path / "out")["pairs"]} == {"scene-fold-0", "scene-fold-1"}
    assert StoredPair(tmp_path / "out" / "scene-fold-0").about["settings"]["steps"] == 6


def test_one_bad_scene_among_good_ones(tmp_path, capsys):
    good, bad = make_scene(tmp_path / "good"), make_scene(tmp_path / "bad")
    path = bad / "images" / "00004.png"
    path.write_bytes(path.read_bytes()[:300])  # its size can be read, its pixels cannot
    small = ["--every", "2", "--longest-side", "48", "--steps", "5", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as caught:
        main(["pairs", "--data", str(bad), str(good), "--folds", "2", *small])
    shown = capsys.readouterr().err
    assert caught.value.code == 3 and "1 of 2 sources" in shown and "Left out bad" in shown and "00004.png" in shown
    manifest = read_manifest(tmp_path / "out")
    assert {pair["scene"]["name"] for pair in manifest["pairs"]} == {"good"}
    assert sorted(piece["state"] for piece in manifest["work"].values()) == ["done", "failed"]
    assert len(PairSet(tmp_path / "out")) == 2


def test_refusals(whole, tmp_path, capsys):
    out = tmp_path / "out"
    refused(capsys, "pairs", "--output", out, message="nothing to make pairs from")
    refused(capsys, "pairs", "--output", out, "--data", tmp_path / "nowhere", message="no folder")
    refused(capsys, "pairs", "--output", out, "--sample-worlds", 1, "--folds", 1, message="--folds is 1")
    refused(capsys, "pairs", "--output", out, "--sample-worlds", 1, "--workers", -1, message="--workers is -1")
    refused(capsys, "pairs", "--output", out, "--sample-worlds", 1, "--first-seed", -5, message="--first-seed is -5")
    refused(capsys, "pairs", "--output", out, "--sample-worlds", 1, "--sparse-every", 0, message="--sparse-every is 0")
    scene = make_scene(tmp_path / "scene")
    make_scene(tmp_path / "more" / "scene")
    refused(capsys, "pairs", "--output", out, "--data", scene, tmp_path / "more" / "scene", message="Two sources are called scene")
    assert not out.exists()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text('{"format": 1, "pairs": [{"name": "../x"}], "work": {}}')
    refused(capsys, *arguments(tmp_path / "broken"), message="is not the name of a folder")
    with pytest.raises(SystemExit) as caught:
        main(arguments(whole, "--steps", "16", "--ways", "sparse"))
    assert caught.value.code == 2 and "made with other settings" in capsys.readouterr().err


def busy_workers() -> list[int]:
    """Ray's workers that are at it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_outcome"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_on_a_ray_cluster_of_two_nodes_whose_worker_is_killed(whole, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # what makes Ray stay on the loopback interface
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
    cluster = Cluster()
    try:
        cluster.add_node(**node)
        cluster.add_node(**node)
        command = [sys.executable, "-m", "chopgrad_ns.cli.main", *arguments(tmp_path / "out", "--ray", cluster.address)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: len(stamps(tmp_path / "out")) >= 2 and busy_workers() or process.poll() is not None)
        assert process.poll() is None, process.stderr.read()
        before = stamps(tmp_path / "out")
        os.kill(busy_workers()[0], signal.SIGKILL)
        assert process.wait(timeout=120) == 0, process.stderr.read()
    finally:
        cluster.shutdown()
    after = stamps(tmp_path / "out")
    assert len(before) < 9 and {name: after[name] for name in before} == before
    same_pairs(tmp_path / "out", whole)


@pytest.fixture
def video(tmp_path):
    """Two shots of 9 and 7 frames."""
    from chopgrad_ns.data.video import write_video

    generator = torch.Generator().manual_seed(0)
    shots = [torch.nn.functional.interpolate(torch.rand(1, 3, 6, 9, generator=generator), (64, 96), mode="bicubic").clamp(0, 1)
             for _ in range(2)]
    frames = torch.cat([shot.roll(step, -1) for shot, count in zip(shots, (9, 7)) for step in range(count)])
    write_video(tmp_path / "videos" / "two-shots.mp4", frames, 10)
    return tmp_path / "videos" / "two-shots.mp4"


def test_pairs_of_a_video(video, tmp_path):
    from chopgrad_ns.data.plain_videos import open_video

    out = tmp_path / "out"
    command = ["pairs", "--output", str(out), "--videos", str(video.parent), "--clip-frames", "4", "--degradation", "bicubic",
               "second-order", "--scale", "2", "--licence", "CC0", "--masks", "brush", "central"]
    main(command)
    pairs = {pair["name"]: pair for pair in read_manifest(out)["pairs"]}
    kinds = ("bicubic-x2", "second-order-x2", "brush-masks", "central-masks")
    assert set(pairs) == {f"two-shots-{kind}-{first:05d}" for kind in kinds for first in (0, 4, 9)}, "none across the cut"
    truth = open_video(video).read(9, 4)
    for kind in kinds:
        entry, pair = pairs[f"two-shots-{kind}-00009"], StoredPair(out / f"two-shots-{kind}-00009").read()
        assert torch.equal(pair.clean, truth) and entry["from_frame"] == 9 and entry["scene"]["licence"] == "CC0"
        if "masks" in kind:
            mask = pair.degraded.mask
            assert entry["way"] == "inpainting" and set(mask.unique().tolist()) == {0, 1}
            outside = (mask == 0).expand_as(truth)
            assert torch.equal(pair.degraded.frames[outside], truth[outside]) and not torch.equal(pair.degraded.frames, truth)
        else:
            assert entry["way"] == "super-resolution" and pair.degraded.frames.shape == (4, 3, 32, 48) and pair.scale == (2, 2)
    assert not torch.equal(StoredPair(out / "two-shots-brush-masks-00000").read().degraded.mask,
                           StoredPair(out / "two-shots-brush-masks-00004").read().degraded.mask)
    drawn = StoredPair(out / "two-shots-second-order-x2-00000").about["made"]
    assert drawn["scale"] == 2 and len(drawn["rounds"]) == 2
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/pair.json")}
    main(command)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/pair.json")} == before


def test_every_video_has_holes_of_its_own(video, tmp_path):
    import shutil

    shutil.copy(video, video.parent / "same.mp4")
    main(["pairs", "--output", str(tmp_path / "out"), "--videos", str(video.parent), "--clip-frames", "7", "--masks", "brush",
          "--degradation", "first-order", "--scale", "2"])
    for part in ("brush-masks-00000", "first-order-x2-00000"):
        mine, other = (StoredPair(tmp_path / "out" / f"{name}-{part}").read() for name in ("two-shots", "same"))
        assert torch.equal(mine.clean, other.clean)
        assert not torch.equal(mine.degraded.frames, other.degraded.frames)


def test_object_masks_of_a_video(video, tmp_path, capsys):
    from PIL import Image

    command = ["pairs", "--output", str(tmp_path / "out"), "--videos", str(video), "--clip-frames", "4", "--tasks", "inpainting",
               "--masks", "box", "--mask-margin", "0", "--object-masks", str(tmp_path / "masks")]
    refused(capsys, *command, message="no folder")
    folder = tmp_path / "masks" / "two-shots"
    folder.mkdir(parents=True)
    for index in range(16):
        picture = Image.new("L", (96, 64))
        if index < 6:
            picture.paste(7, (index, 10, index + 20, 30))
        picture.save(folder / f"{index:05d}.png")
    main(command)
    names = {pair["name"] for pair in read_manifest(tmp_path / "out")["pairs"]}
    objects = {name for name in names if "object" in name}
    assert objects == {"two-shots-object-masks-00000", "two-shots-object-masks-00004"}, "frames 9 to 12 show no object"
    mask = StoredPair(tmp_path / "out" / "two-shots-object-masks-00004").read().degraded.mask
    assert mask.sum(dim=(1, 2, 3)).tolist() == [400, 400, 0, 0]


def test_a_video_that_is_none(video, tmp_path, capsys):
    (video.parent / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(SystemExit) as caught:
        main(["pairs", "--output", str(tmp_path / "out"), "--videos", str(video.parent), "--clip-frames", "7", "--tasks",
              "inpainting", "--masks", "box"])
    shown = capsys.readouterr().err
    assert caught.value.code == 3 and "Left out broken" in shown and "1 of 2 sources" in shown
    assert len(read_manifest(tmp_path / "out")["pairs"]) == 2
    refused(capsys, "pairs", "--output", tmp_path / "none", "--videos", video, "--clip-frames", 10, message="give a smaller --clip-frames")
    assert read_manifest(tmp_path / "none")["pairs"] == []


def test_refiners_train_on_pairs_of_their_task_alone(video, tmp_path, capsys):
    command = ["pairs", "--output", str(tmp_path / "out"), "--videos", str(video), "--clip-frames", "7", "--degradation", "bicubic",
               "--masks", "box"]
    main([*command, "--tasks", "super-resolution"])
    training = ["finetune", "--pairs", tmp_path / "out", "--steps", 1, "--buckets", "5x16x16", "--output"]
    refused(capsys, *training, tmp_path / "refiner", "--task", "inpainting", message="they are for super-resolution")
    main(command)
    for task, other in (("inpainting", "super-resolution"), ("super-resolution", "inpainting")):
        main(list(map(str, [*training, tmp_path / task, "--task", task])))
        assert f"2 of 4 pairs are for {other}" in capsys.readouterr().out


def test_actors_of_a_street_are_cut_out_and_put_back(tmp_path, capsys):
    """The written scene, which nerfstudio moves and scales, gives the same actors as the world in memory."""
    from chopgrad_ns.cli.scenes import named_views
    from chopgrad_ns.data.boxes import box_depth, from_actor

    small = ["--frames", "10", "--width", "96", "--height", "64"]
    main(["sample", "street", str(tmp_path / "drive"), "--seed", "1", "--layout", "nerfstudio", *small])
    named = named_views(tmp_path / "drive", 8, 96, None, hold_out=False, with_actors=True)
    assert len(named.views) == 10 and named.views.masks is not None and not named.views.masks.all()
    inside, seen = 0, 0
    for index, actor in enumerate(named.actors):
        own = (named.actor_ids == index + 1) & actor.present[:, None, None, None]
        box = torch.isfinite(box_depth(1.05 * actor.size, from_actor(actor, named.views.cameras)))
        inside, seen = inside + int((own & box).sum()), seen + int(own.sum())
    assert seen > 500 and inside > 0.99 * seen, "ids lie where boxes are"
    steps = ["--steps", "40", "--ways", "actors"]
    main(["pairs", "--output", str(tmp_path / "out"), "--data", str(tmp_path / "drive"), "--views", "all", "--longest-side", "96",
          *steps])
    (entry,) = read_manifest(tmp_path / "out")["pairs"]
    pair = StoredPair(tmp_path / "out" / "drive-actors").read()
    assert entry["way"] == "actors" and entry["actors"] == [actor.name for actor in named.actors]
    assert torch.equal(pair.degraded.actor_ids, named.actor_ids) and (pair.degraded.mask > 0.5).sum() > 200
    assert torch.equal(pair.clean, (named.views.photos * 255).round() / 255)
    assert "drive-actors: 9 actors were not cut out" in capsys.readouterr().err and len(entry["made"]["skipped"]) == 9
    refused(capsys, "pairs", "--output", tmp_path / "none", "--sample-worlds", 1, "--kinds", "objects", *small, *steps,
            message="no actors to cut out")
    again = ["pairs", "--output", tmp_path / "none", "--data", tmp_path / "drive", "--views", "all", *steps]
    about = (tmp_path / "drive" / "transforms.json").read_text()
    (tmp_path / "drive" / "transforms.json").write_text(about.replace('"k1": 0.0', '"k1": 0.1'))
    refused(capsys, *again, message="have lens distortion (k1)")
    (tmp_path / "drive" / "transforms.json").write_text(about)
    actors = json.loads((tmp_path / "drive" / "actors.json").read_text())
    (tmp_path / "drive" / "actors.json").write_text(json.dumps(actors | {"actors": actors["actors"][:1]}))
    refused(capsys, *again, message="actors.json has 1;")
    (tmp_path / "drive" / "actor_ids" / "00003.png").write_bytes(BROKEN["bomb"])
    refused(capsys, *again, message="00003.png cannot be read")
