"""Warping error and flicker against plain numpy with cv2.remap, on clips whose motion is known and on OpenCV's flow."""

import cv2
import numpy as np
import pytest
import torch

from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate import Motion, flicker, motion_of, warp_error
from tests.evaluate.clips import disc, moving_texture, noisy_clip


def known_motion(clip, step):
    """Where frame t has a pixel, frame t − 1 had it `step` (x, y) before; all seen that was in the picture."""
    count, _, height, width = clip.shape
    flow = torch.zeros(count, 2, height, width)
    flow[1:] = -torch.tensor(step).view(1, 2, 1, 1)
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    inside = (x >= step[0]) & (y >= step[1]) & (x - step[0] <= width - 1) & (y - step[1] <= height - 1)
    visible = inside.expand(count, 1, -1, -1).clone()
    visible[0] = False
    return Motion(flow, visible)


def remapped(picture, flow):
    """cv2.remap of a picture [h, w, 3] at each pixel's place moved by the flow [2, h, w]."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float32)
    return cv2.remap(picture, x + flow[0], y + flow[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def oracle(prediction, truth, motion, mask):
    """Lai et al.'s warping error, and the change of the error along the motion, with numpy and OpenCV alone."""
    errors, changes = [np.nan], [np.nan]
    shown, true = (clip.permute(0, 2, 3, 1).numpy() for clip in (prediction, truth))
    for t in range(1, len(truth)):
        flow, counted = motion.flow[t].numpy(), (motion.visible[t, 0] & mask[t, 0]).numpy()
        errors.append(((shown[t] - remapped(shown[t - 1], flow))[counted] ** 2).mean())
        wrong = shown - true
        changes.append(np.abs(wrong[t] - remapped(wrong[t - 1], flow))[counted].mean())
    return errors, changes


@pytest.mark.parametrize("step", [(2.0, 1.0), (1.3, 0.6), (0.0, 0.0)])
@pytest.mark.parametrize("masked", [False, True])
def test_both_are_the_oracles(step, masked):
    truth = moving_texture(12, (36, 44), step)  # more frames than are warped at once
    prediction = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    motion = known_motion(truth, step)
    mask = disc(truth) if masked else torch.ones_like(motion.visible)
    errors, changes = oracle(prediction, truth, motion, mask)
    given = mask if masked else None
    # cv2.remap rounds places to 1/32 pixel
    assert warp_error(prediction, motion, given).tolist() == pytest.approx(errors, rel=0.02, nan_ok=True)
    assert flicker(prediction, truth, motion, given).tolist() == pytest.approx(changes, rel=0.02, nan_ok=True)
    assert min(errors[1:]) > 1e-3 and min(changes[1:]) > 0.03


def test_a_mask_counts_its_pixels_only():
    """Wherever they were in the frame before."""
    truth = moving_texture(3)
    motion, mask = known_motion(truth, (2.0, 1.0)), disc(truth)
    spoilt = truth.clone()
    spoilt[1] = torch.where(mask[1], truth[1] + 0.1, truth[1] + 0.5)
    assert warp_error(spoilt, motion, mask)[1] == pytest.approx(0.01, rel=0.05)
    assert flicker(spoilt, truth, motion, mask)[1] == pytest.approx(0.1, rel=1e-3)
    assert warp_error(spoilt, motion)[1] > 0.05


def test_flow_finds_the_motion():
    truth = moving_texture(4, (64, 80), (2.0, 1.0))
    motion = motion_of(truth)
    assert not motion.visible[0].any() and not motion.flow[0].any()
    inner = (slice(1, None), slice(None), slice(12, -12), slice(12, -12))
    assert motion.visible[inner].float().mean() > 0.9
    off = (motion.flow[inner] - torch.tensor([-2.0, -1.0]).view(1, 2, 1, 1)).norm(dim=1, keepdim=True)
    assert off[motion.visible[inner]].mean() < 0.25
    assert not motion.visible[1:, :, :, :1].any(), "what came in at the left was not seen before"


def test_what_comes_out_from_behind_is_not_seen_before():
    """A square moves to the right over noise that stands still: behind it the ground appears, in front it is lost."""
    generator = np.random.default_rng(0)
    ground, square = (cv2.GaussianBlur(generator.random(size), (0, 0), 1.2) for size in ((64, 96), (24, 24)))
    stretch = lambda x: (x - x.min()) / (x.max() - x.min())  # noqa: E731
    frames = []
    for t in range(2):
        frame = stretch(ground)
        frame[20:44, 30 + 5 * t : 54 + 5 * t] = stretch(square)
        frames.append(torch.from_numpy(frame).float().expand(3, -1, -1))
    seen = motion_of(torch.stack(frames)).visible[1, 0].float()
    assert seen[22:42, 30:35].mean() < 0.2 < 0.7 < seen[26:38, 41:53].mean()
    assert seen[:10].mean() > 0.9 and seen[-10:].mean() > 0.9


def test_frozen_noisy_and_steadily_wrong_predictions():
    prediction, truth = noisy_clip(4, (48, 64))
    motion = motion_of(truth)
    frozen, offset = truth[:1].expand_as(truth), truth + 0.05
    still = truth[:1].expand_as(truth)
    assert warp_error(truth, motion)[1:].max() < 1e-3 < 0.01 < warp_error(frozen, motion)[1:].min()
    assert warp_error(frozen, motion_of(frozen))[1:].max() < 1e-9, "by its own motion it does not flicker"
    assert flicker(truth, truth, motion)[1:].max() < 1e-6 and flicker(offset, truth, motion)[1:].max() < 1e-4
    assert flicker(prediction, truth, motion)[1:].min() > 0.03 and flicker(frozen, truth, motion)[1:].min() > 0.03
    assert motion_of(still).visible[1:].all() and not motion_of(still).flow.any()
    assert warp_error(prediction, motion_of(still))[1:].min() > 1e-3, "noise on a still picture"


def test_frames_without_anything_to_compare():
    prediction, truth = noisy_clip(3)
    motion = motion_of(truth)
    mask = disc(truth)
    mask[1] = False
    for values in (warp_error(prediction, motion, mask), flicker(prediction, truth, motion, mask)):
        assert values.isnan().tolist() == [True, True, False]
    alone = motion_of(truth[:1])
    assert warp_error(truth[:1], alone).isnan().all() and flicker(truth[:1], truth[:1], alone).isnan().all()


def test_small_frames_are_refused():
    with pytest.raises(UserError, match="Frames of 40×15 px are too small for optical flow"):
        motion_of(torch.zeros(2, 3, 15, 40))
    assert motion_of(torch.zeros(2, 3, 16, 16)).visible[1].all()
