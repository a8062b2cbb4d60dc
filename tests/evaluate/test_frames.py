"""Frame metrics and their masked variants against scikit-image, torchmetrics, lpips, piq and plain loops."""

import math

import lpips as lpips_package
import numpy as np
import piq
import pytest
import skimage.metrics
import torch
import torchvision
from torchmetrics.functional.image import peak_signal_noise_ratio

from chopgrad_ns.evaluate.metrics import FRAME_METRICS, composite, psnr, ssim
from tests.evaluate.clips import disc, noisy_clip


def test_psnr_is_scikit_images():
    prediction, truth = noisy_clip()
    expected = [skimage.metrics.peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=1.0)
                for a, b in zip(prediction, truth)]
    assert psnr(prediction, truth).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [(40, 56), (11, 30)])
def test_ssim_is_scikit_images(size):
    prediction, truth = noisy_clip(size=size)
    assert ssim(prediction, truth).tolist() == pytest.approx(
        [float(ssim_map(a, b).mean()) for a, b in zip(prediction, truth)], abs=1e-5)


def ssim_map(prediction, truth):
    """scikit-image's, as in Wang et al. 2004, of the windows that lie wholly inside, mean over colours."""
    _, everywhere = skimage.metrics.structural_similarity(
        prediction.numpy(), truth.numpy(), channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True)
    return everywhere[:, 5:-5, 5:-5].mean(axis=0)


def test_psnr_in_a_mask_is_torchmetrics_of_its_pixels():
    prediction, truth = noisy_clip()
    mask = disc(truth)
    found = psnr(prediction, truth, mask)
    for t in range(len(truth)):
        pixels = [clip[t][:, mask[t, 0]] for clip in (prediction, truth)]
        assert found[t] == pytest.approx(float(peak_signal_noise_ratio(*pixels, data_range=1.0)), abs=1e-4)
    assert (found - psnr(prediction, truth)).abs().min() > 1e-3


def test_psnr_in_a_mask_is_a_plain_loop():
    prediction, truth = noisy_clip(frames=1, size=(12, 13))
    mask = disc(truth)
    errors = [(float(prediction[0, c, y, x]) - float(truth[0, c, y, x])) ** 2
              for y in range(12) for x in range(13) if mask[0, 0, y, x] for c in range(3)]
    assert len(errors) > 30 and float(psnr(prediction, truth, mask)) == pytest.approx(
        -10 * math.log10(sum(errors) / len(errors)), abs=1e-4)


def test_ssim_in_a_mask_is_scikit_images_map_in_a_loop():
    prediction, truth = noisy_clip(frames=2)
    mask = disc(truth)
    for t in range(2):
        everywhere, values = ssim_map(prediction[t], truth[t]), []
        for y in range(5, 35):
            for x in range(5, 51):
                if mask[t, 0, y, x]:
                    values.append(everywhere[y - 5, x - 5])
        assert float(ssim(prediction, truth, mask)[t]) == pytest.approx(sum(values) / len(values), abs=1e-5)
    everything = torch.ones_like(mask)
    assert torch.allclose(ssim(prediction, truth, everything), ssim(prediction, truth), atol=1e-5)


def test_what_is_outside_the_mask_does_not_matter():
    """To PSNR and to networks; SSIM's windows reach 5 pixels further."""
    prediction, truth = noisy_clip(size=(64, 80))
    mask = disc(truth)
    spoilt = torch.where(mask, prediction, 1 - prediction)
    for name in ("psnr", "st_lpips"):
        measure = FRAME_METRICS[name]()
        assert torch.allclose(measure(spoilt, truth, mask), measure(prediction, truth, mask), atol=1e-5)
        assert (measure(spoilt, truth) - measure(prediction, truth)).abs().min() > 1e-3
    far = torch.nn.functional.max_pool2d(mask.float(), 11, 1, 5) == 0
    spoilt = torch.where(far, 1 - prediction, prediction)
    assert torch.allclose(ssim(spoilt, truth, mask), ssim(prediction, truth, mask), atol=1e-5)


@pytest.mark.parametrize("name", ["psnr", "ssim", "st_lpips"])
def test_a_frame_without_mask_pixels_has_no_value(name):
    prediction, truth = noisy_clip()
    mask = disc(truth)
    mask[1] = False
    found = FRAME_METRICS[name]()(prediction, truth, mask)
    assert found[1].isnan() and not found[[0, 2]].isnan().any()
    small = FRAME_METRICS[name]()(prediction[..., :9, :9], truth[..., :9, :9], torch.ones_like(mask[..., :9, :9]))
    assert small.isnan().all() if name == "ssim" else not small.isnan().any()


def test_lpips_is_the_lpips_packages(random_hub, random_vgg, without_init):
    """On the same random VGG16 and the package's own linear layers."""
    prediction, truth = noisy_clip(frames=2, size=(64, 72))
    theirs = lpips_package.LPIPS(net="vgg", pretrained=True, pnet_rand=True, verbose=False)
    theirs.net.load_state_dict({name: random_vgg["features." + name.split(".", 1)[1]]
                                for name in theirs.net.state_dict()})
    with torch.no_grad():
        for mask in (None, disc(truth)):
            expected = theirs(composite(prediction, truth, mask), truth, normalize=True).flatten()
            expected = expected if mask is None else expected / mask.float().mean(dim=(1, 2, 3))
            found = FRAME_METRICS["lpips"]()(prediction, truth, mask)
            assert torch.allclose(found, expected, rtol=1e-4) and found.min() > 1e-4


def test_st_lpips_is_its_packages():
    from stlpips_pytorch import stlpips

    prediction, truth = noisy_clip(frames=2, size=(64, 72))
    theirs = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    with torch.no_grad():
        expected = theirs(prediction, truth, normalize=True).flatten()
    found = FRAME_METRICS["st_lpips"]()(prediction, truth, None)
    assert torch.allclose(found, expected, rtol=1e-4) and expected.min() > 1e-3


def test_a_distance_inside_a_mask_does_not_shrink_with_it():
    """Of the same noise everywhere; what a network adds across the mask's edge is more for a narrow one."""
    prediction, truth = noisy_clip(frames=1, size=(96, 96))
    measure, mask = FRAME_METRICS["st_lpips"](), torch.zeros(1, 1, 96, 96, dtype=torch.bool)
    values = []
    for width in (96, 48, 24):
        mask[:] = False
        mask[..., :width] = True
        values.append(float(measure(prediction, truth, mask)))
    assert values[0] == pytest.approx(float(measure(prediction, truth)), rel=1e-5)
    assert max(values) < 1.6 * min(values), values


def test_dists_is_piqs(random_hub, monkeypatch, without_init):
    monkeypatch.setattr(torchvision.models.VGG, "load_state_dict",  # it insists on a classifier, which our file has not
                        lambda self, state, strict=True: torch.nn.Module.load_state_dict(self, state, strict=False))
    prediction, truth = noisy_clip(frames=2, size=(64, 72))
    theirs = piq.DISTS(reduction="none")
    for mask in (None, disc(truth)):
        expected = theirs(composite(prediction, truth, mask), truth)
        found = FRAME_METRICS["dists"]()(prediction, truth, mask)
        assert torch.allclose(found, expected, atol=1e-6) and expected.min() > 1e-3


def test_composite():
    prediction, truth = noisy_clip(frames=1)
    mask = disc(truth)
    shown = composite(prediction, truth, mask)
    inside = mask.expand_as(truth).numpy()
    assert np.array_equal(shown[inside], prediction[inside]) and np.array_equal(shown[~inside], truth[~inside])
    assert composite(prediction, truth, None) is prediction
