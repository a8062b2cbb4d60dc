"""Warped flicker: against frame difference where nothing moves, a plain loop where it does, and its flow's way in."""

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, Truncated, pixel_loss
from chopgrad_ns.losses import Weighted, frame_difference, warped_flicker, with_flow
from tests.chopgrad.decoders import difference, example, gradients, wan


def clips(frames: int = 3, size=(6, 7)):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, frames, *size, generator=generator) * 1.4 - 0.7
    prediction = target + 0.2 * torch.randn(target.shape, generator=generator)
    return prediction, target, 1.5 * torch.randn(2, 2, frames, *size, generator=generator)


def test_without_motion_it_is_frame_difference():
    prediction, target, flow = clips()
    expected = frame_difference(prediction, target)
    assert torch.allclose(warped_flicker(prediction, with_flow(target, 0 * flow)), expected, atol=1e-5)
    weighted = torch.cat([target, torch.rand_like(target[:, :1]).round()], dim=1)
    assert torch.allclose(warped_flicker(prediction, with_flow(weighted, 0 * flow)), frame_difference(prediction, weighted), atol=1e-5)
    assert warped_flicker.context_frames == 1


def test_errors_that_move_with_the_flow_do_not_flicker():
    _, target, flow = clips(frames=4, size=(8, 12))
    error = torch.randn(2, 3, 1, 8, 12)
    moving = torch.cat([error.roll(2 * t, dims=4) for t in range(4)], dim=2)  # two pixels to the right a frame
    flow = torch.tensor([-2.0, 0.0]).view(1, 2, 1, 1, 1).expand_as(flow)
    assert warped_flicker(target + moving, with_flow(target, flow)).abs().max() < 1e-5
    for wrong in (-flow, 0 * flow, flow.flip(1)):
        assert warped_flicker(target + moving, with_flow(target, wrong))[:, 1:].min() > 0.1


def plain(prediction, target, weight, flow):
    """One pixel at a time: the error before at the place the flow points to, mixed from its four neighbours by weight."""
    error = (prediction - target) / 2
    values = torch.zeros(prediction.shape[0], prediction.shape[2])
    height, width = prediction.shape[-2:]
    for b in range(values.shape[0]):
        for t in range(1, values.shape[1]):
            total = norm = 0.0
            for y in range(height):
                for x in range(width):
                    px, py = x + float(flow[b, 0, t, y, x]), y + float(flow[b, 1, t, y, x])
                    if not (0 <= px <= width - 1 and 0 <= py <= height - 1):
                        continue
                    x0, y0 = min(int(px), width - 2), min(int(py), height - 2)
                    before, seen = torch.zeros(3), 0.0
                    for i, share_x in ((x0, x0 + 1 - px), (x0 + 1, px - x0)):
                        for j, share_y in ((y0, y0 + 1 - py), (y0 + 1, py - y0)):
                            share = share_x * share_y * float(weight[b, 0, t - 1, j, i])
                            before, seen = before + share * error[b, :, t - 1, j, i], seen + share
                    here = seen * float(weight[b, 0, t, y, x])
                    if here:
                        total += here * float((error[b, :, t, y, x] - before / seen).abs().mean())
                    norm += here
            values[b, t] = total / max(norm, 1.0)
    return values


def test_it_is_the_definition():
    prediction, target, flow = clips()
    weight = (torch.rand(target[:, :1].shape, generator=torch.Generator().manual_seed(1)) - 0.2).clamp(0, 1)
    found = warped_flicker(prediction, with_flow(torch.cat([target, weight], dim=1), flow))
    assert torch.allclose(found, plain(prediction, target, weight, flow), atol=1e-5) and found[:, 1:].min() > 0.01


@pytest.mark.parametrize("backprop", [Exact(), Exact(keep_every=2), Truncated(3)], ids=str)
@pytest.mark.parametrize("by_slices", [True, False])
def test_flow_reaches_it_group_by_group(backprop, by_slices):
    """Also across group boundaries, whichever order groups come in: as with the whole clip at once."""
    decoder, latents, target, _ = example(wan("2.1"), latent_frames=4, side=False)
    flow = torch.randn(1, 2, *target.shape[2:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    carried = with_flow(target, flow)
    loss_fn = Weighted({"mse": 1.0, "warped_flicker": 0.5})
    full_loss, expected = gradients((decoder, latents, carried, None), loss_fn, Full())
    frames = torch.cat([decoder_frames for decoder_frames in _decoded(decoder, latents)], dim=2)
    assert torch.allclose(loss_fn(frames, carried).mean(), full_loss)
    given = with_flow(target, lambda span: flow[:, :, span]) if by_slices else carried
    loss, found = gradients((decoder, latents, given, None), loss_fn, backprop)
    assert torch.allclose(loss, full_loss) and difference(found, expected) < 1e-9
    _, without = gradients((decoder, latents, carried, None), Weighted({"mse": 1.0}), Full())
    assert difference(expected, without) > 1e-3


def _decoded(decoder, latents):
    state = decoder.initial_state()
    for group in decoder.groups(latents.shape[2]):
        frames, state = decoder.decode_group(latents[:, :, group], state)
        yield frames


def test_targets_and_flows_that_do_not_fit_are_refused():
    prediction, target, flow = clips()
    with pytest.raises(ValueError, match="has 3 channels and no flow; make it with `with_flow"):
        warped_flicker(prediction, target)
    for bad in (flow[:, :1], flow[:, :, 1:], flow[..., 1:]):
        with pytest.raises(ValueError, match="the flow has shape"):
            with_flow(target, bad)
    with pytest.raises(ValueError, match="the target"):
        with_flow(with_flow(target, flow), flow)
    decoder, latents, target, _ = example(wan("2.1"), latent_frames=2, side=False)
    with pytest.raises(ValueError, match="channels and no flow"):
        pixel_loss(latents, target, decoder, warped_flicker)
