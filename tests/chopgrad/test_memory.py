"""What the strategies hold at once, counted in the bytes that autograd saves for backward."""

import gc

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, Truncated, pixel_loss
from tests.chopgrad.decoders import curved, example, wan


class Saved:
    """Bytes of activations that are saved in some graph: now, and at most."""

    def __init__(self):
        self.now = self.peak = 0

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(lambda tensor: Holder(self, tensor), lambda held: held.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        return self.hooks.__exit__(*error)


class Holder:
    """A saved tensor; gone when its graph is."""

    def __init__(self, saved: Saved, tensor: torch.Tensor):
        self.saved, self.tensor = saved, tensor.detach()  # a node that held its own output would never be freed
        self.bytes = 0 if isinstance(tensor, torch.nn.Parameter) else tensor.numel() * tensor.element_size()
        saved.now += self.bytes
        saved.peak = max(saved.peak, saved.now)

    def __del__(self):
        self.saved.now -= self.bytes


def peak(backprop, latent_frames: int) -> int:
    decoder, latents, target, side = example(wan("2.1", torch.float32), latent_frames, size=4, dtype=torch.float32, side=False)
    gc.collect()
    with Saved() as saved:
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


def states(keep_every: int, latent_frames: int = 6) -> int:
    """States of the decoder that the loss holds on to between forward and backward."""
    decoder, latents, target, side = example(wan("2.1", torch.float32), latent_frames, dtype=torch.float32, side=False)
    loss = pixel_loss(latents, target, decoder, curved, Exact(keep_every=keep_every), side=side)
    return len(loss.grad_fn.states)


def test_only_every_kth_state_is_kept():
    assert [states(k) for k in (1, 2, 3, 6)] == [6, 3, 2, 1]
