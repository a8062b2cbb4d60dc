"""Cuts are found, motion is not taken for one, and clips stay within shots."""

import numpy as np
import pytest
import torch

from chopgrad_ns.data.plain_videos import open_video
from chopgrad_ns.data.shots import clip_spans, find_cuts
from chopgrad_ns.data.video import write_frames
from tests.data.videos import numbered, write_file


def test_spans():
    as_pairs = lambda *args, **kw: [(s.start, s.stop) for s in clip_spans(*args, **kw)]  # noqa: E731
    assert as_pairs(10, 4) == [(0, 4), (4, 8)], "what is left is left out"
    assert as_pairs(10, 4, 3) == [(0, 4), (3, 7), (6, 10)]
    assert as_pairs(3, 4) == [] and as_pairs(4, 4) == [(0, 4)]
    assert as_pairs(20, 4, cuts=[0, 9, 11, 20, 9]) == [(0, 4), (4, 8), (11, 15), (15, 19)]
    for length, stride in ((0, 1), (1, 0)):
        with pytest.raises(ValueError):
            clip_spans(5, length, stride)


def test_no_span_crosses_a_cut():
    rng = np.random.default_rng(0)
    for _ in range(50):
        frames, cuts = int(rng.integers(1, 200)), sorted(rng.integers(0, 200, 5).tolist())
        for span in clip_spans(frames, 7, int(rng.integers(1, 9)), cuts):
            assert 0 <= span.start and span.stop <= frames and span.stop - span.start == 7
            assert not any(span.start < cut < span.stop for cut in cuts)


def test_made_up_cuts(tmp_path):
    shots = [numbered(20, seed=seed)[:, 16:] // 2 + shade for seed, shade in ((0, 0), (1, 80), (2, 20))]
    video = open_video(write_file(tmp_path / "v.mp4", np.concatenate(shots)))
    assert find_cuts(video) == [20, 40]
    assert find_cuts(open_video(write_file(tmp_path / "one.mp4", shots[0]))) == []


def test_fast_motion_and_single_frames_are_no_cuts(tmp_path):
    rng = np.random.default_rng(0)
    wide = torch.from_numpy(np.kron(rng.random((3, 6, 60)), np.ones((1, 8, 8)))).float()
    write_frames(tmp_path / "pan", torch.stack([wide[..., 12 * t:12 * t + 64] for t in range(30)]))
    assert find_cuts(open_video(tmp_path / "pan")) == []
    write_frames(tmp_path / "still", wide[None, ..., :64])
    assert find_cuts(open_video(tmp_path / "still")) == []


def test_real_shots(shared_data):
    """The cuts of `bikes` were looked up by eye; the other is a single shot."""
    assert find_cuts(open_video(shared_data / "video" / "bikes.mp4")) == [30, 76, 137, 187, 242]
    assert find_cuts(open_video(shared_data / "video" / "carphone_pristine.mp4")) == []
