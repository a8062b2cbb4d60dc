"""torch.hub's folder with random weights of VGG16 and DISTS, of FID's InceptionV3 and of I3D."""

import pytest
import torch
import torchvision

from chopgrad_ns.evaluate.distributions import I3D_URL, INCEPTION_URL
from tests.losses.conftest import random_dists, random_hub, random_vgg  # noqa: F401 - fixtures


def _random(shapes: dict[str, torch.Size], seed: int) -> dict[str, torch.Tensor]:
    """Weights by name under which activations keep their size."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("running_var") or len(shape) == 1 and name.endswith("weight"):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        elif len(shape) < 2:
            state[name] = 0.1 * torch.randn(shape, generator=generator)
        else:
            state[name] = torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5
    return state


@pytest.fixture(scope="session")
def random_inception():
    """A state dict as FID's weights are: torchvision's InceptionV3 with 1008 classes."""
    with torch.device("meta"):
        network = torchvision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    return _random({name: value.shape for name, value in network.state_dict().items()}, seed=2)


@pytest.fixture(scope="session")
def random_i3d():
    """A state dict as I3D's weights are."""
    from cdfvd.third_party.i3d.pytorch_i3d import InceptionI3d

    with torch.device("meta"):
        shapes = {name: value.shape for name, value in InceptionI3d(400).state_dict().items()}
    return _random(shapes, seed=3)


@pytest.fixture
def without_init(monkeypatch):
    """Networks that are loaded with weights right away need none made at random first, which takes seconds."""
    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "trunc_normal_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


@pytest.fixture(scope="module")
def feature_hub(random_hub, random_inception, random_i3d):  # noqa: F811
    """`random_hub` with InceptionV3 and I3D too."""
    torch.save(random_inception, random_hub / INCEPTION_URL.rsplit("/", 1)[1])
    torch.save(random_i3d, random_hub / I3D_URL.rsplit("/", 1)[1])
    return random_hub
