"""Baselines without learning, beside plain loops in float64 and OpenCV itself."""

import cv2
import numpy as np
import pytest
import torch

from chopgrad_ns.data.fill import filled
from chopgrad_ns.data.video_pairs import HOLE
from chopgrad_ns.evaluate.baselines import enlarged, masked_mean


@pytest.fixture
def frames() -> torch.Tensor:
    """Three frames in 8 bit."""
    return torch.randint(0, 256, (3, 3, 12, 17), generator=torch.Generator().manual_seed(0)) / 255


@pytest.fixture
def mask() -> torch.Tensor:
    """A hole in the first frame, nothing but hole in the second, none in the third."""
    mask = torch.zeros(3, 1, 12, 17)
    mask[0, :, 3:8, 5:11], mask[1] = 1, 1
    return mask


def test_masked_mean_is_that_of_what_is_seen_of_each_frame(frames, mask):
    found = masked_mean(frames, mask)
    for t, (frame, holes) in enumerate(zip(frames.double().numpy(), mask.numpy())):
        for channel in range(3):
            seen = [frame[channel, y, x] for y in range(12) for x in range(17) if not holes[0, y, x]]
            for y, x in np.argwhere(holes[0]):
                assert float(found[t, channel, y, x]) == pytest.approx(np.mean(seen) if seen else 0.5, abs=1e-6)
    outside = (mask == 0).expand_as(found)
    assert torch.equal(found[outside], frames[outside])


@pytest.mark.parametrize("method, flag", [("telea", cv2.INPAINT_TELEA), ("navier-stokes", cv2.INPAINT_NS)])
def test_opencv_fills_what_the_mask_covers_and_nothing_else(frames, mask, method, flag):
    found, hole = filled(frames, mask, method), mask.bool().expand_as(frames)
    levels = (frames[0] * 255).round().byte().permute(1, 2, 0).numpy().copy()
    levels[mask[0, 0].bool().numpy()] = 128
    expected = torch.from_numpy(cv2.inpaint(levels, mask[0, 0].byte().numpy(), 3, flag)).permute(2, 0, 1) / 255
    torch.testing.assert_close(found[0][hole[0]], expected[hole[0]])
    assert torch.equal(found[~hole], frames[~hole]) and (found[1] == HOLE).all()
    assert torch.equal(filled(torch.where(hole, 1 - frames, frames), mask, method), found), "what is below the mask is not seen"
    assert not torch.equal(found[0], filled(frames, mask, "telea" if method == "navier-stokes" else "navier-stokes")[0])


def test_bicubic_keeps_ramps_and_stays_in_range():
    ramp = torch.linspace(0.2, 0.8, 16).expand(2, 3, 12, 16)
    large = enlarged(ramp, (48, 64))
    assert large.shape == (2, 3, 48, 64)
    columns = (torch.arange(64) + 0.5) / 4 - 0.5
    expected = 0.2 + 0.6 * columns / 15
    torch.testing.assert_close(large[..., 8:-8], expected[8:-8].expand(2, 3, 48, 48), atol=1e-5, rtol=0)
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1
    sharp = enlarged(step, (32, 32))
    assert sharp.min() == 0 and sharp.max() == 1 and not torch.equal(sharp, enlarged(step, (32, 32), "bilinear"))
