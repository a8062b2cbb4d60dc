"""DISTS against piq, Gram matrices against a plain loop, and what is said where weights are missing or broken."""

import piq
import pytest
import torch
import torchvision

from chopgrad_ns.errors import UserError
from chopgrad_ns.losses import dists, dists_loss, vgg_gram, vgg_gram_loss
from chopgrad_ns.losses.pretrained import VGG_FILE
from tests.losses.conftest import DISTS_FILE


def pictures(height: int = 64, width: int = 72):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, height, width, generator=generator)
    return target + 0.2 * torch.randn(target.shape, generator=generator), target


@pytest.fixture
def piqs(monkeypatch, random_hub):
    """piq's own DISTS on the same files; it insists on a classifier that torchvision's file has and ours has not."""
    monkeypatch.setattr(torchvision.models.VGG, "load_state_dict",
                        lambda self, state, strict=True: torch.nn.Module.load_state_dict(self, state, strict=False))
    return piq.DISTS(reduction="none")


@pytest.mark.parametrize("size", [(64, 72), (260, 264)])
def test_dists_is_piqs(piqs, size):
    prediction, target = (x.requires_grad_() for x in pictures(*size))
    found, expected = dists()(prediction, target), piqs(prediction, target)
    assert found.shape == (2,) and torch.allclose(found, expected, atol=1e-6) and found.min() > 1e-3
    slopes = [torch.autograd.grad(values.sum(), prediction)[0] for values in (found, expected)]
    assert torch.allclose(*slopes, rtol=1e-4, atol=1e-7 * float(slopes[1].abs().max())) and slopes[0].norm() > 0


def plain_gram_distance(features, prediction, target):
    """By the definition, one entry of one matrix at a time (of few: the rest would take an hour)."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, y = (((picture - mean.view(3, 1, 1)) / std.view(3, 1, 1))[None] for picture in (prediction, target))
    total = 0.0
    for layer in features:
        x, y = layer(x), layer(y)
        if layer in (features[3], features[8], features[15], features[22]):
            c, h, w = x.shape[1:]
            for i in range(c):
                for_i = [(f[0, i] * f[0]).sum(dim=(1, 2)) / (c * h * w) for f in (x, y)]
                for j in range(c):
                    total += float(for_i[0][j] - for_i[1][j]) ** 2
    return total


def test_gram_is_the_definition(random_hub, random_vgg):
    features = torchvision.models.vgg16(weights=None, init_weights=False).features
    features.load_state_dict({name.removeprefix("features."): value for name, value in random_vgg.items()})
    prediction, target = pictures()
    with torch.no_grad():
        expected = plain_gram_distance(features.eval(), prediction[1], target[1])
    assert vgg_gram()(prediction, target)[1] == pytest.approx(expected, rel=1e-4) and expected > 1e-4


def test_gram_compares_textures_not_places(random_hub):
    """Stripes moved by half a period differ more from pixel to pixel than coarser ones, but not in texture."""
    x = torch.arange(96.0).view(1, 1, 1, -1)
    stripes = (0.5 + 0.4 * torch.sin(2 * torch.pi * x / 32)).expand(1, 3, 96, 96)
    moved, coarser = stripes.roll(16, dims=3), (0.5 + 0.4 * torch.sin(2 * torch.pi * x / 96)).expand(1, 3, 96, 96)
    assert vgg_gram()(moved, stripes) < 0.5 * vgg_gram()(coarser, stripes)
    assert (moved - stripes).abs().mean() > (coarser - stripes).abs().mean()


@pytest.mark.parametrize("network", [dists, vgg_gram])
def test_networks_are_frozen_and_kept(random_hub, network):
    assert network() is network() and network().name in ("dists", "vgg_gram")
    assert not any(p.requires_grad for p in network().parameters()) and not network().network.training


@pytest.mark.parametrize("network, loss", [(dists, dists_loss), (vgg_gram, vgg_gram_loss)])
def test_as_losses_they_are_per_frame_and_reach_the_prediction(random_hub, network, loss):
    prediction, target = pictures()
    clip = lambda x: (2 * x - 1)[:, :, None].expand(-1, -1, 2, -1, -1)  # noqa: E731
    shown = clip(prediction).clone().requires_grad_()
    values = loss(shown, clip(target))
    assert values.shape == (2, 2) and torch.allclose(values[:, 1], network()(prediction, target), rtol=1e-4)
    gradient, = torch.autograd.grad(values.sum(), shown)
    step = shown - 0.02 * gradient / gradient.square().sum(dim=(1, 3, 4), keepdim=True).sqrt()
    assert (loss(step, clip(target)) < values).all()


@pytest.mark.parametrize("loss, what", [(dists_loss, "DISTS"), (vgg_gram_loss, "VGG-Gram")])
def test_missing_vgg_is_named(empty_hub, loss, what):
    target = torch.zeros(1, 3, 1, 64, 64)
    with pytest.raises(UserError, match=f"{what} needs {VGG_FILE}, which is neither in {empty_hub} nor to be .*; put .*{VGG_FILE} there"):
        loss(target, target)


def test_missing_weights_of_dists_are_named(empty_hub, random_vgg):
    empty_hub.mkdir(parents=True)
    torch.save(random_vgg, empty_hub / VGG_FILE)
    with pytest.raises(UserError, match=f"DISTS needs {DISTS_FILE}, which is neither in {empty_hub}.*put .*{DISTS_FILE} there"):
        dists()


@pytest.mark.parametrize("content", [b"<html>404</html>", {"features.0.weight": torch.zeros(1)}, torch.zeros(2)])
def test_broken_vgg_is_named(empty_hub, content):
    empty_hub.mkdir(parents=True)
    if isinstance(content, bytes):
        (empty_hub / VGG_FILE).write_bytes(content)
    else:
        torch.save(content, empty_hub / VGG_FILE)
    with pytest.raises(UserError, match=f"{VGG_FILE} does not hold the weights that .* has; delete it"):
        vgg_gram()


def test_vgg_of_another_shape_is_named(empty_hub, random_vgg):
    empty_hub.mkdir(parents=True)
    torch.save({name: torch.zeros(1) for name in random_vgg}, empty_hub / VGG_FILE)
    with pytest.raises(UserError, match="is not torchvision's VGG16; delete it"):
        vgg_gram()
