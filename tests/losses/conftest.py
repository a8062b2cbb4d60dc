"""torch.hub's folder of weights with random ones in the true files' form."""

import piq
import pytest
import torch
import torchvision

from chopgrad_ns.losses.pretrained import VGG_FILE
from tests.conftest import forget_networks

DISTS_FILE = piq.DISTS._weights_url.rsplit("/", 1)[1]


@pytest.fixture(scope="session")
def random_vgg():
    """Tensors by the names of torchvision's VGG16, without its classifier; activations keep their size."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in torchvision.models.vgg16(weights=None).state_dict().items()}
    return {name: torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5
            for name, shape in shapes.items() if name.startswith("features.")}


@pytest.fixture(scope="session")
def random_dists():
    """Weights of DISTS in their file's form: positive, of sum 1."""
    generator = torch.Generator().manual_seed(1)
    alpha, beta = (torch.rand(1, 1475, 1, 1, generator=generator) for _ in range(2))
    total = alpha.sum() + beta.sum()
    return {"alpha": torch.nn.Parameter(alpha / total), "beta": torch.nn.Parameter(beta / total)}


@pytest.fixture(scope="module")
def random_hub(tmp_path_factory, random_vgg, random_dists):
    """torch.hub's folder with random weights of VGG16 and DISTS."""
    home = tmp_path_factory.mktemp("torch")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(random_vgg, folder / VGG_FILE)
    torch.save(random_dists, folder / DISTS_FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        forget_networks()
        yield folder
    forget_networks()
