"""Pairs from plain videos."""

import pytest
import torch

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.degradations import Degradation, degrade
from chopgrad_ns.data.masks import MaskSettings, draw_masks
from chopgrad_ns.data.plain_videos import open_video
from chopgrad_ns.data.stored import StoredPair, save_pair
from chopgrad_ns.data.video_pairs import inpainting_pair, super_resolution_pair
from tests.data.videos import numbered, write_file


@pytest.fixture
def frames(tmp_path):
    return open_video(write_file(tmp_path / "v.mp4", numbered(6))).read(1, 4)


def test_super_resolution_pair(frames, tmp_path):
    pair, drawn = super_resolution_pair(frames, "v-1", Degradation("second-order", 2.5), seed=3)
    assert pair.name == "v-1" and torch.equal(pair.clean, frames) and pair.valid is None
    assert pair.degraded.frames.shape == (4, 3, 19, 26) and pair.scale == (48 / 19, 64 / 26)
    low, drawn_again = degrade(frames, Degradation("second-order", 2.5), 3)
    assert torch.equal(pair.degraded.frames, low) and drawn == drawn_again and drawn["kind"] == "second-order"
    save_pair(pair, tmp_path / "pair")
    again = StoredPair(tmp_path / "pair").read()
    assert torch.equal(again.clean, pair.clean) and torch.equal(again.degraded.frames, low), "nothing is lost"


def test_inpainting_pair(frames, tmp_path):
    masks, _ = draw_masks(MaskSettings("brush"), 4, 48, 64, 0)
    pair = inpainting_pair(frames, "v-1", masks)
    inside = (masks > 0).expand_as(frames)
    assert torch.equal(pair.degraded.frames[~inside], frames[~inside]) and torch.equal(pair.clean, frames)
    assert (pair.degraded.frames[inside] - 0.5).abs().max() < 0.51 / 255 and torch.equal(pair.degraded.mask, masks)
    assert pair.valid is None and pair.scale == (1, 1)
    save_pair(pair, tmp_path / "pair")
    again = StoredPair(tmp_path / "pair").read()
    assert torch.equal(again.degraded.frames, pair.degraded.frames) and torch.equal(again.degraded.mask, masks)
    with pytest.raises(ValueError, match="masks have shape"):
        inpainting_pair(frames, "v-1", masks[:3])


def test_low_frames_must_be_of_one_clip_and_lower(frames):
    low = Clip(frames[..., ::2, ::2])
    assert Pair(low, frames, "a", torch.ones(4, 1, 48, 64)).scale == (2, 2)
    for clean, valid in ((frames[:3], None), (frames[:, :1], None), (frames[..., :20, :], None), (frames[0], None),
                         (frames, torch.ones(4, 1, 24, 32))):
        with pytest.raises(ValueError, match="shape"):
            Pair(low, clean, "a", valid)
