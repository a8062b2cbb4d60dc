"""Degradations against plain oracles, and their promises: sizes, seeds, slow drift, 8 bit."""

import ctypes
import json
import platform

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from chopgrad_ns.data.degradations import (CODECS, Degradation, compress, degrade, filter_frames, gaussian_kernels,
                                           low_size, sinc_kernels)
from chopgrad_ns.errors import UserError


@pytest.fixture(scope="module")
def clip():
    """Eight frames of a smooth, moving, coloured texture with edges."""
    rng = np.random.default_rng(0)
    texture = scipy.ndimage.gaussian_filter(rng.random((3, 96, 160)), (0, 2, 2))
    texture = (texture - texture.min()) / np.ptp(texture)
    texture[:, 30:50, 40:70] = np.array([0.9, 0.2, 0.1])[:, None, None]
    frames = np.stack([texture[:, :, 2 * t:2 * t + 128] for t in range(8)])
    return (torch.from_numpy(frames).float() * 255).round() / 255


def psnr(a, b):
    return float(-10 * ((a - b) ** 2).mean().log10())


def test_gaussian_blur_is_scipys(clip):
    sigma = np.array([[0.3], [0.8], [1.6], [2.4]])
    blurred = filter_frames(clip[:4].double(), gaussian_kernels(sigma, sigma, 0.7, 8))
    for frame, before, width in zip(blurred, clip, sigma[:, 0], strict=False):
        expected = scipy.ndimage.gaussian_filter(before.double().numpy(), (0, width, width), mode="mirror",
                                                 radius=(0, 8, 8))
        assert np.abs(frame.numpy() - expected).max() < 1e-12


def test_anisotropic_and_sinc_are_plain_convolutions(clip):
    along, across, angle = np.array([[2.0], [1.0]]), np.array([[0.5], [3.0]]), 0.6
    kernels = gaussian_kernels(along, across, angle, 9)
    moments = [np.einsum("kl,kl->", kernels[0], product) for product in
               (lambda y, x: (x * x, x * y, y * y))(*np.mgrid[-9:10, -9:10])]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    covariance = turn @ np.diag([4.0, 0.25]) @ turn.T
    assert np.allclose(moments, [covariance[0, 0], covariance[0, 1], covariance[1, 1]], atol=0.02), "σ and angle"
    for kernels in (kernels, sinc_kernels(np.array([[1.2], [2.9]]), 10)):
        assert np.allclose(kernels.sum(axis=(1, 2)), 1)
        filtered = filter_frames(clip[:2].double(), kernels)
        for frame, before, kernel in zip(filtered, clip, kernels, strict=False):
            expected = scipy.ndimage.convolve(before.double().numpy(), kernel[None], mode="mirror")
            assert np.abs(frame.numpy() - expected).max() < 1e-12
    response = np.abs(np.fft.fft2(np.fft.ifftshift(np.pad(sinc_kernels(np.array([[1.2]]), 10)[0], 54))))[0]
    cutoff = 1.2 / (2 * np.pi) * len(response)
    assert response[:int(0.7 * cutoff)].min() > 0.9 and response[int(1.4 * cutoff):len(response) // 2].max() < 0.1


def test_small_frames_are_filtered_too():
    frames = torch.full((1, 3, 4, 5), 0.4)
    assert torch.allclose(filter_frames(frames, sinc_kernels(np.array([[2.0]]), 10)), frames, atol=1e-6)


def test_bicubic_is_pillows(clip):
    for scale in (2, 4, 1.5, 3.2):
        low, drawn = degrade(clip, Degradation("bicubic", scale), 0)
        height, width = low_size(96, 128, scale)
        for frame, before in zip(low, clip, strict=True):
            picture = Image.fromarray((before * 255).byte().permute(1, 2, 0).numpy())
            expected = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
            assert np.abs(frame.numpy() * 255 - expected).max() <= 2
        assert drawn == {"kind": "bicubic", "scale": scale, "seed": 0}


def test_blur_down_is_scipys_blur_and_every_fourth_pixel(clip):
    low, _ = degrade(clip, Degradation("blur-down", 4), 0)
    for frame, before in zip(low, clip, strict=True):
        blurred = scipy.ndimage.gaussian_filter(before.numpy(), (0, 1.6, 1.6), mode="mirror", radius=(0, 6, 6))
        assert np.abs(frame.numpy() - blurred[:, ::4, ::4]).max() <= 0.51 / 255


@pytest.mark.parametrize("kind", ["bicubic", "blur-down", "first-order", "second-order"])
def test_sizes_and_8_bit(clip, kind):
    for height, width in ((96, 128), (67, 101)):
        for scale in (1, 2, 3) if kind == "blur-down" else (1, 1.5, 3.7):
            low, drawn = degrade(clip[:2, :, :height, :width], Degradation(kind, scale), 5)
            assert low.shape == (2, 3, round(height / scale), round(width / scale))
            assert torch.equal(low, (low * 255).round() / 255) and low.min() >= 0 and low.max() <= 1
            assert json.loads(json.dumps(drawn)) == drawn


@pytest.mark.parametrize("kind", ["first-order", "second-order"])
def test_a_seed_is_a_degradation(clip, kind):
    settings = Degradation(kind, 2)
    first, drawn = degrade(clip, settings, 7)
    again, drawn_again = degrade(clip, settings, 7)
    assert torch.equal(first, again) and drawn == drawn_again
    other, drawn_other = degrade(clip, settings, 8)
    assert (first - other).abs().mean() > 0.005 and drawn["rounds"] != drawn_other["rounds"]
    assert len(drawn["rounds"]) == (1 if kind == "first-order" else 2)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's M_PERTURB")
def test_nothing_depends_on_what_memory_held_before():
    """Codecs have been seen to read memory that they had not set; glibc fills what it hands out if asked to."""
    libc, perturb = ctypes.CDLL(None), -6
    generator = torch.Generator().manual_seed(0)
    for height, width in ((86, 136), (130, 72), (74, 68), (51, 37)):
        smooth = torch.rand(8, 3, height // 4, width // 4, generator=generator)
        frames = torch.nn.functional.interpolate(smooth, (height, width), mode="bilinear")
        frames = (frames + 0.1 * torch.randn(frames.shape, generator=generator)).clamp(0, 1)
        results = []
        try:
            for fill in (85, 170):
                libc.mallopt(perturb, fill)
                results.append([compress(frames, codec, 20) for codec in CODECS]
                               + [degrade(frames, Degradation("second-order", 2), seed)[0] for seed in range(3)])
        finally:
            libc.mallopt(perturb, 0)
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), (height, width)


def test_ranges_are_kept_and_everything_happens():
    settings, kinds = Degradation("second-order", 3, drift=0.3), set()
    tiny = torch.full((2, 3, 12, 12), 0.5)
    for seed in range(60):
        _, drawn = degrade(tiny, settings, seed)
        for number, one in enumerate(drawn["rounds"]):
            blur, noise = one["blur"] or {"kind": "none"}, one["noise"]
            kinds |= {blur["kind"], noise["kind"], one["resize"]["mode"], one["compression"]["codec"]}
            for values, (low, high) in ((blur.get("sigma"), settings.blur), (noise["levels"], settings.noise)):
                if values is not None:
                    start, end = values
                    assert low <= min(values) and max(values) <= (high if number == 0 else (low + high) / 2)
                    assert abs(end - start) <= 0.3 * start + 1e-9
    assert kinds == {"none", "isotropic", "anisotropic", "sinc", "gaussian", "poisson", "area", "bilinear", "bicubic",
                     *settings.codecs}


@pytest.mark.parametrize("poisson, grey", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_noise_is_as_strong_as_said_and_independent_between_frames(poisson, grey):
    frames = torch.full((6, 3, 64, 64), 0.5)
    frames[:, :, :, 32:] = 0.125
    settings = Degradation("first-order", 1, blur=(0, 0), sinc=0, noise=(10, 10), poisson=poisson, grey_noise=grey,
                           codecs=())
    low, _ = degrade(frames, settings, 0)
    noise = (low - frames) * 255
    assert abs(noise.mean()) < 0.1 and noise[..., :32].std() == pytest.approx(10, rel=0.03)
    assert noise[..., 32:].std() == pytest.approx(5 if poisson else 10, rel=0.05), "shot noise goes with the root"
    pairs = torch.corrcoef(noise.flatten(2).transpose(0, 1).reshape(18, -1))
    assert (pairs[0, 6] > 0.99) if grey else (abs(pairs[0, 6]) < 0.05), "between channels"
    assert abs(pairs[0, 1]) < 0.05, "between frames"


def test_drift_is_slow(clip):
    still = clip[:1].expand(8, -1, -1, -1)
    settings = Degradation("first-order", 2, blur=(0.5, 3), sinc=0, anisotropic=0, noise=(0, 0), codecs=(), drift=1.0)
    low, drawn = next((low, drawn) for low, drawn in (degrade(still, settings, seed) for seed in range(20))
                      if abs(np.subtract(*drawn["rounds"][0]["blur"]["sigma"])) > 0.5)
    steps, whole = (low[1:] - low[:-1]).abs().mean(dim=(1, 2, 3)), (low[-1] - low[0]).abs().mean()
    assert steps.max() < 0.5 * whole and steps.sum() == pytest.approx(float(whole), rel=0.3)
    frozen, _ = degrade(still, Degradation("first-order", 2, noise=(0, 0), codecs=(), drift=0), 0)
    assert (frozen - frozen[:1]).abs().max() < 1.5 / 255


@pytest.mark.parametrize("codec", CODECS)
def test_compression_errors_grow_with_the_quantiser(clip, codec):
    qualities = (10, 25, 40) if codec == "libx264" else (2, 8, 25)
    values = [psnr(compress(clip, codec, quality), clip) for quality in qualities]
    assert values[0] > 28 and values[0] > values[1] + 1 > values[2] + 2, values
    assert torch.equal(compress(clip, codec, 20), compress(clip, codec, 20))
    grey = clip.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    assert abs((compress(grey, codec, 2) - grey).mean()) < 1 / 255, "nothing is darkened"


@pytest.mark.parametrize("codec", CODECS)
def test_odd_and_tiny_sizes_are_compressed(clip, codec):
    for height, width in ((33, 47), (7, 5), (1, 1)):
        part = clip[:3, :, 20:20 + height, 20:20 + width]
        assert compress(part, codec, 5).shape == part.shape and psnr(compress(part, codec, 2), part) > 20


def test_compression_predicts_between_frames(clip):
    """An encoder of single pictures would treat frames alike whatever came before."""
    still = clip[:1].expand(8, -1, -1, -1)
    assert not torch.equal(compress(clip, "libx264", 35)[4], compress(clip[4:5], "libx264", 35)[0])
    errors = (compress(still, "libx264", 40) - still).pow(2).mean(dim=(1, 2, 3))
    assert errors[-1] <= errors[0]


def test_bad_settings_are_refused():
    for settings, says in (({"kind": "magic"}, "no degradation 'magic'"), ({"scale": 0.5}, "scale 0.5 does not fit"),
                           ({"kind": "blur-down", "scale": 2.5}, "scale 2.5 does not fit blur-down"),
                           ({"noise": (5, 1)}, "range noise is 5 … 1"), ({"codecs": ("vhs",)}, "codec vhs")):
        with pytest.raises(UserError, match=says):
            Degradation(**settings)
