"""Gradients of the strategies against plain autograd, for every class that has an adapter."""

from dataclasses import replace

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, SpatialTiles, Truncated
from tests.chopgrad.decoders import CLIP, DECODERS, curved, difference, example, gradients, looking_back
from tests.chopgrad.meters import SavedBytes

EVERY = pytest.mark.parametrize("name", DECODERS)
KINDS = ("latents", "side", "parameter")
MORE_THAN_A_GROUP = {"cogvideox": 9, "mochi, framewise": 13, "kvae": 17, "kandinsky-6": 17, "wan2.1, twice in time": 5}
"""Frames; of others, 3 are."""
OPTIONS = [Exact(), Exact("cpu", 2), Exact(keep_every=3, checkpoint_blocks=True), Exact("cpu", 2, True)]


def clip_of(name, dtype, batch=1):
    return example(DECODERS[name](dtype), CLIP.get(name, 3), batch, size=2, dtype=dtype)


def by_kind(found: dict, expected: dict) -> dict[str, float]:
    """Relative L2 differences: the largest over tensors of each kind."""
    assert found.keys() == expected.keys()
    return {kind: difference(*({name: value for name, value in each.items() if name.startswith(kind)}
                               for each in (found, expected))) for kind in KINDS}


@EVERY
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_every_option_of_exact_is_full(name, dtype, tolerance):
    """Under a loss that looks back over more than a group."""
    example_ = clip_of(name, dtype, batch=1 if name == "kvae" else 2)  # it is the slowest
    decoder, latents, *_ = example_
    loss_fn = looking_back(MORE_THAN_A_GROUP.get(name, 3))
    loss, expected = gradients(example_, loss_fn, Full())
    for strategy in OPTIONS:
        found_loss, found = gradients(example_, loss_fn, strategy)
        assert abs(found_loss - loss) <= tolerance * abs(loss), strategy
        assert max(by_kind(found, expected).values()) <= tolerance, strategy
    groups = decoder.groups(latents.shape[2])
    assert len(groups) == (1 if name == "mochi" else 3)
    assert all(expected["latents"][:, :, group].norm() > 0 for group in groups)
    assert sum(key.startswith("side") for key in expected) == 2 * len(groups)
    assert sum(key.startswith("parameter") for key in expected) == len(list(decoder.parameters()))


@EVERY
@pytest.mark.parametrize("kind", ["weights", "autocast"])
def test_bfloat16_is_as_near_to_float32_as_the_full_graph_is(name, kind):
    """With all in bfloat16, and under autocast. `pytest -rP` shows the errors of latents/side tensors/parameters."""
    example_ = clip_of(name, torch.float32)
    _, right = gradients(example_, looking_back(2), Full())
    if kind == "weights":
        example_ = in_bfloat16(example_)
    find = lambda strategy: {  # noqa: E731
        key: value.float() for key, value in gradients(example_, looking_back(2), strategy)[1].items()}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
        full, plain, last = find(Full()), find(Exact()), find(OPTIONS[-1])
    away, error, error_of_full = by_kind(last, full), joined(last, right), joined(full, right)
    print(f"{name}, {kind}: Exact from Full {shown(away)}; from float32 {shown(error)}, Full {shown(error_of_full)}")
    assert max(*away.values(), *by_kind(plain, full).values()) <= 2e-2
    for found in (error, joined(plain, right)):
        assert all(found[part] <= 1.1 * error_of_full[part] < 0.1 for part in KINDS)


def in_bfloat16(example_):
    decoder, latents, target, side = example_
    decoder.vae.bfloat16()
    leaf = lambda tensor: tensor.detach().bfloat16().requires_grad_()  # noqa: E731
    side = [{name: leaf(value) for name, value in group.items()} for group in side]
    return decoder, leaf(latents), target.bfloat16(), side


def joined(found: dict, expected: dict) -> dict[str, float]:
    """Relative L2 differences of all tensors of each kind as one."""
    parts = {kind: [name for name in expected if name.startswith(kind)] for kind in KINDS}
    one = lambda of, names: {"": torch.cat([of[name].flatten() for name in names])}  # noqa: E731
    return {kind: difference(one(found, names), one(expected, names)) for kind, names in parts.items()}


def shown(errors: dict[str, float]) -> str:
    return "/".join(f"{error:.1e}" for error in errors.values())


class LowRank(torch.nn.Module):
    """A weight with a trained product of two thin matrices added."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        generator = torch.Generator().manual_seed(weight.numel())
        shapes = ((len(weight), 2), (2, weight[0].numel()))
        self.left, self.right = (torch.nn.Parameter(0.1 * torch.randn(shape, generator=generator, dtype=weight.dtype))
                                 for shape in shapes)

    def forward(self, weight):
        return weight + (self.left @ self.right).view_as(weight)


@EVERY
def test_low_rank_updates_of_a_frozen_decoder(name):
    vae = DECODERS[name](torch.float64).requires_grad_(False)
    layers = [module for module in vae.decoder.modules() if isinstance(module, (torch.nn.Conv3d, torch.nn.Linear))]
    for layer in layers:
        torch.nn.utils.parametrize.register_parametrization(layer, "weight", LowRank(layer.weight))
    example_ = example(vae, CLIP.get(name, 3), size=2)
    _, expected = gradients(example_, looking_back(2), Full())
    _, found = gradients(example_, looking_back(2), OPTIONS[-1])
    assert max(by_kind(found, expected).values()) <= 1e-9
    assert sum(key.startswith("parameter") for key in expected) == 2 * len(layers) > 20


@EVERY
def test_tiles_of_every_strategy(name):
    example_ = clip_of(name, torch.float64)
    _, expected = gradients(example_, curved, Full(tiles=SpatialTiles(2, 1, 0)))
    for strategy in (OPTIONS[-1], Truncated(2)):
        _, found = gradients(example_, curved, replace(strategy, tiles=SpatialTiles(2, 1, 0)))
        assert max(by_kind(found, expected).values()) <= 1e-9


@EVERY
def test_exact_with_checkpointed_layers_holds_less(name):
    example_ = clip_of(name, torch.float64)
    peaks = []
    for strategy in (Full(), Exact(), Exact(checkpoint_blocks=True)):
        with SavedBytes() as saved:
            gradients(example_, curved, strategy)
        peaks.append(saved.peak)
    assert peaks[2] < 0.8 * peaks[1] <= peaks[0]
    layers = example_[0].layers()
    assert all(a is b or b not in set(a.modules()) for a in layers for b in layers)


@EVERY
def test_truncated_is_full_when_it_covers_the_clip_and_not_when_it_does_not(name):
    example_ = clip_of(name, torch.float64)
    _, expected = gradients(example_, curved, Full())
    errors = {distance: by_kind(gradients(example_, curved, Truncated(distance))[1], expected) for distance in (0, 1, 2)}
    assert max(errors[2].values()) <= 1e-9
    if name == "mochi":  # its clip is one group
        assert max(errors[0].values()) <= 1e-9
    else:
        assert min(errors[0].values()) > 1e-2 and min(errors[1].values()) > 1e-5
