"""What pictures show together: without what one of them got wrong, and as rich in detail as they are."""

import numpy as np
import torch

from chopgrad_ns.contrast import AROUND, DETAIL, LARGEST_GAIN
from chopgrad_ns.splat.ensemble import median, together


def by_hand(pictures: np.ndarray) -> np.ndarray:
    """Pixel by pixel, in float64: pictures [K, 3, H, W]."""
    def around(x: np.ndarray, side: int) -> np.ndarray:
        _, height, width = x.shape
        rows = np.clip(np.arange(-side, height + side), 0, height - 1)
        columns = np.clip(np.arange(-side, width + side), 0, width - 1)
        grown, found = x[:, rows][:, :, columns], np.empty_like(x)
        for i in range(height):
            for j in range(width):
                found[:, i, j] = grown[:, i : i + 2 * side + 1, j : j + 2 * side + 1].mean(axis=(1, 2))
        return found

    detail = lambda x: x - around(x, DETAIL)  # noqa: E731
    contrast = lambda x: around((x**2).mean(axis=0, keepdims=True), AROUND)  # noqa: E731
    middle = np.median(pictures, axis=0)
    usual = np.median([contrast(detail(one)) for one in pictures], axis=0)
    gain = np.clip(np.sqrt((usual + 1e-6) / (contrast(detail(middle)) + 1e-6)), 1, LARGEST_GAIN)
    return np.clip(middle + (gain - 1) * detail(middle), 0, 1)


def test_as_by_hand():
    for count in (2, 3, 4):
        pictures = torch.rand(count, 2, 3, 20, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
        found = together(pictures)
        for t in range(2):
            assert np.abs(found[t].numpy() - by_hand(pictures[:, t].numpy())).max() < 1e-12
        assert torch.allclose(together(pictures.float()).double(), found, atol=1e-5)


def test_pictures_that_agree_stay_as_they_are():
    picture = torch.rand(1, 3, 24, 24)
    assert torch.allclose(together(picture[None].expand(5, -1, -1, -1, -1)), picture, atol=1e-6)


def test_detail_that_moves_about_keeps_its_contrast():
    """Stripes, elsewhere in each picture: their median is flatter, and together they are not, or less so."""
    x = torch.arange(48.0)
    pictures = torch.stack([0.5 + 0.3 * torch.sin(x / 2 + shift) for shift in (-0.7, -0.3, 0, 0.3, 0.7)])
    pictures = pictures[:, None, None, None].expand(-1, 1, 3, 48, -1)
    inside = (..., slice(12, -12))
    one, flat, found = (value[inside].std() for value in (pictures[0], pictures.mean(dim=0), together(pictures)))
    middle = median(pictures)[inside].std()
    assert middle < found <= 1.02 * one and flat < found


def test_a_floater_is_gone():
    """What one picture alone shows leaves nothing, neither itself nor contrast."""
    plain = 0.4 + 0.05 * torch.rand(1, 3, 40, 40)
    pictures = plain.expand(5, -1, -1, -1, -1).clone()
    pictures[2, :, :, 10:20, 10:20] = 1
    assert torch.allclose(together(pictures), plain, atol=1e-3)


def test_median_of_what_is_there():
    values = torch.tensor([[1.0, 4.0, torch.inf, torch.inf], [3.0, torch.inf, torch.inf, 2.0], [2.0, 6.0, torch.inf, torch.inf]])
    assert median(values).tolist() == [2, 5, 0, 2]
