"""A trajectory on its way to disk: what is written, and that nothing of it stays in memory."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from chopgrad_ns.data.paths import through
from chopgrad_ns.data.trajectory import render_to_disk
from chopgrad_ns.data.video import read_frames
from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.render import render
from tests.worlds import plane_cameras, plane_splat


def test_what_is_written_is_what_render_draws(tmp_path):
    (tmp_path / "out" / "frames").mkdir(parents=True)
    (tmp_path / "out" / "frames" / "old.png").write_bytes(b"")
    ticks = []
    render_to_disk(plane_splat(), plane_cameras(5), tmp_path / "out", fps=12, depth=True,
                   progress=lambda *tick: ticks.append(tick))
    expected = render(plane_splat(), plane_cameras(5))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["depth", "frames", "render.mp4"]
    _, frames = read_frames(tmp_path / "out" / "frames")
    torch.testing.assert_close(frames, expected.rgb, atol=0.51 / 255, rtol=0)
    depth = np.stack([np.load(path) for path in sorted((tmp_path / "out" / "depth").iterdir())])
    assert np.array_equal(depth, expected.depth[:, 0].numpy())
    assert ticks == [(k, 5) for k in range(1, 6)]


def test_what_no_rendering_wrote_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    for folder, fault in ((tmp_path, "holds photo.jpg"), (tmp_path / "photo.jpg", "is a file")):
        with pytest.raises(UserError, match=fault):
            render_to_disk(plane_splat(), plane_cameras(2), folder, fps=12)
    assert [path.name for path in tmp_path.parent.glob(tmp_path.name + "*")] == [tmp_path.name]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


def test_a_thousand_frames_do_not_grow_in_memory(tmp_path):
    cameras = plane_cameras(8)
    frame_bytes = 5 * 4 * cameras.width * cameras.height

    def resident_after(frames: int) -> int:
        render_to_disk(plane_splat(), through(cameras, frames), tmp_path / str(frames), fps=30)
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident_after(100)
    growth = resident_after(1000) - before
    assert len(list((tmp_path / "1000" / "frames").iterdir())) == 1000
    assert growth < 100 * frame_bytes, f"{growth / frame_bytes:.0f} frames stayed in memory"
