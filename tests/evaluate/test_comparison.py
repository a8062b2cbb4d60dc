"""Methods compared on clips: numbers against plain float64, the table, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from chopgrad_ns.data.video import read_frames
from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.comparison import FILE, Comparison
from chopgrad_ns.evaluate.table import Column, Row, best, markdown
from tests.evaluate.clips import disc, noisy_clip


def psnr(prediction, truth, where=None):
    """Of each frame, written out."""
    values = []
    for t, (frame, true) in enumerate(zip(prediction.double(), truth.double())):
        error = ((frame * 255).round() / 255 - (true * 255).round() / 255) ** 2
        values.append(-10 * float((error if where is None else error[:, where[t, 0]]).mean().log10()))
    return values


@pytest.fixture(scope="module")
def clips():
    """By name what a poor and a better method make of it, and the truth."""
    found = {}
    for index, name in enumerate(("a", "b")):
        poor, truth = noisy_clip(3 + index, (40, 48), noise=0.1, seed=index)
        truth = truth.clamp(0, 1)
        found[name] = poor, 0.5 * (poor + truth), truth
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory, clips):
    """The folder of a comparison that was finished."""
    comparison = Comparison(tmp_path_factory.mktemp("of") / "comparison", "Two ways",
                            "python scripts/compare.py --work=/some/where/work /some/one else/3/4 'out/put'")
    comparison.add_method("raw", "input", "nothing is done")
    comparison.add_method("half", "half | way", "half of the noise is taken away")
    for name, (poor, better, truth) in clips.items():
        comparison.add_clip(name, truth, fps=6, mask=disc(truth) if name == "a" else None,
                            distance=range(len(truth)) if name == "b" else None)
        comparison.add_frames(name, "raw", poor)
        comparison.add_frames(name, "half", better, seconds=2.0)
    comparison.add_curve("how it goes", "steps", "loss", {"mine": [(0, 1), (1, 0.5)]})
    comparison.finish()
    return comparison.folder


@pytest.fixture
def again(written, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(written, tmp_path / "again")


def test_values_of_frames(written, clips):
    content = json.loads((written / FILE).read_text())
    for told, (name, (poor, _, truth)) in zip(content["clips"], clips.items()):
        found = told["results"]["raw"]["regions"]
        assert told["name"] == name and told["size"] == [48, 40] and told["fps"] == 6
        assert found["whole"]["psnr"]["per_frame"] == pytest.approx(psnr(poor, truth), abs=1e-3)
        assert found["whole"]["flicker"]["per_frame"][0] is None and found["whole"]["flicker"]["per_frame"][1] > 0
        if name == "a":
            assert found["inside"]["psnr"]["per_frame"] == pytest.approx(psnr(poor, truth, disc(truth)), abs=1e-3)
            assert found["inside"]["psnr"] != found["whole"]["psnr"]
        else:
            assert set(found) == {"whole"} and told["distance"] == [0, 1, 2, 3]
    assert content["summary"]["raw"]["whole"]["psnr"]["mean"] == pytest.approx(
        np.mean([np.mean(psnr(poor, truth)) for poor, _, truth in clips.values()]), abs=1e-3)
    assert content["command"] == "python scripts/compare.py --work=work one else/3/4 'out/put'"


def test_frames_are_there_as_they_were_given(written, clips):
    for name, (poor, better, truth) in clips.items():
        for method, frames in {"raw": poor, "half": better, "truth": truth}.items():
            assert torch.equal(read_frames(written / "clips" / name / method)[1], (frames * 255).round() / 255)


def test_table(written, clips):
    lines = Comparison.read(written).table().splitlines()
    head, raw, half = ([cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")] for line in
                       (lines[0], lines[2], lines[3]))
    assert head[:3] == ["method", "PSNR ↑", "SSIM ↑"] and head[4:8] == ["flicker ↓", "PSNR, inside ↑", "SSIM, inside ↑",
                                                                        head[3].replace(" ↓", ", inside ↓")]
    assert head[-1] == "seconds a frame" and len(head) == len(raw) == len(half) == 10
    assert raw[0] == "input" and half[0] == "half ¦ way"
    expected = np.mean([np.mean(psnr(poor, truth)) for poor, _, truth in clips.values()])
    assert raw[1] == f"{expected:.2f}" and all(cell.startswith("**") for cell in half[1:-1])
    assert raw[-1] == "–" and half[-1] == f"{4 / 7:.3f}"


def test_what_was_read_can_be_added_to(again, clips):
    comparison = Comparison.read(again)
    poor, _, truth = clips["a"]
    comparison.add_method("best", "<b>", "the truth")
    comparison.add_frames("a", "best", truth)
    comparison.add_frames("a", "raw", 0.8 * poor)
    comparison.add_curve("how it goes", "steps", "loss", {"mine": [(0, 2)]})
    comparison.finish()
    after = Comparison.read(again)
    assert after.results("raw").clips["a"].values["whole"]["psnr"] == pytest.approx(psnr(0.8 * poor, truth), abs=1e-3)
    assert after.curves[0].series == {"mine": [[0, 2]]} and len(after.curves) == 1
    last = after.table().splitlines()[-1]
    assert "&lt;b> (1 of 2 clips)" in last and "120.00" in last and "**" not in last, "a part of the clips is no fair best"
    assert after.clips["b"].values["raw"].values["whole"]["psnr"] == pytest.approx(psnr(*clips["b"][::2]), abs=1e-3)


def test_a_new_one_takes_the_place_of_an_old_one_and_of_nothing_else(again, tmp_path):
    assert Comparison(again, "anew", "").clips == {} and not (again / "clips").exists()
    assert Comparison.read(again).title == "anew"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").touch()
    with pytest.raises(UserError, match="thesis holds chapter.txt, which no comparison wrote"):
        Comparison(tmp_path / "thesis", "", "")
    assert (tmp_path / "thesis" / "chapter.txt").exists()
    with pytest.raises(UserError, match="is a file, where a folder is to be written"):
        Comparison(tmp_path / "thesis" / "chapter.txt", "", "")


def test_frames_that_do_not_fit_leave_what_was_there(again, clips):
    comparison = Comparison.read(again)
    with pytest.raises(ValueError, match="predicted frames have shape"):
        comparison.add_frames("a", "raw", clips["a"][0][:2])
    with pytest.raises(ValueError, match="values that are not finite"):
        comparison.add_frames("a", "raw", clips["a"][0] * float("nan"))
    with pytest.raises(ValueError, match="no method 'new' yet"):
        comparison.add_frames("a", "new", clips["a"][0])
    with pytest.raises(UserError, match="cannot be called truth"):
        comparison.add_method("truth", "", "")
    for name in ("../a", "", ".a", "a/b", "a.part", "ü"):
        with pytest.raises(UserError, match="cannot be called"):
            comparison.add_clip(name, clips["a"][2])
    with pytest.raises(ValueError, match="2 distances"):
        comparison.add_clip("c", clips["a"][2], distance=[0, 1])
    assert Comparison.read(again).table() == comparison.table()
    assert sorted(path.name for path in (again / "clips").iterdir()) == ["a", "b"]


def damaged(change):
    def apply(text):
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return apply


@pytest.mark.parametrize("change", [
    lambda text: text[:-20], lambda text: "[]", lambda text: '{"title": 1}', lambda text: "[" * 100_000,
    damaged(lambda c: c["clips"][0].update(name="../../outside")),
    damaged(lambda c: c["clips"][0].update(fps=float("nan"))),
    damaged(lambda c: c["clips"][0].update(fps=10**400)),
    damaged(lambda c: c["clips"][0].update(size=3)),
    damaged(lambda c: c["clips"][0].update(size=[float("inf"), 1])),
    damaged(lambda c: c["clips"][1].update(distance=[1])),
    damaged(lambda c: c["methods"][0].update(name="a/b")),
    damaged(lambda c: c["methods"][0].update(label=7)),
    damaged(lambda c: c["methods"].pop()),
    damaged(lambda c: c["clips"][0]["results"]["raw"]["regions"]["whole"]["psnr"].update(per_frame=[1.0])),
    damaged(lambda c: c["clips"][0]["results"]["raw"]["regions"]["whole"].update({"<img>": {"per_frame": [1, 2, 3]}})),
    damaged(lambda c: c["curves"][0].update(series={"a": [[0, float("inf")]]})),
])
def test_files_that_are_something_else_are_refused(again, change):
    (again / FILE).write_text(change((again / FILE).read_text()))
    with pytest.raises(UserError, match=r"comparison\.json is not what a comparison wrote \(.*\); make it again\.$"):
        Comparison.read(again)


@pytest.mark.parametrize("command, told", [
    ("a --x /home/me/b c/d ../e /", "a --x b c/d ../e /"), ("//home/me/a b=/home//me/c/", "a b=c"),
    ("x:/home/me/a (/home/me/c)", "x:a (c)"), ("~/a $HOME/b */c https://d.e/f", "~/a $HOME/b */c https://d.e/f"),
])
def test_commands_tell_nothing_of_who_gave_them(tmp_path, command, told):
    assert Comparison(tmp_path, "", command).command == told


def test_frames_in_half_precision_are_measured_as_they_are_written(again, clips):
    comparison, (_, better, truth) = Comparison.read(again), clips["b"]
    comparison.add_frames("b", "half", better.bfloat16())
    written = read_frames(comparison.frames("b", "half"))[1]
    found = comparison.results("half").clips["b"].values["whole"]["psnr"]
    assert found == pytest.approx(psnr(written, truth), abs=1e-4)


def test_missing_files(again, tmp_path):
    with pytest.raises(UserError, match="cannot be read; give a folder in which methods were compared"):
        Comparison.read(tmp_path)
    next((again / "clips" / "a" / "truth").iterdir()).unlink()
    with pytest.raises(UserError, match="truth does not hold the 3 frames"):
        Comparison.read(again).truth("a")
    next((again / "clips" / "a" / "mask").iterdir()).unlink()
    with pytest.raises(UserError, match="mask does not hold the 3 frames"):
        Comparison.read(again).mask("a")


def test_small_frames_and_frames_without_a_metric(tmp_path, empty_hub, capsys):
    """Too small for optical flow; and LPIPS was measured elsewhere, but cannot be here."""
    comparison = Comparison(tmp_path / "small", "", "")
    comparison.metrics = ["psnr", "lpips", "flicker"]
    comparison.add_method("raw", "input", "")
    comparison.add_clip("a", torch.zeros(2, 3, 12, 20))
    comparison.add_frames("a", "raw", torch.full((2, 3, 12, 20), 0.1))
    assert list(comparison.results("raw").clips["a"].values["whole"]) == ["psnr"]
    assert comparison.table().splitlines()[-1] == "| input | **19.83** | – | – |"
    assert "LPIPS needs" in capsys.readouterr().err


def test_best_of_equals_and_of_what_neither_is_better_in():
    columns = [Column("psnr"), Column("flicker"), Column("warp_error"), Column("seconds")]
    rows = [Row("a", [20.001, 0.1, 0.1, 1.0]), Row("b", [20.004, 0.2, 0.2, None]), Row("c", [None] * 4),
            Row("d", [99.0, 0.0, 0.0, 0.0], whole=False)]
    assert best(columns, rows) == [[0, 1], [0], [], []], "shown values decide"
    assert markdown(columns, rows).splitlines()[2] == "| a | **20.00** | **0.1000** | 0.10000 | 1.000 |"
