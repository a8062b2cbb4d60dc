"""Each latent decoded alone: what the autoencoder makes of it, and not what it makes of the clip."""

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, FrameByFrame, Full, Truncated, as_causal_decoder, pixel_loss
from tests.chopgrad.decoders import DECODERS, curved, decode, difference, gradients, looking_back, wan

ALONE = [name for name in DECODERS if name.startswith(("wan", "qwen", "cogvideox", "magvit", "kvae"))]


def latents_of(dtype=torch.float32, frames: int = 3) -> torch.Tensor:
    return torch.randn(1, 4, frames, 2, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("name", ALONE)
def test_it_is_vae_decode_of_each_latent_alone(name):
    vae, latents = DECODERS[name](torch.float32), latents_of()
    decoder = FrameByFrame(as_causal_decoder(vae))
    with torch.no_grad():
        found = decode(decoder, latents)
        alone = torch.cat([vae.decode(latents[:, :, k : k + 1]).sample for k in range(3)], dim=2)
        causal = decode(decoder.inner, latents)
    assert decoder.num_frames(3) == found.shape[2] == alone.shape[2]
    torch.testing.assert_close(found.clamp(-1, 1), alone.clamp(-1, 1), atol=1e-5, rtol=0)
    assert causal.shape[2] > 3
    if len(decoder.inner.groups(3)) == 3:
        torch.testing.assert_close(found[:, :, 0], causal[:, :, 0], msg="the first is the first anyway")
    assert not torch.allclose(found[:, :, 1:], causal[:, :, -2:], atol=0.01), "the others had a cache"


@pytest.mark.parametrize("loss_fn", [curved, looking_back(1)])
def test_every_strategy_has_the_same_gradient_and_it_is_not_the_clips(loss_fn):
    vae = wan()
    decoder, latents = FrameByFrame(as_causal_decoder(vae)), latents_of(torch.float64).requires_grad_()
    target = torch.rand(1, 3, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    shape = decode(decoder, latents.detach()).shape
    target = torch.nn.functional.interpolate(target, shape[2:])
    example = decoder, latents, target, None
    loss, expected = gradients(example, loss_fn, Full())
    strategies = [Exact(), Truncated(1)] if loss_fn is not curved else [Exact(), Truncated(0), Truncated(2)]
    for strategy in strategies:
        found_loss, found = gradients(example, loss_fn, strategy)
        assert float(abs(found_loss - loss)) < 1e-12 and difference(found, expected) < 1e-9
    # One latent's loss reaches that latent alone, and through the causal decoder those before it too.
    for inner, reaches in ((decoder, False), (decoder.inner, True)):
        latents.grad = None
        frames = decode(inner, latents)
        curved(frames[:, :, -1:], torch.zeros_like(frames[:, :, -1:])).sum().backward()
        assert bool(latents.grad[:, :, :2].any()) == reaches and latents.grad[:, :, 2].any()


def test_a_loss_of_the_whole_clip_needs_as_many_targets_as_latents():
    decoder = FrameByFrame(as_causal_decoder(wan()))
    with pytest.raises(ValueError, match="decode to frames 0…2, but the target has 5"):
        pixel_loss(latents_of(torch.float64), torch.zeros(1, 3, 5, 4, 4, dtype=torch.float64), decoder, curved)
