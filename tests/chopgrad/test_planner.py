"""What the planner foretells against what is then allocated, and its choice."""

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, SpatialTiles, pixel_loss, plan
from chopgrad_ns.chopgrad.meter import peak_bytes
from chopgrad_ns.chopgrad.profile.methods import mean_square
from chopgrad_ns.chopgrad.profile.subject import load_decoder
from tests.chopgrad.decoders import Echo, curved, example, wan

SHAPES = {(1, 4, 9, 7, 11): None, (2, 4, 4, 12, 5): 2}
"""Of latents, with the crop that is measured: as by default, and smaller."""
TiB = 2**40


@pytest.fixture(scope="module")
def decoder():
    return example(wan("2.1", torch.float32), 1, dtype=torch.float32, side=False)[0]


@pytest.fixture(scope="module")
def plans(decoder):
    return {shape: plan(decoder, shape, TiB, loss_fn=curved, crop=crop, halo=2) for shape, crop in SHAPES.items()}


def measured(decoder, shape, strategy) -> int:
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
    batch, _, frames, height, width = shape
    target = torch.zeros(batch, 3, decoder.num_frames(frames), 4 * height, 4 * width)
    sources = [latents, *decoder.parameters()]
    return peak_bytes(lambda: torch.autograd.grad(pixel_loss(latents, target, decoder, curved, strategy), sources),
                      latents.device)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_peaks_are_within_15_percent(shape, decoder, plans):
    alternatives = plans[shape].alternatives
    tiled = [one for one in alternatives if one.strategy.tiles]
    untiled = [one for one in alternatives if not one.strategy.tiles]
    assert {Full(), Exact(), Exact(keep_every=2), Exact(checkpoint_blocks=True)} <= {one.strategy for one in untiled}
    for one in [*untiled[:5], tiled[0]]:
        assert one.peak_bytes == pytest.approx(measured(decoder, shape, one.strategy), rel=0.15), one.strategy


SMALL = (2, 4, 4, 12, 5)


def test_the_fastest_that_fits_is_chosen(plans):
    alternatives = plans[SMALL].alternatives
    assert plans[SMALL].strategy == Full() == alternatives[0].strategy
    times = [one.relative_time for one in alternatives]
    assert times == sorted(times) and times[1] == pytest.approx(5 / 4) and alternatives[1].strategy == Exact()
    full, exact = alternatives[:2]
    assert exact.peak_bytes < full.peak_bytes
    chosen = plans[SMALL].within(full.peak_bytes - 1)
    assert (chosen.strategy, chosen.peak_bytes) == (Exact(), exact.peak_bytes)
    assert "→  1.25" in str(chosen) and str(chosen).count("\n") == len(alternatives)


def test_tiles_come_last_and_the_smallest_budget_is_named(plans):
    alternatives = plans[SMALL].alternatives
    least = min(alternatives, key=lambda one: one.peak_bytes)
    assert isinstance(least.strategy.tiles, SpatialTiles)
    assert all(one.relative_time > other.relative_time for one in alternatives if one.strategy.tiles
               for other in alternatives if not other.strategy.tiles)
    with pytest.raises(ValueError, match=f"need {least.peak_bytes} bytes .* the budget is 1000"):
        plans[SMALL].within(1000)


def test_decoders_without_blocks_with_side_tensors_and_nothing_left_behind():
    echo = Echo(torch.float32)

    def side(shape):
        return [{"bias": torch.zeros(*shape[:2], group.stop - group.start, *shape[3:])} for group in echo.groups(shape[2])]

    found = plan(echo, (1, 3, 11, 9, 9), TiB, side=side, crop=2)
    assert found.strategy == Full() and not any(getattr(one.strategy, "checkpoint_blocks", False) for one in found.alternatives)
    assert all(parameter.grad is None for parameter in echo.parameters())


def test_shapes_that_are_none(decoder):
    with pytest.raises(ValueError, match=r"shape is \(1, 4, 0, 8, 8\), crop None"):
        plan(decoder, (1, 4, 0, 8, 8), TiB)


@pytest.mark.gpu
def test_on_a_gpu_within_15_percent():
    """For a decoder so wide that tensors, not libraries' work spaces, are what takes the memory."""
    decoder = load_decoder("wan2.1", 48, "bfloat16", torch.device("cuda"))
    shape = (1, 16, 6, 44, 60)
    latents = torch.randn(shape, device="cuda", dtype=torch.bfloat16).requires_grad_()
    target = torch.zeros(1, 3, decoder.num_frames(6), 8 * 44, 8 * 60, device="cuda", dtype=torch.bfloat16)
    found = {}
    alternatives = plan(decoder, shape, TiB).alternatives
    tiled = next(one for one in alternatives if one.strategy.tiles)
    for one in [*(one for one in alternatives if not one.strategy.tiles), tiled]:
        step = lambda: torch.autograd.grad(pixel_loss(latents, target, decoder, mean_square, one.strategy), latents)  # noqa: B023, E731
        step()
        found[one.strategy] = one.peak_bytes / peak_bytes(step, latents.device)
    assert len(found) > 6 and all(0.85 < ratio < 1.15 for ratio in found.values()), found
