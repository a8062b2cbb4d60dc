"""The perceptual distance: which one it is, that its weights are whole, and that it orders pictures."""

from pathlib import Path

import lpips
import pytest
import torch
from stlpips_pytorch import stlpips
from torchvision.transforms.functional import gaussian_blur

from chopgrad_ns import losses
from chopgrad_ns.errors import UserError
from chopgrad_ns.losses import lpips_loss, perceptual, perceptual_loss
from chopgrad_ns.losses.pretrained import VGG_FILE


def pictures(height: int = 64, width: int = 80, count: int = 2) -> torch.Tensor:
    """Shapes with edges: stripes that get narrower, in colours."""
    x = torch.linspace(0, 1, width).view(1, 1, 1, -1)
    y = torch.linspace(0, 1, height).view(1, 1, -1, 1)
    phase = torch.arange(3.0).view(1, 3, 1, 1) + torch.arange(float(count)).view(-1, 1, 1, 1)
    return (torch.sin(40 * x**2 + 9 * y + phase) > 0).float() * 0.8 + 0.1


def test_without_weights_it_is_st_lpips_and_says_so_once(empty_hub, capfd):
    network = perceptual()
    assert perceptual() is network and network.name == "st_lpips"
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert VGG_FILE in err and str(empty_hub) in err and "st_lpips" in err
    assert not any(path.is_file() for path in empty_hub.parent.rglob("*"))


def test_st_lpips_weights_are_all_there(empty_hub):
    stored = torch.load(Path(stlpips.__file__).parent / "weights/vST0.0/alex_shift_tolerant.pth", weights_only=True,
                        map_location="cpu")
    state = perceptual().network.state_dict()
    named_twice = {name for name in state if name.startswith("lins.")}
    assert state.keys() - named_twice == stored.keys() and len(stored) >= 20
    assert all(torch.equal(state[name], value) for name, value in stored.items())
    assert all(torch.equal(state[name], stored["lin" + name[5:]]) for name in named_twice)
    assert not any(p.requires_grad for p in perceptual().parameters()) and not perceptual().network.training


def test_with_vgg_in_the_hub_it_is_lpips(empty_hub, random_vgg):
    empty_hub.mkdir(parents=True)
    torch.save(random_vgg, empty_hub / VGG_FILE)
    network = perceptual()
    assert network.name == "lpips" and losses.lpips() is network
    state = network.network.net.state_dict()
    assert len(state) == len(random_vgg) == 26
    assert all(torch.equal(value, random_vgg["features." + name.split(".", 1)[1]]) for name, value in state.items())
    linear = torch.load(Path(lpips.__file__).parent / "weights/v0.1/vgg.pth", weights_only=True, map_location="cpu")
    assert all(torch.equal(network.network.state_dict()[name], value) for name, value in linear.items())
    assert network(pictures(), pictures()).abs().max() == 0 and (network(pictures(), pictures().flip(-1)) > 0.01).all()


def test_a_broken_file_is_named(empty_hub):
    empty_hub.mkdir(parents=True)
    (empty_hub / VGG_FILE).write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match=f"{VGG_FILE} does not hold the weights that .*{VGG_FILE} has; delete it"):
        perceptual()


def test_lpips_by_name_is_lpips_or_nothing(empty_hub):
    target = pictures()[None].transpose(1, 2)
    with pytest.raises(UserError, match=f"LPIPS needs {VGG_FILE}, which is neither in {empty_hub} nor to be .*; put .* there"):
        lpips_loss(target, target)


@pytest.mark.parametrize("size", [(64, 80), (16, 24), (9, 40), (72, 65)])
def test_zero_for_the_same_and_more_the_more_it_is_blurred(size):
    sharp = pictures(*size)
    distances = [perceptual()(gaussian_blur(sharp, 7, sigma), sharp) for sigma in (0.4, 0.8, 1.5, 3.0)]
    assert perceptual()(sharp, sharp).abs().max() < 1e-7
    assert torch.stack(distances).diff(dim=0).min() > 0 and distances[0].min() > 0


def test_as_a_loss_it_is_the_same_distance_and_reaches_the_prediction():
    target = pictures(32, 40, 6).reshape(2, 3, 3, 32, 40).transpose(1, 2)
    prediction = (target + 0.2 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    values = perceptual_loss(2 * prediction - 1, 2 * target - 1)
    expected = perceptual()(prediction[1, :, 2][None], target[1, :, 2][None])
    assert values.shape == (2, 3) and torch.allclose(values[1, 2], expected[0], rtol=1e-4)
    gradient, = torch.autograd.grad(values.sum(), prediction)
    assert gradient.norm() > 0
    step = prediction - 0.05 * gradient / gradient.square().sum(dim=(1, 3, 4), keepdim=True).sqrt()
    assert (perceptual_loss(2 * step - 1, 2 * target - 1) < values).all()
