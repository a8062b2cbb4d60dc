"""torch.hub's folder of weights as tests need it: empty, or with random weights in the true files' form."""

import piq
import pytest
import torch
import torchvision

from chopgrad_ns.losses import dists, lpips, perceptual, vgg_gram
from chopgrad_ns.losses.pretrained import VGG_FILE

DISTS_FILE = piq.DISTS._weights_url.rsplit("/", 1)[1]


def _forget_networks():
    for network in (dists, lpips, perceptual, vgg_gram):
        network.cache_clear()


@pytest.fixture
def empty_hub(tmp_path, monkeypatch):
    """torch.hub's folder of weights, empty, and no way out: as on a machine without internet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    _forget_networks()
    yield tmp_path / "hub" / "checkpoints"
    _forget_networks()


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
        _forget_networks()
        yield folder
    _forget_networks()
