"""Boxes of actors against plain loops, and what is measured in each region."""

import math

import numpy as np
import pytest
import torch
from skimage.measure import regionprops

from chopgrad_ns.evaluate import Box, actor_boxes, evaluate_clip, psnr, ssim
from chopgrad_ns.evaluate.metrics import FRAME_METRICS
from chopgrad_ns.evaluate.regions import mask_of_boxes
from chopgrad_ns.evaluate.temporal import flicker, motion_of, warp_error
from tests.evaluate.clips import disc, noisy_clip


def two_actors(clip):
    """Ids [T, 1, H, W]: a disc with id 3 that moves, a bar with id 200 at the border, too small a speck with id 9."""
    ids = torch.where(disc(clip), 3, 0).to(torch.uint8)
    ids[1:, :, :18, -20:] = 200
    ids[:, :, -4:, :4] = 9
    return ids


def test_boxes_are_scikit_images_grown_and_cut():
    _, truth = noisy_clip(size=(40, 56))
    ids = two_actors(truth)
    expected = []
    for t in range(3):
        for region in regionprops(ids[t, 0].numpy().astype(np.int32)):
            top, left, bottom, right = region.bbox
            if min(bottom - top, right - left) >= 16:
                more = math.ceil(0.1 * max(bottom - top, right - left))
                expected.append(Box(t, region.label, max(top - more, 0), min(bottom + more, 40), max(left - more, 0),
                                    min(right + more, 56)))
    assert actor_boxes(ids) == expected and [box.actor for box in expected] == [3, 3, 200, 3, 200]
    assert {box.actor for box in actor_boxes(ids, smallest=4)} == {3, 9, 200}
    tight = actor_boxes(ids, padding=0.0)[2]
    assert tight == Box(1, 200, 0, 18, 36, 56) and torch.equal(tight.crop(truth), truth[1:2, :, :18, 36:56])
    with pytest.raises(ValueError, match="actor ids are torch.float32; torch.uint8 is needed"):
        actor_boxes(ids.float())


def test_box_of_a_mask():
    _, truth = noisy_clip(frames=1)
    mask = disc(truth)
    box, = actor_boxes(mask.to(torch.uint8), padding=0.0)
    ys, xs = np.nonzero(mask[0, 0].numpy())
    assert box == Box(0, 1, ys.min(), ys.max() + 1, xs.min(), xs.max() + 1)


def test_values_by_region():
    prediction, truth = noisy_clip()
    mask, ids = disc(truth), two_actors(truth)
    values = evaluate_clip(prediction, truth, ["psnr", "ssim", "st_lpips", "warp_error", "flicker"], mask.float(), ids)
    names = ["psnr", "ssim", "st_lpips", "warp_error", "warp_error_of_truth", "flicker"]
    assert list(values) == ["whole", "inside", "outside", "actors"]
    assert all(list(metrics) == names for metrics in values.values())
    assert all(found.shape == (3,) for metrics in values.values() for found in metrics.values())
    motion = motion_of(truth)
    for region, where in (("whole", None), ("inside", mask), ("outside", ~mask)):
        for name in names[:3]:
            assert torch.allclose(values[region][name], FRAME_METRICS[name]()(prediction, truth, where), atol=1e-5)
        for name, expected in (("warp_error", warp_error(prediction, motion, where)),
                               ("warp_error_of_truth", warp_error(truth, motion, where)),
                               ("flicker", flicker(prediction, truth, motion, where))):
            assert torch.allclose(values[region][name], expected, equal_nan=True)
    in_boxes = warp_error(prediction, motion, mask_of_boxes(actor_boxes(ids), truth))
    assert torch.allclose(values["actors"]["warp_error"], in_boxes, equal_nan=True)
    assert (values["inside"]["psnr"] - values["outside"]["psnr"]).abs().min() > 1e-3


def test_inside_and_outside_make_up_the_whole():
    prediction, truth = noisy_clip()
    mask = disc(truth)
    values = evaluate_clip(prediction, truth, ["psnr"], mask)
    error = {region: 10 ** (-found["psnr"] / 10) for region, found in values.items()}
    share = mask.float().mean(dim=(1, 2, 3))
    assert torch.allclose(share * error["inside"] + (1 - share) * error["outside"], error["whole"], rtol=1e-4)


def test_actors_are_means_over_crops_of_a_frame():
    prediction, truth = noisy_clip()
    ids = two_actors(truth)
    values = evaluate_clip(prediction, truth, ["psnr", "ssim"], actor_ids=ids)["actors"]
    for name, measure in (("psnr", psnr), ("ssim", ssim)):
        for t in range(3):
            crops = [[clip[t : t + 1, :, box.top : box.bottom, box.left : box.right] for clip in (prediction, truth)]
                     for box in actor_boxes(ids) if box.frame == t]
            expected = sum(float(measure(*pair)) for pair in crops) / len(crops)
            assert float(values[name][t]) == pytest.approx(expected, abs=1e-4)
    ids[0] = 0
    without = evaluate_clip(prediction, truth, ["psnr"], actor_ids=ids)["actors"]["psnr"]
    assert without.isnan().tolist() == [True, False, False]


def test_predictions_are_clamped_and_masks_are_over_a_half():
    prediction, truth = noisy_clip()
    bright = prediction + 3 * (prediction > 0.8)
    values = evaluate_clip(bright, truth, ["psnr"], 0.4 + 0.2 * disc(truth))
    assert torch.allclose(values["inside"]["psnr"], psnr(bright.clamp(0, 1), truth, disc(truth)))


def test_shapes_that_do_not_fit():
    prediction, truth = noisy_clip()
    with pytest.raises(ValueError, match="predicted frames have shape"):
        evaluate_clip(prediction[:2], truth)
    with pytest.raises(ValueError, match=r"masks of shape \(2, 1, 40, 56\) do not fit frames"):
        evaluate_clip(prediction, truth, mask=disc(truth)[:2])
    with pytest.raises(ValueError, match=r"actor ids of shape \(3, 40, 56\) do not fit frames"):
        evaluate_clip(prediction, truth, actor_ids=two_actors(truth)[:, 0])
