"""`chopgrad report`: what of runs comes onto the page, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chopgrad_ns.cli.main import main
from chopgrad_ns.data.plain_videos import open_video
from chopgrad_ns.data.video import read_frames, write_frames
from chopgrad_ns.evaluate.comparison import FILE, Comparison
from chopgrad_ns.evaluate.metrics import psnr
from chopgrad_ns.evaluate.page import open_run
from chopgrad_ns.evaluate.page.plots import of_distance
from tests.cli.refusals import refused
from tests.evaluate.clips import disc, noisy_clip

PROFILES = Path(__file__).resolve().parents[2] / "docs" / "profile"
TAG = "<b>&</script>"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Clips a (with a mask) and b (with distances); the method called by a tag was given b alone."""
    made = Comparison(tmp_path_factory.mktemp("of") / "comparison", f"Noise {TAG}",
                      "python compare.py --work /home/someone/work")
    made.metrics = ["psnr", "flicker"]
    made.add_method("raw", "input", "as it was")
    made.add_method("half", TAG, "")
    for index, name in enumerate("ab"):
        noisy, truth = noisy_clip(3 + index, (40, 48), noise=0.2, seed=index)
        made.add_clip(name, truth, fps=6, mask=disc(truth) if name == "a" else None,
                      distance=[3.0, 1.0, 2.0, 0.0] if name == "b" else None, names=[f"view {n}" for n in range(len(truth))])
        made.add_frames(name, "raw", noisy, seconds=0.5)
        if name == "b":
            made.add_frames(name, "half", 0.5 * (noisy + truth))
    made.add_curve(f"training {TAG}", "steps", "loss", {"a": [(0, 1), (1, 0.5)]})
    made.finish()
    return made


@pytest.fixture
def copied(comparison, tmp_path):
    return shutil.copytree(comparison.folder, tmp_path / "copied")


@pytest.fixture
def added(comparison, tmp_path):
    """What another program made of the clips: the truth, darker."""
    for name, inside in {"a": "", "b": "frames"}.items():
        write_frames(tmp_path / "theirs" / name / inside, 0.8 * comparison.truth(name))
    return tmp_path / "theirs"


def report(output, *arguments):
    """What the page is told."""
    main(["report", *map(str, arguments), "-o", str(output)])
    text = (output / "data.js").read_text()
    assert text.startswith("window.REPORT = ") and text.endswith(";\n")
    return json.loads(text.removeprefix("window.REPORT = ").removesuffix(";\n"))


def pictures(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


def test_a_comparison(comparison, tmp_path):
    found = report(tmp_path / "page", comparison.folder)
    run, = found["runs"]
    assert run["title"] == f"Noise {TAG}" and [method["label"] for method in run["methods"]] == ["input", TAG, "truth"]
    assert run["measuredOn"] == "Means over 2 clips, those inside over the 1 with masks"
    assert run["truth"] == 2 and run["about"][0] == "Made by: python compare.py --work work"
    first, second = run["clips"]
    assert first["names"] == ["view 0", "view 1", "view 2"] and (first["width"], first["height"], first["fps"]) == (48, 40, 6)
    assert set(first["sides"]) == {"0", "2"} and set(second["sides"]) == {"0", "1", "2"}
    for clip in run["clips"]:
        for number, name in {"0": "raw", "2": "truth"}.items():
            expected = (read_frames(comparison.frames(clip["name"], name))[1] * 255).round().byte().permute(0, 2, 3, 1)
            assert np.array_equal(pictures(tmp_path / "page" / clip["sides"][number]), expected.numpy()), "nothing is lost"
    values = comparison.results("raw").clips["a"].values
    assert first["values"]["0"][0] == [f"{value:.2f}" for value in values["whole"]["psnr"]]
    assert first["values"]["0"][3][0] == "–", "no flicker in the first frame"
    assert [column["title"] for column in run["columns"]] == ["PSNR", "flicker", "PSNR, inside", "flicker, inside",
                                                              "seconds a frame"]
    assert [row["label"] for row in run["rows"]] == ["input", f"{TAG} (1 of 2 clips)"]
    assert [[cell["best"] for cell in row["cells"]][:2] for row in second["rows"]] == [[False, False], [True, True]]
    assert [plot["title"] for plot in run["plots"]] == ["PSNR over view distance", f"training {TAG}"]


def test_nothing_in_the_files_is_of_this_machine_or_could_be_a_tag(comparison, tmp_path):
    report(tmp_path / "page", comparison.folder)
    text = (tmp_path / "page" / "data.js").read_text()
    assert "<" not in text and str(tmp_path) not in text and "/home" not in text
    for path in (tmp_path / "page").glob("*.*"):
        assert "http:" not in path.read_text().replace("http://www.w3.org/2000/svg", "") and "https:" not in path.read_text()


def test_quality_over_distance(comparison):
    raw, half = of_distance(comparison, "psnr").series
    values = comparison.results("raw").clips["b"].values["whole"]["psnr"]
    assert raw.points == [(1.5, pytest.approx(values.mean()))] and half.label == TAG, "four views are one group"
    again = Comparison.read(comparison.folder)
    again.clips["b"].distance = None
    assert of_distance(again, "psnr") is None


def test_groups_of_neighbours_in_distance(comparison):
    again = Comparison.read(comparison.folder)
    del again.clips["a"]
    clip = again.clips["b"]
    clip.distance = np.random.default_rng(0).permutation(50).tolist()
    psnrs = np.array([float("nan") if far == 7 else 40 - far for far in clip.distance])
    for found in clip.values.values():
        found.values["whole"]["psnr"] = psnrs
    points = of_distance(again, "psnr").series[0].points
    assert len(points) == 8 and all(y == pytest.approx(40 - x) for x, y in points) and points == sorted(points)
    assert sum(x for x, _ in points) / 8 == pytest.approx((sum(range(50)) - 7) / 49, abs=0.5)


def test_frames_of_another_program(comparison, added, tmp_path):
    run, = report(tmp_path / "page", comparison.folder, "--add", f"Difix {TAG}={added}")["runs"]
    assert [method["label"] for method in run["methods"]] == ["input", TAG, "truth", f"Difix {TAG}"]
    for clip in run["clips"]:
        truth = comparison.truth(clip["name"])
        expected = psnr((0.8 * truth * 255).round() / 255, truth)
        assert clip["values"]["3"][0] == [f"{value:.2f}" for value in expected]
        assert clip["rows"][-1]["label"] == f"Difix {TAG}"
        assert np.array_equal(pictures(tmp_path / "page" / clip["sides"]["3"])[0],
                              (0.8 * truth[0] * 255).round().byte().permute(1, 2, 0).numpy())
    assert run["rows"][-1]["label"] == f"Difix {TAG}" and len(run["plots"][0]["series"]) == 3
    assert json.loads((comparison.folder / FILE).read_text())["methods"][-1]["name"] == "half", "the run stays as it was"


def test_frames_that_do_not_fit_are_refused(comparison, added, tmp_path, capsys):
    page = tmp_path / "page"
    again = lambda message, *more, add=f"x={added}": refused(  # noqa: E731
        capsys, "report", comparison.folder, *more, "-o", page, "--add", add, message=message)
    (added / "b" / "frames" / "00003.png").rename(tmp_path / "kept.png")
    again("frames has 3 frames of 48×40 px and clip b of Noise")
    Image.new("RGB", (48, 41)).save(added / "b" / "frames" / "00003.png")
    again("is 48×41 px, the first one 48×40")
    write_frames(added / "a", torch.zeros(3, 3, 40, 50))
    again("a has 3 frames of 50×40 px and clip a of Noise")
    shutil.rmtree(added / "a")
    again("There are no PNG or JPEG frames of clip a in")
    again("does not understand", add="theirs")
    again("does not understand", add="x=/nowhere")
    again("has a method called 'input'; add the frames by another name", add=f"input={added}")
    again("--add needs one RUN with clips, and 2 of those given have any", comparison.folder)
    assert not page.exists() and not list(tmp_path.glob("*.part"))


def test_what_refine_wrote(tmp_path, capsys):
    frames = noisy_clip(5, (30, 45))[0]
    write_frames(tmp_path / "odd", frames)
    main(["refine", str(tmp_path / "odd"), "--output", str(tmp_path / "refined"), "--fps", "7"])
    run, = report(tmp_path / "page", tmp_path / "refined")["runs"]
    clip, = run["clips"]
    assert run["title"] == "refined" and [method["label"] for method in run["methods"]] == ["input", "refined"]
    assert run["truth"] is None and run["rows"] == [] and clip["fps"] == 7 and (clip["width"], clip["height"]) == (45, 30)
    shown, given = (pictures(tmp_path / "page" / clip["sides"][side]) for side in "10")
    assert np.array_equal(shown, np.stack(list(open_video(tmp_path / "refined" / "frames").pictures())))
    assert given.shape == shown.shape == (5, 30, 45, 3) and "compressed videos" in clip["note"]
    wanted = (frames * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(given - wanted).mean() < 12 < np.abs(given[::-1] - wanted).mean(), "the left half, frame by frame"
    (tmp_path / "refined" / "frames" / "00004.png").unlink()
    capsys.readouterr()
    refused(capsys, "report", tmp_path / "refined", "-o", tmp_path / "page", message="does not show the frames in")
    assert (tmp_path / "page" / "index.html").exists(), "what was there before stays"


def test_profiles(tmp_path):
    cost, error = report(tmp_path / "page", PROFILES / "h100-wan2.1-480x832", PROFILES / "cpu-wan2.1-trained")["runs"]
    memory, seconds = cost["plots"]
    told = json.loads((PROFILES / "h100-wan2.1-480x832" / "profile.json").read_text())["cost"]
    expected = [[row["frames"], row["peak_bytes"] / 2**30] for row in told if row["method"] == "exact" and row["peak_bytes"]]
    assert [series["points"] for series in memory["series"] if series["label"] == "exact"] == [expected]
    assert len(seconds["series"]) == len(memory["series"]) > 5 and len(cost["about"]) == 4
    window = {series["label"]: series["points"] for series in error["plots"][1]["series"]}
    assert [x for x, _ in window["latents, truncated"]] == [0, 1, 2, 4]
    assert window["latents, truncated"][1][1] == pytest.approx(0.905, abs=1e-3)
    assert error["plots"][2]["log"] and error["clips"] == []


def test_smaller_pictures(comparison, tmp_path):
    whole = report(tmp_path / "page", comparison.folder)
    lossy = report(tmp_path / "small", comparison.folder, "--quality", "20")
    size = lambda folder: sum(path.stat().st_size for path in folder.rglob("*.webp"))  # noqa: E731
    assert size(tmp_path / "small") < size(tmp_path / "page") / 3
    assert whole["quality"] is None and lossy["quality"] == 20


def test_output_is_whole_and_nothing_else_is_replaced(copied, tmp_path, capsys):
    page = tmp_path / "page"
    report(page, copied)
    first = (page / "data.js").read_text()
    damaged = copied / "clips" / "b" / "raw" / "00003.png"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    refused(capsys, "report", copied, "-o", page, message="00003.png cannot be read")
    assert (page / "data.js").read_text() == first and not list(tmp_path.glob("*.part"))
    damaged.unlink()
    refused(capsys, "report", copied, "-o", page, message="does not hold the 4 frames that comparison.json tells of")
    refused(capsys, "report", copied, "-o", copied, message="which is to be read")
    (page / "notes.txt").touch()
    refused(capsys, "report", copied, "-o", page, message="page holds notes.txt, which no report wrote")
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("mine")
    refused(capsys, "report", copied, "-o", site, message="site holds index.html, which no report wrote")
    refused(capsys, "report", copied, "-o", site / "index.html", message="is a file, where a folder is to be written")


@pytest.mark.parametrize("name, content", [
    ("metrics.json", "{}"), ("metrics.json", "no JSON"), ("metrics.json", '{"held_out": {"splat": {"psnr": "<b>"}}}'),
    ("profile.json", "{}"), ("profile.json", "[]"),
    ("profile.json", '{"command": "", "decoder": "", "machine": "", "cost": [{}]}'),
    ("profile.json", '{"command": "", "decoder": "", "machine": "", "cost": [], "error": [], '
                     '"influence": [{"distance": 1, "influence": Infinity}]}'),
    ("profile.json", '{"command": "", "decoder": "", "machine": "", "cost": [], "error": [], '
                     '"influence": [{"distance": 1, "influence": 1}], "decay": {"alpha": 1, "C": -1}}'),
])
def test_damaged_runs_are_refused(tmp_path, capsys, name, content):
    (tmp_path / "run" / "videos").mkdir(parents=True)
    (tmp_path / "run" / name).write_text(content)
    refused(capsys, "report", tmp_path / "run", "-o", tmp_path / "page", message=name)


def test_what_is_no_run_is_refused(tmp_path, capsys):
    Comparison(tmp_path / "begun", "", "")
    refused(capsys, "report", tmp_path / "begun", "-o", tmp_path / "page", message="Nothing has been compared in")
    (tmp_path / "unfinished" / "videos").mkdir(parents=True)
    (tmp_path / "unfinished" / "videos" / "before_after.mp4").touch()
    for folder in (tmp_path, tmp_path / "unfinished"):
        refused(capsys, "report", folder, "-o", tmp_path / "page", message="has nothing for a report; give folders of")
    (tmp_path / "unfinished" / "metrics.json").write_text(
        '{"held_out": {"splat": {}, "refined": {}, "distilled": {}}, "views": {"held_out": 1}}')
    refused(capsys, "report", tmp_path / "unfinished", "-o", tmp_path / "page", message="There is no splat.mp4 in")
    refused(capsys, "report", "-o", tmp_path / "page", message="There is nothing to report")
    refused(capsys, "report", tmp_path, "-o", tmp_path / "page", "--quality", 0, message="--quality is 0; give 1 to 100")
    assert open_run(PROFILES / "cpu-wan2.2").plots
