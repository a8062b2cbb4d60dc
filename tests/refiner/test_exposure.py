"""Photos of different exposure are brought to one."""

import pytest
import torch
import torch.nn.functional as F

from chopgrad_ns.refiner.exposure import FEWEST, LARGEST_GAIN, exposure_between, matched


def pictures(seed: int = 0) -> torch.Tensor:
    """Two smooth pictures of 48 × 48 with some grain."""
    generator = torch.Generator().manual_seed(seed)
    rough, grain = (torch.rand(2, 3, size, size, generator=generator, dtype=torch.float64) for size in (6, 48))
    return F.interpolate(rough, scale_factor=8, mode="bilinear") * 0.6 + 0.2 + 0.05 * grain


def test_a_known_exposure_is_found():
    picture, ones = pictures(), torch.ones(2, 1, 48, 48, dtype=torch.float64)
    gain = torch.tensor([[1.3, 1.2, 0.8], [0.7, 1.0, 1.1]], dtype=torch.float64)[..., None, None]
    seen = picture * gain + 0.03
    assert (matched(seen, picture, ones) - picture).abs().max() < 0.03 < 0.05 < (seen - picture).abs().max()
    # The prior draws a little to no change; without contrast to speak of it wins.
    flat = picture * 0.01 + 0.5
    assert (exposure_between(flat * 1.3, flat, ones)[0] - 1).abs().max() < 0.05


def test_it_is_weighted_least_squares_over_cells():
    """Against lstsq with the prior as a further row, for pictures that differ by little more than their exposure."""
    source = pictures(1)
    target = source * 1.1 + 0.02 + 1e-4 * pictures(2)
    weight = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gain, offset = exposure_between(source, target, weight)
    cells = [(slice(y, y + 8), slice(x, x + 8)) for y in range(0, 48, 8) for x in range(0, 48, 8)]
    for n in range(2):
        for c in range(3):
            w = torch.stack([weight[n, 0][cell].sum() for cell in cells])
            x, y = (torch.stack([(value[n, c][cell] * weight[n, 0][cell]).sum() for cell in cells]) / w
                    for value in (source, target))
            mean = (w * x).sum() / w.sum()
            rows = torch.stack([w.sqrt() * (x - mean), w.sqrt()], dim=1)
            rows = torch.cat([rows, torch.tensor([[0.05, 0.0]], dtype=x.dtype) * w.sum().sqrt()])
            right = torch.cat([w.sqrt() * y, 0.05 * w.sum().sqrt()[None]])
            slope, middle = torch.linalg.lstsq(rows, right[:, None]).solution[:, 0]
            # The first fit may leave out what differs most; what is left here differs by 1e-4.
            assert float(gain[n, c]) == pytest.approx(float(slope), abs=2e-2)
            assert float(gain[n, c] * mean + offset[n, c]) == pytest.approx(float(middle), abs=1e-3)


def test_a_blurred_picture_is_no_darker_one():
    """A sharp photo keeps its contrast beside a blurred render; pixel by pixel least squares would take it away."""
    rough = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    sharp = F.interpolate(rough, scale_factor=16, mode="bilinear") + 0.2 * torch.randn(
        1, 3, 96, 96, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    blurred = F.avg_pool2d(sharp, 7, stride=1, padding=3, count_include_pad=False)
    ones = torch.ones(1, 1, 96, 96, dtype=torch.float64)
    gain, _ = exposure_between(sharp, blurred, ones)
    pixelwise = ((sharp - sharp.mean()) * (blurred - blurred.mean())).mean() / sharp.var()
    assert (gain - 1).abs().max() < 0.1 and pixelwise < 0.8


def test_what_is_not_the_same_thing_does_not_count():
    picture, ones = pictures(), torch.ones(2, 1, 48, 48, dtype=torch.float64)
    seen = picture * 1.2
    seen[:, :, :8] = 1.0  # a bright car passes, in a sixth of the photo
    error = (matched(seen, picture, ones) - picture)[:, :, 8:].abs().mean()
    assert error < 0.3 * (seen - picture)[:, :, 8:].abs().mean()


def test_nothing_is_believed_of_few_pixels_and_gains_are_bounded():
    picture = pictures()
    weight = torch.zeros(2, 1, 48, 48, dtype=torch.float64)
    assert torch.equal(matched(picture * 2, picture, weight), picture * 2)
    weight[:, :, 0, 0] = 1
    gain, offset = exposure_between(picture * 2, picture, weight)
    assert (gain - 1).abs().max() <= 1 / FEWEST and offset.abs().max() <= 2 / FEWEST
    gain, _ = exposure_between(picture * 0.05, picture, torch.ones_like(weight))
    assert gain.max() <= LARGEST_GAIN


def test_gradients_go_through_pictures_alone():
    picture, ones = pictures(), torch.ones(2, 1, 48, 48, dtype=torch.float64)
    source = (picture * 1.2).requires_grad_()
    gain, _ = exposure_between(source.detach(), picture, ones)
    matched(source, picture, ones).sum().backward()
    torch.testing.assert_close(source.grad, gain.expand_as(source))
