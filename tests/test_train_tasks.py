"""`scripts/train_tasks.py` at toy size: from nothing to weights and a comparison, taken up again."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.video_pairs import HOLE
from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.comparison import Comparison
from chopgrad_ns.refiner import Refiner

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def train_tasks(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import train_tasks

    monkeypatch.setattr(sys, "argv", ["train_tasks.py", "--task", "inpainting"])
    return train_tasks


def options(train_tasks, folder: Path, **changed):
    return train_tasks.Options(**{"task": "inpainting", "work": folder / "work", "output": folder / "tiny", "worlds": 1,
                                  "judge_worlds": 1, "steps": 2, "buckets": "5x32x32x1", "losses": "l1=1", "width": 64,
                                  "height": 48, "clip_frames": 5} | changed)


def test_from_nothing_to_weights_and_a_comparison(train_tasks, tmp_path, capsys):
    train_tasks.main(options(train_tasks, tmp_path))
    first = capsys.readouterr().out
    refiner = Refiner.from_pretrained(tmp_path / "tiny" / "inpainting", task="inpainting")
    stored = load_file(tmp_path / "tiny" / "inpainting" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert {value.dtype for value in refiner.model.state_dict().values()} == {torch.float32}
    comparison = Comparison.read(tmp_path / "work" / "inpainting" / "comparison")
    assert [method.name for method in comparison.methods] == ["masked-mean", "telea", "navier-stokes", "tiny"]
    assert len(comparison.clips) == 3 and comparison.table() in first and "inside" in comparison.table()
    written = (tmp_path / "tiny" / "inpainting" / "model.safetensors").stat().st_mtime_ns
    train_tasks.main(options(train_tasks, tmp_path))
    again = capsys.readouterr().out
    assert "has ended already, after 2 steps" in again and "world 1" not in again
    assert (tmp_path / "tiny" / "inpainting" / "model.safetensors").stat().st_mtime_ns > written
    later = load_file(tmp_path / "tiny" / "inpainting" / "model.safetensors")
    assert all(torch.equal(value, later[name]) for name, value in stored.items())
    with pytest.raises(UserError, match="started with other settings"):
        train_tasks.main(options(train_tasks, tmp_path, losses="mse=1"))


def test_each_baseline_does_what_it_says(train_tasks):
    clean = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, 48, 64)
    mask[:, :, 16:32, 20:40] = 1
    pairs = {"super-resolution": Pair(Clip(clean[..., ::4, ::4]), clean, "small"),
             "inpainting": Pair(Clip(torch.where(mask > 0, HOLE, clean), mask=mask), clean, "hole"),
             "driving": Pair(Clip(torch.where(mask > 0, 0.2, clean), mask=mask), clean, "car")}
    for task, pair in pairs.items():
        found = [baseline.mend(pair) for baseline in train_tasks.BASELINES[task]]
        assert all(frames.shape == clean.shape for frames in found)
        assert all(not torch.equal(one, other) for number, one in enumerate(found) for other in found[:number])
    assert train_tasks.judged_where(pairs["super-resolution"], "super-resolution") is None
    assert torch.equal(train_tasks.judged_where(pairs["inpainting"], "inpainting"), mask.bool())
    rows, columns = (train_tasks.judged_where(pairs["driving"], "driving")[0, 0].any(dim=axis).nonzero() for axis in (1, 0))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 37, 14, 45), "30 % of 20 px more on each side"


def test_videos_are_refused_for_driving(train_tasks, tmp_path):
    with pytest.raises(UserError, match="car.mp4 does not say how it looked before"):
        train_tasks.main(options(train_tasks, tmp_path, task="driving", judge_videos=(Path("car.mp4"),)))
    assert not any(tmp_path.iterdir())
