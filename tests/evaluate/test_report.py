"""Means and intervals over clips, by hand; JSON that can be read; a table in plain text."""

import json

import numpy as np
import pytest
import torch

from chopgrad_ns.evaluate import interval_of_mean, interval_of_series
from chopgrad_ns.evaluate.report import ClipValues, Results

NAN = float("nan")


def clip(values, **others):
    found = {"whole": {"psnr": torch.tensor(values)}, **others}
    return ClipValues.of([f"{t:05d}" for t in range(len(values))], found)


def test_several_clips_count_alike_and_are_resampled():
    clips = {"a": clip([20.0, 22.0]), "b": clip([30.0]), "c": clip([NAN, 25.0, 27.0]), "d": clip([NAN])}
    found = Results(clips).summary()["whole"]["psnr"]
    low, high = interval_of_mean(np.array([21.0, 30.0, 26.0]))
    assert found == {"mean": pytest.approx((21 + 30 + 26) / 3), "ci95": (low, high), "clips": 3, "frames": 5}
    assert low < high


def test_blocks_of_frames_of_one_clip_are_resampled():
    values = np.random.default_rng(0).normal(25, 2, size=30).round(3)
    found = Results({"a": clip([NAN, *values.tolist()])}).summary()["whole"]["psnr"]
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-4) and found["frames"] == 30
    assert found["ci95"] == pytest.approx(interval_of_series(values), abs=1e-4)


def test_regions_and_metrics_that_only_some_clips_have():
    clips = {"a": clip([20.0]), "b": clip([30.0], inside={"ssim": torch.tensor([0.5])}), "c": clip([NAN])}
    summary = Results(clips, {"whole": {"fid": {"value": 3.0, "count": 3}}}).summary()
    assert summary["whole"]["psnr"]["mean"] == 25 and summary["whole"]["psnr"]["ci95"] is None
    assert summary["inside"] == {"ssim": {"mean": 0.5, "ci95": None, "clips": 1, "frames": 1}}
    assert summary["whole"]["fid"] == {"value": 3.0, "count": 3}
    nothing = Results({"c": clip([NAN])}).summary()["whole"]["psnr"]
    assert nothing == {"mean": None, "ci95": None, "clips": 0, "frames": 0}


def test_json_has_all_of_it():
    clips = {"a": clip([20.0, NAN]), "b": clip([30.0, 31.0])}
    results = Results(clips, skipped={"lpips": "no weights"}, left_out={"c": "missing"})
    found = json.loads(json.dumps(results.to_json({"name": "mine"}), allow_nan=False))
    assert found["name"] == "mine" and found["clips"] == 2 and found["frames"] == 4
    assert found["skipped"] == {"lpips": "no weights"} and found["left_out"] == {"c": "missing"}
    assert found["per_clip"]["a"] == {"names": ["00000", "00001"], "regions": {
        "whole": {"psnr": {"mean": 20.0, "ci95": None, "per_frame": [20.0, None]}}}}
    assert found["bootstrap"]["resampled"] == "clips" and found["bootstrap"]["seed"] == 0
    assert {"torch", "torchmetrics", "lpips", "piq", "torch-fidelity", "scipy"} <= set(found["versions"])


def test_table_in_plain_text(capsys):
    clips = {name: clip([20.0 + i, 22.0], inside={"ssim": torch.tensor([0.5, 0.7])}) for i, name in enumerate("abc")}
    fid = {"fid": {"value": 41.25, "count": 6, "unit": "pictures"},
           "fvd": {"value": None, "count": 0, "unit": "windows", "reason": "needs at least 2 windows"}}
    Results(clips, {"whole": fid}, skipped={"dists": "DISTS needs a file"}).print("mine")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    lines = [line.rstrip() for line in shown.splitlines()]
    assert lines[0] == "mine: 3 clips, 6 frames" and lines[1].split() == ["metric", "whole", "inside"]
    assert lines[2].startswith("psnr ↑") and "21.50 [" in lines[2]
    assert lines[3].split() == ["fid", "↓", "41.25"] and lines[4].split() == ["fvd", "↓", "–"]
    assert lines[5].split() == ["ssim", "↑", "0.6000", "[0.6000,", "0.6000]"]
    assert "as many: whole 6 pictures." in shown and "whole: no fvd, which needs at least 2 windows" in shown
    assert "Skipped dists: DISTS needs a file" in shown
