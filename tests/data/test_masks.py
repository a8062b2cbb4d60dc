"""Masks: their kinds, shares, motion and seeds; object masks from files and from actor ids."""

import json

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from chopgrad_ns.data.masks import MaskSettings, ObjectMasks, actor_masks, dilated, draw_masks
from chopgrad_ns.data.plain_videos import open_video
from chopgrad_ns.data.video import write_frames
from chopgrad_ns.errors import UserError
from tests.data.videos import numbered, write_file


def shares(masks):
    return masks.mean(dim=(1, 2, 3))


def test_central_is_half_by_half():
    masks, drawn = draw_masks(MaskSettings("central"), 3, 48, 64, 0)
    expected = torch.zeros(3, 1, 48, 64)
    expected[:, :, 12:36, 16:48] = 1
    assert torch.equal(masks, expected) and drawn["area"] == 0.25
    odd, _ = draw_masks(MaskSettings("central"), 1, 49, 67, 0)
    rows, columns = odd[0, 0].any(dim=1).nonzero(), odd[0, 0].any(dim=0).nonzero()
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (12, 35, 16, 48)


@pytest.mark.parametrize("kind", ["box", "moving-box", "brush"])
@pytest.mark.parametrize("area", [(0.05, 0.3), (0.3, 0.5), (0.01, 0.05)])
def test_shares_are_within_the_range(kind, area):
    seen = []
    for seed in range(12):
        height, width, frames = ((96, 128, 12), (120, 60, 1), (54, 96, 30))[seed % 3]
        masks, drawn = draw_masks(MaskSettings(kind, area, (1, 3)), frames, height, width, seed)
        assert masks.shape == (frames, 1, height, width) and set(masks.unique().tolist()) == {0.0, 1.0}
        assert area[0] <= shares(masks).mean() and shares(masks).max() <= area[1] + 1e-6
        assert json.loads(json.dumps(drawn)) == drawn and drawn["area"] == pytest.approx(float(shares(masks).mean()))
        seen.append(drawn["area"])
    assert np.ptp(seen) > 0.3 * (area[1] - area[0]), "the whole range is used"


@pytest.mark.parametrize("kind", ["box", "moving-box", "brush"])
def test_a_seed_is_a_mask(kind):
    first, again, other = (draw_masks(MaskSettings(kind), 10, 60, 80, seed)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    # the same shapes at another resolution
    large, _ = draw_masks(MaskSettings(kind), 10, 120, 160, 3)
    small = torch.nn.functional.avg_pool2d(large, 2).round()
    assert (small - first).abs().mean() < 0.05


def test_still_boxes_are_boxes():
    for seed in range(5):
        masks, drawn = draw_masks(MaskSettings("box", count=(1, 1)), 6, 60, 80, seed)
        assert drawn["count"] == 1 and torch.equal(masks, masks[:1].expand(6, -1, -1, -1))
        inside = masks[0, 0].nonzero()
        (top, left), (bottom, right) = inside.amin(dim=0), inside.amax(dim=0)
        assert masks[0, 0, top:bottom + 1, left:right + 1].min() == 1, "a filled rectangle"


def test_moving_boxes_move_smoothly_and_may_leave():
    touched = 0
    for seed in range(12):
        masks, _ = draw_masks(MaskSettings("moving-box", count=(1, 1)), 40, 90, 120, seed)
        centres = [frame[0].nonzero().float().mean(dim=0) for frame in masks if frame.any()]
        steps = torch.stack([b - a for a, b in zip(centres, centres[1:], strict=False)])
        assert steps.abs().max() < 0.08 * 120 and steps.norm(dim=1).sum() > 4, "it moves, without jumps"
        touched += bool(masks[..., [0, -1]].any() or masks[..., [0, -1], :].any())
    assert touched >= 3


def test_strokes_are_thin_and_sway():
    for seed in range(5):
        masks, _ = draw_masks(MaskSettings("brush", (0.05, 0.2), (2, 2)), 24, 96, 128, seed)
        depth = max(scipy.ndimage.distance_transform_edt(np.pad(frame[0].numpy(), 1)).max() for frame in masks)
        assert depth < 20, "a box of this area would be deeper, or nearly"
        assert (masks[1:] - masks[:-1]).abs().mean(dim=(1, 2, 3)).max() < 0.06 and not torch.equal(masks[0], masks[-1])
        inside, between = masks[0] > 0, (masks[0] > 0) & (masks[-1] > 0)
        assert between.sum() > 0.05 * inside.sum(), "a little over time"


def test_impossible_masks_are_refused():
    for settings, says in (({"kind": "star"}, "no masks of kind 'star'"), ({"area": (0.3, 0.1)}, r"0.3 … 0.1"),
                           ({"area": (0, 0.1)}, r"0 … 0.1"), ({"count": (0, 2)}, "0 … 2")):
        with pytest.raises(UserError, match=says):
            MaskSettings(**settings)
    with pytest.raises(UserError, match=r"No box masks cover 0.0001 … 0.0002 of 8×6 px"):
        draw_masks(MaskSettings("box", (0.0001, 0.0002)), 2, 6, 8, 0)


def test_dilation_is_a_disc():
    masks = torch.zeros(2, 1, 21, 25)
    masks[0, 0, 10, 12] = 1
    y, x = np.mgrid[-10:11, -12:13]
    for radius in (1, 3, 5):
        grown = dilated(masks, radius)
        assert np.array_equal(grown[0, 0].numpy(), np.hypot(y, x) <= radius) and not grown[1].any()
    assert dilated(masks, 0) is masks


def test_actor_masks():
    ids = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    ids[0, 0, 2, 2], ids[0, 0, 5, 5], ids[1, 0, 0, 0] = 1, 7, 7
    assert torch.equal(actor_masks(ids), (ids > 0).float())
    assert torch.equal(actor_masks(ids, [7]), (ids == 7).float())
    assert torch.equal(actor_masks(ids, [7], 1), dilated((ids == 7).float(), 1))


@pytest.fixture
def walk(tmp_path):
    """A folder video and its DAVIS-like palette masks with objects 1 and 2."""
    write_frames(tmp_path / "walk", torch.from_numpy(numbered(6)).permute(0, 3, 1, 2).float() / 255)
    ids = np.zeros((6, 48, 64), np.uint8)
    for number in range(6):
        ids[number, 10:20, 5 + number:15 + number], ids[number, 30:40, 40:50] = 1, 2
    (tmp_path / "masks").mkdir()
    for number, picture in enumerate(ids):
        image = Image.fromarray(picture, mode="P")
        image.putpalette([0, 0, 0, 0, 0, 0, 128, 0, 0])  # object 1 is as black as the background
        image.save(tmp_path / "masks" / f"{number:05d}.png")
    return tmp_path, torch.from_numpy(ids)[:, None]


def test_object_masks(walk):
    folder, ids = walk
    video = open_video(folder / "walk")
    assert torch.equal(ObjectMasks(folder / "masks", video).read(), (ids > 0).float()), "numbers, not colours"
    assert torch.equal(ObjectMasks(folder / "masks", video, ids=[2]).read(2, 3), (ids[2:5] == 2).float())
    grown = ObjectMasks(folder / "masks", video, [1], dilation=3).read(1, 2)
    assert torch.equal(grown, dilated((ids[1:3] == 1).float(), 3))
    small = ObjectMasks(folder / "masks", video).read(0, 2, longest_side=32, multiple=8)
    assert small.shape[-2:] == video.read(0, 2, 32, 8).shape[-2:] == (24, 32)
    assert torch.equal(small, torch.nn.functional.max_pool2d((ids[:2] > 0).float(), 2)), "any part counts"


def test_object_masks_of_a_file_go_by_order(walk):
    folder, ids = walk
    video = open_video(write_file(folder / "v.mp4", numbered(6)))
    for number in range(5, -1, -1):
        (folder / "masks" / f"{number:05d}.png").rename(folder / "masks" / f"m{number + 8}.png")  # m8 … m13
    assert torch.equal(ObjectMasks(folder / "masks", video).read(), (ids > 0).float()), "10 comes after 9"
    (folder / "masks" / "m13.png").rename(folder / "masks" / "m15.png")
    with pytest.raises(UserError, match="No mask in .*masks goes with frame 00000 of .*v.mp4"):
        ObjectMasks(folder / "masks", video)


def test_hidden_files_are_no_masks(walk):
    folder, ids = walk
    (folder / "masks" / "._00000.png").write_bytes(b"of macOS")
    assert torch.equal(ObjectMasks(folder / "masks", open_video(folder / "walk")).read(), (ids > 0).float())


def test_bad_object_masks_are_named(walk):
    folder, ids = walk
    video = open_video(folder / "walk")
    masks = folder / "masks"
    last = masks / "00005.png"
    Image.new("RGB", (64, 48), (0, 9, 0)).save(last)
    assert ObjectMasks(masks, video).read(5, 1).min() == 1
    with pytest.raises(UserError, match="00005.png is in colour"):
        ObjectMasks(masks, video, ids=[1])
    Image.new("L", (32, 24)).save(last)
    with pytest.raises(UserError, match="00005.png is 32×24 px and the frames of .*walk are 64×48"):
        ObjectMasks(masks, video)
    last.write_text("no picture")
    with pytest.raises(UserError, match="00005.png cannot be read"):
        ObjectMasks(masks, video)
    last.unlink()
    with pytest.raises(UserError, match="5 masks in .*masks for the 6 frames"):
        ObjectMasks(masks, video)
    with pytest.raises(UserError, match="no PNG masks in .*nowhere"):
        ObjectMasks(folder / "nowhere", video)
