"""What the strategies hold at once, counted in the bytes that autograd saves for backward."""

import gc

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, SpatialTiles, Truncated, pixel_loss
from chopgrad_ns.chopgrad.meter import peak_bytes
from tests.chopgrad.decoders import DECODERS, curved, example
from tests.chopgrad.meters import SavedBytes


def small(latent_frames: int, size: int = 4, name: str = "wan2.1"):
    return example(DECODERS[name](torch.float32), latent_frames, size=size, dtype=torch.float32, side=False)


def peak(backprop, latent_frames: int, name: str = "wan2.1") -> int:
    decoder, latents, target, side = small(latent_frames, name=name)
    gc.collect()
    with SavedBytes() as saved:
        pixel_loss(latents, target, decoder, curved, backprop, side=side).backward()
    gc.collect()
    assert saved.now == 0
    return saved.peak


@pytest.fixture(scope="module")
def group_bytes() -> float:
    """Activations of one later group in the full graph."""
    return (peak(Full(), 8) - peak(Full(), 4)) / 4


def test_the_full_graph_grows_with_the_clip(group_bytes):
    assert peak(Full(), 8) > 7 * group_bytes


@pytest.mark.parametrize("backprop", [Exact(), Exact(keep_every=3), Exact(offload="cpu")], ids=str)
def test_exact_holds_one_group(backprop, group_bytes):
    short, long = peak(backprop, 4), peak(backprop, 8)
    assert long < 1.1 * group_bytes
    assert long - short < 0.02 * group_bytes  # four more latent frames


@pytest.mark.parametrize("distance", [0, 1, 3])
def test_truncated_holds_as_many_groups_as_its_window(distance, group_bytes):
    held = [peak(Truncated(distance), frames) for frames in (5, 8)]
    assert (distance + 0.9) * group_bytes < held[1] < (distance + 1.1) * group_bytes
    assert held[1] - held[0] < 0.1 * group_bytes


def test_checkpointed_blocks_hold_half_a_group_or_less(group_bytes):
    """Half, in a decoder of nine blocks; of a group of full size it is a smaller part."""
    short, long = peak(Exact(checkpoint_blocks=True), 4), peak(Exact(checkpoint_blocks=True), 8)
    assert long < 0.55 * group_bytes
    assert long - short < 0.02 * group_bytes


@pytest.mark.parametrize("name", ["magvit", "mochi, framewise"])
def test_checkpointed_blocks_of_decoders_whose_adapter_makes_them(name):
    checked, longer, exact = (peak(Exact(checkpoint_blocks=blocks), frames, name)
                              for blocks, frames in ((True, 4), (True, 8), (False, 8)))
    assert longer < 0.6 * exact
    assert longer - checked < 0.02 * exact


def test_tiles_hold_the_groups_of_a_tile():
    def held(backprop, size):
        decoder, latents, target, _ = small(3, size)
        with SavedBytes() as saved:
            pixel_loss(latents, target, decoder, curved, backprop).backward()
        return saved.peak

    for strategy in (Full, Truncated, Exact):
        tiled = held(strategy(tiles=SpatialTiles(4, 4, 1)), 12)
        assert tiled < 1.1 * held(strategy(), 6), "a tile in the middle and its halo"
        assert tiled < 0.4 * held(strategy(), 12)


def test_what_is_allocated_falls_with_what_is_saved():
    """By the allocator's account, states, temporaries and gradients included."""
    decoder, latents, target, side = small(6, size=8)
    step = lambda backprop: pixel_loss(latents, target, decoder, curved, backprop, side=side).backward()  # noqa: E731
    peaks = [peak_bytes(lambda: step(backprop), latents.device)
             for backprop in (Full(), Exact(), Exact(checkpoint_blocks=True), Exact(keep_every=3, checkpoint_blocks=True))]
    assert peaks[1] < 0.6 * peaks[0] and peaks[2] < 0.85 * peaks[1] and peaks[3] < 0.95 * peaks[2]


def states(keep_every: int, latent_frames: int = 6) -> int:
    """States of the decoder that the loss holds on to between forward and backward."""
    decoder, latents, target, side = small(latent_frames)
    loss = pixel_loss(latents, target, decoder, curved, Exact(keep_every=keep_every), side=side)
    return len(loss.grad_fn.states)


def test_only_every_kth_state_is_kept():
    """Of six groups; the last waits with its graph."""
    assert [states(k) for k in (1, 2, 3, 6)] == [5, 3, 2, 1]
