"""Per-frame losses against their definitions, with and without weights, and through `pixel_loss`."""

import pytest
import pytorch_msssim
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from chopgrad_ns.chopgrad import Exact, Full
from chopgrad_ns.losses import LOSSES, charbonnier, frame_difference, l1, ms_ssim_loss, mse, robust_l1, ssim_loss, with_flow
from tests.chopgrad.decoders import difference, example, gradients, wan

pytestmark = pytest.mark.usefixtures("random_hub")
PIXELWISE = {"l1": l1, "mse": mse, "charbonnier": charbonnier, "robust_l1": robust_l1}


def clips(seed: int = 0, frames: int = 3, size: int = 16, noise: float = 0.2):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(2, 3, frames, size, size, generator=generator) * 1.4 - 0.7
    return target + noise * torch.randn(target.shape, generator=generator), target


def weighted(target, weight):
    return torch.cat([target, weight], dim=1)


def for_loss(name, target):
    """With a flow where the loss needs one: a fraction of a pixel to the left and up."""
    if name != "warped_flicker":
        return target
    flow = torch.tensor([-0.3, -0.6]).to(target).view(1, 2, 1, 1, 1)
    return with_flow(target, flow.expand(len(target), 2, *target.shape[2:]))


@pytest.mark.parametrize("name", LOSSES)
def test_one_value_a_frame_and_zero_for_the_same(name):
    prediction, target = clips()
    frames, target = target, for_loss(name, target)
    values = LOSSES[name](prediction, target)
    assert values.shape == (2, 3) and values.dtype == torch.float32
    assert (values[:, 1:] > 0).all() and LOSSES[name](frames, target).abs().max() < 1e-6
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
    prediction, target = clips(size=16)
    loss = lambda frames, *weight: LOSSES[name](frames, for_loss(name, weighted(target, *weight) if weight else target))  # noqa: E731
    ones = torch.ones_like(target[:, :1])
    assert torch.allclose(loss(prediction, ones), loss(prediction), atol=1e-6)
    half = ones.clone()
    half[..., :8] = 0
    spoilt = prediction.clone()
    spoilt[..., :8] += 0.4 * torch.arange(1, 4).view(3, 1, 1)
    assert torch.allclose(loss(prediction, half), loss(spoilt, half), atol=1e-6)
    assert not torch.allclose(loss(prediction), loss(spoilt), atol=1e-6)
    assert not loss(prediction, 0 * ones).abs().max() > 1e-6


@pytest.mark.parametrize("name", PIXELWISE)
def test_weights_are_a_weighted_mean(name):
    prediction, target = clips(noise=0.1)
    half = torch.ones_like(target[:, :1])
    half[..., :8] = 0
    assert torch.allclose(PIXELWISE[name](prediction, weighted(target, half)), PIXELWISE[name](prediction[..., 8:], target[..., 8:]))


@pytest.mark.parametrize("name", ["ssim", "ms_ssim", "lpips", "dists", "vgg_gram"])
def test_autocast_does_not_round_them(name):
    prediction, target = clips(size=24, noise=0.02)
    expected = LOSSES[name](prediction, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LOSSES[name](prediction, target), expected)
        assert LOSSES[name](prediction.bfloat16(), target).dtype == torch.float32


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_through_a_decoder_agree(name):
    decoder, latents, target, _ = example(wan("2.1", torch.float32), latent_frames=2, dtype=torch.float32, side=False)
    example_ = decoder, latents, for_loss(name, target), None
    _, expected = gradients(example_, LOSSES[name], Full())
    _, found = gradients(example_, LOSSES[name], Exact())
    assert difference(found, expected) < 1e-5 and found["latents"].norm() > 0


def test_ms_ssim_is_the_packages_from_161_pixels_on_and_of_enlarged_frames_below():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, 3, 1, 161, 170, generator=generator) * 1.4 - 0.7
    prediction = target + 0.3 * torch.randn(target.shape, generator=generator)
    expected = pytorch_msssim.ms_ssim(prediction[:, :, 0] / 2 + 0.5, target[:, :, 0] / 2 + 0.5, data_range=1.0)
    assert torch.allclose(ms_ssim_loss(prediction, target)[0, 0], 1 - expected, atol=1e-6)
    small, small_target = (torch.nn.functional.avg_pool3d(x, (1, 4, 4)) for x in (prediction, target))
    enlarged = [torch.nn.functional.interpolate(x[:, :, 0], size=(161, 169), mode="bilinear")[:, :, None]
                for x in (small, small_target)]
    assert torch.allclose(ms_ssim_loss(small, small_target), ms_ssim_loss(*enlarged), atol=1e-6)


def test_ms_ssim_has_a_finite_gradient_where_structures_are_opposite():
    _, target = clips(frames=2)
    prediction = target.clone()
    prediction[:, 0] *= -1
    prediction[:, 1:] += 0.1 * torch.randn(prediction[:, 1:].shape, generator=torch.Generator().manual_seed(0))
    prediction.requires_grad_()
    gradient, = torch.autograd.grad(ms_ssim_loss(prediction, target).sum(), prediction)
    assert gradient.isfinite().all() and not gradient[:, 0].any()
    assert gradient[:, 1:].abs().amax(dim=(2, 3, 4)).min() > 0
