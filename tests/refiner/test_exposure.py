"""Photos of different exposure are brought to one."""

import pytest
import torch

from chopgrad_ns.refiner.exposure import FEWEST, LARGEST_GAIN, exposure_between, matched


def pictures(seed: int = 0, size: int = 24) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.6 + 0.2


def test_a_known_exposure_is_found():
    picture, ones = pictures(), torch.ones(2, 1, 24, 24, dtype=torch.float64)
    gain = torch.tensor([[1.3, 1.2, 0.8], [0.7, 1.0, 1.1]], dtype=torch.float64)[..., None, None]
    seen = picture * gain + 0.03
    assert (matched(seen, picture, ones) - picture).abs().max() < 0.03 < 0.05 < (seen - picture).abs().max()
    # The prior draws a little to no change; without contrast to speak of it wins.
    flat = picture * 0.01 + 0.5
    assert (exposure_between(flat * 1.3, flat, ones)[0] - 1).abs().max() < 0.05


def test_it_is_weighted_least_squares():
    """Against lstsq with the prior as further rows, on the pixels that the second fit keeps: all, here."""
    source = pictures(1)
    target = source * 1.1 + 0.02 + 1e-4 * pictures(2)
    weight = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gain, offset = exposure_between(source, target, weight)
    for n in range(2):
        for c in range(3):
            x, y, w = (value[n, k].flatten() for value, k in ((source, c), (target, c), (weight, 0)))
            mean = (w * x).sum() / w.sum()
            rows = torch.stack([w.sqrt() * (x - mean), w.sqrt()], dim=1)
            rows = torch.cat([rows, torch.tensor([[0.05, 0.0]], dtype=x.dtype) * w.sum().sqrt()])
            right = torch.cat([w.sqrt() * y, 0.05 * w.sum().sqrt()[None]])
            slope, middle = torch.linalg.lstsq(rows, right[:, None]).solution[:, 0]
            # The first fit may leave out what differs most; what is left here differs by 1e-4.
            assert float(gain[n, c]) == pytest.approx(float(slope), abs=2e-3)
            assert float(gain[n, c] * mean + offset[n, c]) == pytest.approx(float(middle), abs=1e-3)


def test_what_is_not_the_same_thing_does_not_count():
    picture, ones = pictures(), torch.ones(2, 1, 24, 24, dtype=torch.float64)
    seen = picture * 1.2
    seen[:, :, :4] = 1.0  # a bright car passes, in a sixth of the photo
    error = (matched(seen, picture, ones) - picture)[:, :, 4:].abs().mean()
    assert error < 0.3 * (seen - picture)[:, :, 4:].abs().mean()


def test_nothing_is_believed_of_few_pixels_and_gains_are_bounded():
    picture = pictures()
    weight = torch.zeros(2, 1, 24, 24, dtype=torch.float64)
    assert torch.equal(matched(picture * 2, picture, weight), picture * 2)
    weight[:, :, 0, 0] = 1
    gain, offset = exposure_between(picture * 2, picture, weight)
    assert (gain - 1).abs().max() <= 1 / FEWEST and offset.abs().max() <= 2 / FEWEST
    gain, _ = exposure_between(picture * 0.05, picture, torch.ones_like(weight))
    assert gain.max() <= LARGEST_GAIN


def test_gradients_go_through_pictures_alone():
    picture, ones = pictures(), torch.ones(2, 1, 24, 24, dtype=torch.float64)
    source = (picture * 1.2).requires_grad_()
    gain, _ = exposure_between(source.detach(), picture, ones)
    matched(source, picture, ones).sum().backward()
    torch.testing.assert_close(source.grad, gain.expand_as(source))
