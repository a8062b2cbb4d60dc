"""Gradients of the strategies against plain autograd, for every class that has an adapter."""

import pytest
import torch

from chopgrad_ns.chopgrad import Exact, Full, Truncated
from tests.chopgrad.decoders import CLIP, DECODERS, curved, difference, example, gradients, looking_back
from tests.chopgrad.meters import SavedBytes

EVERY = pytest.mark.parametrize("name", DECODERS)
KINDS = ("latents", "side", "parameter")


def clip_of(name, dtype, batch=1):
    return example(DECODERS[name](dtype), CLIP.get(name, 3), batch, size=2, dtype=dtype)


def by_kind(found: dict, expected: dict) -> dict[str, float]:
    """Relative L2 differences: the largest over tensors of each kind."""
    assert found.keys() == expected.keys()
    return {kind: difference(*({name: value for name, value in each.items() if name.startswith(kind)}
                               for each in (found, expected))) for kind in KINDS}


@EVERY
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_exact_is_full(name, dtype, tolerance):
    example_ = clip_of(name, dtype)
    decoder, latents, _, side = example_
    loss, expected = gradients(example_, curved, Full())
    found_loss, found = gradients(example_, curved, Exact())
    assert abs(found_loss - loss) <= tolerance * abs(loss)
    assert max(by_kind(found, expected).values()) <= tolerance
    groups = decoder.groups(latents.shape[2])
    assert len(groups) == (1 if name == "mochi" else 3)
    assert all(expected["latents"][:, :, group].norm() > 0 for group in groups)
    assert sum(key.startswith("side") for key in expected) == 2 * len(groups)
    assert sum(key.startswith("parameter") for key in expected) == len(list(decoder.parameters()))


@EVERY
def test_options_of_exact(name):
    example_ = clip_of(name, torch.float64, batch=2)
    _, expected = gradients(example_, looking_back(2), Full())
    _, found = gradients(example_, looking_back(2), Exact(offload="cpu", keep_every=2))
    assert max(by_kind(found, expected).values()) <= 1e-9


@EVERY
@pytest.mark.parametrize("strategy", [Exact(checkpoint_blocks=True), Exact("cpu", 2, checkpoint_blocks=True)], ids=str)
def test_exact_with_checkpointed_layers_is_full(name, strategy):
    """A group's graph keeps less than with all layers' activations, and the gradients are the same."""
    example_ = clip_of(name, torch.float64)
    decoder = example_[0]
    with SavedBytes() as saved:
        loss, expected = gradients(example_, curved, Full())
    with SavedBytes() as saved_exact:
        gradients(example_, curved, Exact())
    with SavedBytes() as saved_layers:
        found_loss, found = gradients(example_, curved, strategy)
    assert saved_layers.peak < 0.8 * saved_exact.peak <= saved.peak
    assert abs(found_loss - loss) <= 1e-9 * abs(loss)
    assert max(by_kind(found, expected).values()) <= 1e-9
    assert all(expected[name].norm() > 0 for name in expected if name.startswith("side"))
    layers = decoder.layers()
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
