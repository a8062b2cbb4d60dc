"""Strategies inside a training loop: scaled, accumulated, adapted in part, data-parallel."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from chopgrad_ns.chopgrad import Exact, Full, SpatialTiles, Truncated, as_causal_decoder, pixel_loss
from tests.chopgrad.decoders import curved, difference, example, gradients, looking_back, wan

OPTIONS = [Exact(), Exact("cpu", 2, checkpoint_blocks=True), Truncated(9), Exact(tiles=SpatialTiles(9, 9, 0))]
EVERY = pytest.mark.parametrize("backprop", OPTIONS, ids=str)


@EVERY
def test_a_loss_scale_scales_gradients_and_nothing_else(backprop):
    example_ = example(wan(), 3)
    _, plain = gradients(example_, curved, backprop, scale=1)
    _, scaled = gradients(example_, curved, backprop, scale=2.0**16)
    assert all(torch.equal(scaled[name], value * 2**16) for name, value in plain.items())


def test_a_grad_scaler_keeps_small_float16_gradients():
    """Pixels' gradients below float16's smallest number: with the scale they come through, as in the full graph."""
    example_ = example(wan("2.1", torch.float32), 3, dtype=torch.float32)
    decoder, latents, *_ = example_
    faint = lambda prediction, target: 1e-5 * curved(prediction, target)  # noqa: E731
    found = []
    for scale, backprop in ((1, Full()), (2.0**16, Full()), (2.0**16, Exact()), (2.0**16, Exact(keep_every=2))):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        with torch.autocast("cpu", dtype=torch.float16):
            found.append(gradients(example_, lambda p, t: scaler.scale(faint(p, t)), backprop, scale=1)[1])
        found[-1] = {name: value / scale for name, value in found[-1].items()}
    _, right = gradients(example_, faint, Full(), scale=1)
    error = lambda one: float((one["latents"] - right["latents"]).norm() / right["latents"].norm())  # noqa: E731
    assert error(found[0]) > 0.1 > 3 * max(error(one) for one in found[1:])


@pytest.mark.parametrize("backprop", [Truncated(1), Full(tiles=SpatialTiles(2, 2, 1))], ids=str)
@pytest.mark.parametrize("autocast", [True, False])
def test_strategies_that_cannot_be_scaled_refuse_float16(backprop, autocast):
    decoder, latents, target, side = example(wan("2.1", torch.float32), 2, dtype=torch.float32)
    given = latents if autocast else latents.detach().half()
    with torch.autocast("cpu", dtype=torch.float16, enabled=autocast), pytest.raises(ValueError, match="decode in bfloat16"):
        pixel_loss(given, target, decoder, curved, backprop, side=side)
    assert latents.grad is None


@pytest.mark.parametrize("backprop", [Truncated(9), Exact(keep_every=2), Exact(tiles=SpatialTiles(9, 9, 0))], ids=str)
def test_bfloat16_is_as_near_to_float32_as_the_full_graph_is(backprop):
    rows = []
    for seed in range(8):  # on one clip rounding alone makes either the nearer by a quarter
        example_ = example(wan("2.1", torch.float32), dtype=torch.float32, seed=seed)
        _, right = gradients(example_, looking_back(1), Full())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            full, found = (gradients(example_, looking_back(1), strategy)[1]["latents"] for strategy in (Full(), backprop))
        right = right["latents"]
        rows.append([float((a - b).norm() / b.norm()) for a, b in ((found, right), (full, right), (found, full))])
    of_found, of_full, between = torch.tensor(rows).mean(dim=0).tolist()
    assert of_found < 1.2 * of_full < 0.1
    assert between < 2e-2


@EVERY
def test_gradients_accumulate_over_clips(backprop):
    decoder, latents, target, _ = example(wan(), 3, batch=2, side=False)
    _, both = gradients((decoder, latents, target, None), curved, Full(), scale=1)
    for tensor in (latents, *decoder.parameters()):
        tensor.grad = None
    for k in range(2):
        (pixel_loss(latents[k:k + 1], target[k:k + 1], decoder, curved, backprop) / 2).backward()
    found = {"latents": latents.grad} | {f"parameter {k}": p.grad for k, p in enumerate(decoder.parameters()) if p.grad is not None}
    assert difference(found, both) < 1e-9


class Transformer(nn.Module):
    """Latents, and side tensors of the decoder's first block, as a model makes them of the same features."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True, dtype=torch.float64)
        self.to_latents, self.to_side = nn.Linear(8, 4, dtype=torch.float64), nn.Linear(8, 16, dtype=torch.float64)

    def forward(self, noise, shape):
        features = self.layer(noise)
        as_clip = lambda tokens: tokens.view(len(noise), *shape, -1).permute(0, 4, 1, 2, 3)  # noqa: E731
        side = as_clip(self.to_side(features))
        return as_clip(self.to_latents(features)), [{"mid_block": side[:, :, k:k + 1]} for k in range(shape[0])]


@EVERY
def test_several_losses_of_what_a_transformer_made(backprop):
    """Two pixel losses of the same latents, one of others through the same decoder, and one of the latents alone."""
    decoder, _, target, _ = example(wan(), 3, batch=2, size=2, side=False)
    model = Transformer()
    noise = torch.randn(2, 12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    sources = [*model.parameters(), *decoder.parameters()]
    found = []
    for strategy in (Full(), backprop):
        latents, side = model(noise, (3, 2, 2))
        others, _ = model(noise.flip(1), (3, 2, 2))
        loss = (pixel_loss(latents, target, decoder, curved, strategy, side=side) + 0.1 * latents.square().mean()
                + pixel_loss(latents, target.flip(-1), decoder, looking_back(2), strategy)
                + 0.3 * pixel_loss(others, target, decoder, looking_back(5), strategy))
        found.append(dict(enumerate(torch.autograd.grad(loss, sources))))
    assert difference(found[1], found[0]) < 1e-9


LAYOUTS = {
    "transposed": lambda x: x.mT.contiguous().mT, "channels last": lambda x: x.to(memory_format=torch.channels_last_3d),
    "every other frame": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2], "one clip twice": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@EVERY
def test_latents_that_are_not_contiguous(backprop, layout):
    decoder, latents, target, _ = example(wan(), 3, batch=2, size=2, side=False)
    latents = LAYOUTS[layout](latents.detach()).requires_grad_()
    assert not latents.is_contiguous()
    find = lambda strategy: dict(enumerate(torch.autograd.grad(  # noqa: E731
        pixel_loss(latents, target, decoder, looking_back(1), strategy), [latents, *decoder.parameters()])))
    assert difference(find(backprop), find(Full())) < 1e-9


@EVERY
def test_parameters_alone(backprop):
    decoder, latents, target, side = example(wan(), 3)
    given = decoder, latents.detach(), target, [{name: value.detach() for name, value in group.items()} for group in side]
    _, expected = gradients(given, curved, Full())
    _, found = gradients(given, curved, backprop)
    assert difference(found, expected) < 1e-9 and all(name.startswith("parameter") for name in found)


@EVERY
def test_parameters_named_twice(backprop):
    example_ = decoder, *_ = example(wan(), 3)
    _, expected = gradients(example_, curved, Full())
    once = list(decoder.parameters())
    decoder.parameters = lambda: iter(once + once)
    _, found = gradients(example_, curved, backprop)
    assert difference({name: found[name] for name in expected}, expected) < 1e-9


@EVERY
def test_a_graph_that_is_retained_gives_the_same_again(backprop):
    decoder, latents, target, side = example(wan(), 3)
    loss = pixel_loss(latents, target, decoder, looking_back(1), backprop, side=side)
    found = [torch.autograd.grad(2 * loss, [latents, *decoder.parameters()], retain_graph=again) for again in (True, False)]
    assert all(torch.equal(first, second) for first, second in zip(*found))
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@EVERY
def test_without_grad_there_is_a_value_alone(backprop):
    decoder, latents, target, side = example(wan(), 3)
    expected = pixel_loss(latents, target, decoder, curved, Full(), side=side)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            loss = pixel_loss(latents, target, decoder, curved, backprop, side=side)
        assert not loss.requires_grad and torch.allclose(loss, expected, rtol=1e-12)


def test_a_random_loss_is_drawn_again_in_backward():
    """The value is of the first draw, the gradient is right for the second; of the last group there is one."""
    example_ = example(wan(), 3)
    groups = len(example_[0].groups(3))
    draws = []

    def noisy(prediction, target):
        draws.append(torch.randn_like(prediction))
        return curved(prediction + 0.1 * draws[-1], target)

    loss, found = gradients(example_, noisy, Exact())
    again = lambda which: gradients(example_, lambda p, t: curved(p + 0.1 * next(which), t), Full())  # noqa: E731
    assert torch.allclose(again(iter(draws[:groups]))[0], loss, rtol=1e-12)
    assert difference(found, again(iter(draws[:groups - 2:-1]))[1]) < 1e-9


class LowRank(nn.Module):
    """A causal convolution with a trained product of two thin ones beside it, as adapter libraries wrap it."""

    def __init__(self, base_layer: nn.Conv3d):
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.Conv3d(base_layer.in_channels, 2, 1, bias=False, dtype=base_layer.weight.dtype)
        self.up = nn.Conv3d(2, base_layer.out_channels, 1, bias=False, dtype=base_layer.weight.dtype)

    def forward(self, x, cache_x=None):
        return self.base_layer(x, cache_x) + self.up(self.down(x))


@EVERY
def test_low_rank_adapters_on_a_frozen_decoder(backprop):
    vae = wan().requires_grad_(False)
    for block in vae.decoder.up_blocks:
        block.resnets[0].conv1 = LowRank(block.resnets[0].conv1)
    example_ = example(vae, 3)
    _, expected = gradients(example_, looking_back(1), Full())
    _, found = gradients(example_, looking_back(1), backprop)
    assert difference(found, expected) < 1e-9
    assert sum(name.startswith("parameter") for name in expected) == 2 * len(vae.decoder.up_blocks)


class Training(nn.Module):
    """What a data-parallel trainer wraps: a model before the decoder, the decoder, and the loss in forward."""

    def __init__(self, backprop):
        super().__init__()
        self.vae = wan()
        self.vae.encoder.requires_grad_(False)
        self.vae.quant_conv.requires_grad_(False)
        self.before = nn.Conv3d(4, 4, 1, dtype=torch.float64)
        self.backprop = backprop

    def forward(self, noise, target):
        return pixel_loss(self.before(noise), target, as_causal_decoder(self.vae), looking_back(1), self.backprop)


def clips():
    generator = torch.Generator().manual_seed(4)
    return (torch.randn(2, 4, 3, 2, 2, generator=generator, dtype=torch.float64),
            torch.rand(2, 3, 5, 8, 8, generator=generator, dtype=torch.float64))


def steps(model, noise, target):
    """Two accumulated backward passes, the first without synchronisation where there is any."""
    with model.no_sync() if isinstance(model, DistributedDataParallel) else torch.enable_grad():
        model(noise, target).backward()
    model(noise.flip(-1), target).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


DATA_PARALLEL = (Exact(keep_every=2), Truncated(9))


def worker(rank: int, folder: Path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=2)
    try:
        noise, target = clips()
        for number, backprop in enumerate(DATA_PARALLEL):
            model = DistributedDataParallel(Training(backprop))
            found = steps(model, noise[rank:rank + 1], target[rank:rank + 1])
            if rank == 0:
                torch.save(found, folder / f"{number}.pt")
    finally:
        dist.destroy_process_group()


def test_two_data_parallel_processes_find_the_mean_gradient(tmp_path):
    torch.multiprocessing.spawn(worker, (tmp_path,), nprocs=2)
    expected = dict(enumerate(steps(Training(Full()), *clips())))
    for number in range(len(DATA_PARALLEL)):
        found = dict(enumerate(torch.load(tmp_path / f"{number}.pt", weights_only=True)))
        assert difference(found, expected) < 1e-9 and len(found) > 30
