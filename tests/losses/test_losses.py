"""Per-frame losses against their definitions, with and without weights, and through `pixel_loss`."""

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from chopgrad_ns.chopgrad import Exact, Full
from chopgrad_ns.losses import LOSSES, Weighted, charbonnier, frame_difference, l1, mse, robust_l1, ssim_loss
from tests.chopgrad.decoders import difference, example, gradients, wan

PIXELWISE = {"l1": l1, "mse": mse, "charbonnier": charbonnier, "robust_l1": robust_l1}


def clips(seed: int = 0, frames: int = 3, size: int = 16, noise: float = 0.2):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(2, 3, frames, size, size, generator=generator) * 1.4 - 0.7
    return target + noise * torch.randn(target.shape, generator=generator), target


def weighted(target, weight):
    return torch.cat([target, weight], dim=1)


@pytest.mark.parametrize("name", LOSSES)
def test_one_value_a_frame_and_zero_for_the_same(name):
    prediction, target = clips()
    values = LOSSES[name](prediction, target)
    assert values.shape == (2, 3) and values.dtype == torch.float32
    assert (values[:, 1:] > 0).all() and LOSSES[name](target, target).abs().max() < 1e-6
    assert LOSSES[name](prediction[:, :, :1], target[:, :, :1]).shape == (2, 1)


def test_definitions():
    prediction, target = clips()
    error = (prediction - target) / 2  # of pictures in 0…1
    assert torch.allclose(l1(prediction, target)[1, 2], error[1, :, 2].abs().mean())
    assert torch.allclose(mse(prediction, target)[1, 2], error[1, :, 2].square().mean())
    assert torch.allclose(charbonnier(prediction, target, 0.1)[1, 2], (error[1, :, 2] ** 2 + 0.01).sqrt().mean() - 0.1)
    change = error[0, :, 2] - error[0, :, 1]
    assert torch.allclose(frame_difference(prediction, target)[0], torch.stack(
        [torch.tensor(0.0), (error[0, :, 1] - error[0, :, 0]).abs().mean(), change.abs().mean()]))


def test_ssim_agrees_with_torchmetrics():
    prediction, target = clips(frames=2, size=24)
    for t in (0, 1):
        pair = (prediction[:, :, t] / 2 + 0.5, target[:, :, t] / 2 + 0.5)
        _, everywhere = structural_similarity_index_measure(*pair, data_range=1.0, return_full_image=True)
        inside = everywhere[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))  # windows that lie wholly inside the picture
        assert torch.allclose(ssim_loss(prediction, target)[:, t], 1 - inside, atol=1e-5)


def test_robust_l1_leaves_out_what_is_far_off():
    prediction, target = clips(noise=0.05)
    clean = robust_l1(prediction, target)
    prediction[:, :, :, :4, :4] += 1.5  # a person walks by
    prediction.requires_grad_()
    found = robust_l1(prediction, target)
    assert (found - clean).abs().max() < 0.05 * clean.min()
    gradient, = torch.autograd.grad(found.sum(), prediction)
    assert not gradient[:, :, :, :4, :4].any() and gradient[:, :, :, 4:].abs().min() > 0
    assert torch.allclose(robust_l1(prediction, target, threshold=9.0), l1(prediction, target))


@pytest.mark.parametrize("name", LOSSES)
def test_full_weight_is_no_weight_and_pixels_without_weight_do_not_matter(name):
    prediction, target = clips(size=64 if name == "perceptual" else 16)
    ones = torch.ones_like(target[:, :1])
    assert torch.allclose(LOSSES[name](prediction, weighted(target, ones)), LOSSES[name](prediction, target), atol=1e-6)
    half = ones.clone()
    half[..., :8] = 0
    spoilt = prediction.clone()
    spoilt[..., :8] += 0.4 * torch.arange(1, 4).view(3, 1, 1)
    values = LOSSES[name](spoilt, weighted(target, half))
    assert torch.allclose(LOSSES[name](prediction, weighted(target, half)), values, atol=1e-6)
    assert not LOSSES[name](prediction, weighted(target, 0 * ones)).abs().max() > 1e-6


@pytest.mark.parametrize("name", PIXELWISE)
def test_weights_are_a_weighted_mean(name):
    prediction, target = clips(noise=0.1)
    half = torch.ones_like(target[:, :1])
    half[..., :8] = 0
    assert torch.allclose(PIXELWISE[name](prediction, weighted(target, half)), PIXELWISE[name](prediction[..., 8:], target[..., 8:]))


@pytest.mark.parametrize("name", ["ssim", "perceptual"])
def test_autocast_does_not_round_them(name):
    prediction, target = clips(size=24, noise=0.02)
    expected = LOSSES[name](prediction, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LOSSES[name](prediction, target), expected)
        assert LOSSES[name](prediction.bfloat16(), target).dtype == torch.float32


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_through_a_decoder_agree(name):
    example_ = example(wan("2.1", torch.float32), latent_frames=3, dtype=torch.float32, side=False)
    _, expected = gradients(example_, LOSSES[name], Full())
    _, found = gradients(example_, LOSSES[name], Exact())
    assert difference(found, expected) < 1e-5 and found["latents"].norm() > 0


def test_weighted_sum():
    prediction, target = clips()
    loss = Weighted({"l1": 2.0, "frame_difference": 0.5, "mse": 0.0})
    assert torch.allclose(loss(prediction, target), 2 * l1(prediction, target) + 0.5 * frame_difference(prediction, target))
    assert loss.context_frames == 1 and Weighted({"l1": 1.0}).context_frames == 0 and len(loss.terms) == 2


@pytest.mark.parametrize("weights, message", [
    ({"l3": 1.0}, "there is no loss 'l3'; choose among l1, mse"), ({"l1": 0.0}, "all weights are zero"), ({}, "all weights"),
])
def test_weights_that_mean_nothing(weights, message):
    with pytest.raises(ValueError, match=message):
        Weighted(weights)
