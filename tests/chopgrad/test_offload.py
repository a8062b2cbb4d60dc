"""States in host memory, on a GPU: copied beside the decoding, and no less right."""

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, pixel_loss
from chopgrad_ns.chopgrad import offload
from chopgrad_ns.chopgrad.interface import map_state, state_tensors
from chopgrad_ns.chopgrad.meter import peak_bytes
from chopgrad_ns.chopgrad.offload import States
from tests.chopgrad.decoders import curved, difference, example, gradients, looking_back, wan

OPTIONS = [Exact(), Exact(offload="cpu"), Exact(offload="cpu", keep_every=2), Exact(offload="cpu", checkpoint_blocks=True)]


def on_gpu(dtype, latent_frames: int, size: int):
    decoder, latents, target, side = example(wan("2.1", dtype), latent_frames, size=size, dtype=dtype, side=False)
    decoder.vae.to("cuda")
    return decoder, latents.detach().cuda().requires_grad_(), target.cuda(), side


@pytest.mark.gpu
@pytest.mark.parametrize("backprop", OPTIONS, ids=str)
@pytest.mark.parametrize("piece", [2**24, 1000])
def test_gradients_are_those_of_the_full_graph(backprop, piece, monkeypatch):
    monkeypatch.setattr(offload, "PIECE", piece)
    example_ = on_gpu(torch.float64, 7, 6)
    loss, expected = gradients(example_, looking_back(1), Full())
    for _ in range(3):  # pinned memory is used again
        found_loss, found = gradients(example_, looking_back(1), backprop)
        assert abs(found_loss - loss) <= 1e-9 * abs(loss) and difference(found, expected) <= 1e-9


@pytest.mark.gpu
def test_under_autocast_with_a_grad_scaler():
    example_ = on_gpu(torch.float32, 5, 8)
    _, right = gradients(example_, curved, Full())
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cuda", dtype=dtype):
            found = [gradients(example_, curved, backprop, scale=2.0**10)[1] for backprop in (Full(), Exact(), OPTIONS[-1])]
        error = lambda one: float((one["latents"] / 2**10 - right["latents"] / 1.7).norm() / (right["latents"] / 1.7).norm())  # noqa: E731
        assert max(error(one) for one in found[1:]) < 1.2 * error(found[0]) < 0.1
        assert max(difference({"latents": one["latents"]}, {"latents": found[0]["latents"]}) for one in found[1:]) < 2e-2


@pytest.mark.gpu
def test_device_memory_does_not_grow_with_the_clip():
    def peak(backprop, frames):
        decoder, latents, target, _ = on_gpu(torch.float32, frames, 24)
        step = lambda: pixel_loss(latents, target, decoder, curved, backprop).backward()  # noqa: E731
        step()
        return peak_bytes(step, latents.device)

    growth = {backprop: peak(backprop, 12) - peak(backprop, 6) for backprop in (Full(), Exact(), Exact(offload="cpu"))}
    assert growth[Exact(offload="cpu")] < 0.02 * growth[Full()] < growth[Exact()] < 0.3 * growth[Full()]


@pytest.mark.gpu
def test_layouts_survive_the_journey():
    tensors = (torch.randn(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d), torch.randn(7, 8).t(),
               torch.randn(6, 6)[::2, 1:4], torch.tensor(3, dtype=torch.int64), torch.randn(0, 4), torch.randn(3).bfloat16())
    state = map_state(torch.Tensor.cuda, ("word", None, tensors))
    states = States("cpu", torch.device("cuda"))
    states.put(0, state)
    states.settle()
    found = states.take(0)
    assert found[:2] == ("word", None) and len(states) == 0
    for one, other in zip(state_tensors(found), state_tensors(state)):
        assert one.is_cuda and one.dtype == other.dtype and torch.equal(one, other)
    assert state_tensors(found)[0].is_contiguous(memory_format=torch.channels_last_3d)


def test_on_the_cpu_states_stay_as_they_are():
    states = States("cpu", torch.device("cpu"))
    state = ("word", (torch.ones(2),))
    states.put(3, state)
    states.settle()
    states.prefetch(2)
    assert 3 in states and states.last_before(9) == 3
    assert states.get(3)[1][0] is state[1][0] and states.take(3)[0] == "word" and 3 not in states
