"""Finding pretrained weights: in torch.hub's folder, else by download, whole or not at all."""

import pickle
import threading
import urllib.request
from pathlib import Path

import torch
from torch import Tensor

from chopgrad_ns.errors import UserError

VGG_FILE = "vgg16-397923af.pth"
"""torchvision's ImageNet weights of VGG16 (about 530 MB)."""
VGG_URL = f"https://download.pytorch.org/models/{VGG_FILE}"


def folder() -> Path:
    """Where weights are looked for and put; TORCH_HOME moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_weights(url: str, hash_prefix: str | None = None) -> Path | None:
    """The file of that URL's name; None if it is neither there nor to be had now."""
    weights = folder() / url.rsplit("/", 1)[1]
    return weights if weights.exists() or _download(url, weights, hash_prefix) else None


def find_vgg16() -> Path | None:
    """torchvision's VGG16, which LPIPS, DISTS and VGG-Gram build on; None if it is not to be had."""
    return find_weights(VGG_URL, hash_prefix=VGG_FILE[6:14])


def require(weights: Path | None, url: str, what: str) -> Path:
    """`weights`, or a UserError that says where to put them."""
    if weights is None:
        raise UserError(f"{what} needs {url.rsplit('/', 1)[1]}, which is neither in {folder()} nor to be downloaded now; "
                        f"put {url} there.")
    return weights


def read_tensors(weights: Path, names: list[str] | None, url: str) -> dict[str, Tensor]:
    """The named tensors of a file of weights, or all that it holds; nothing else in it is unpickled.

    Raises:
        UserError: if the file is not one of weights or lacks one of the names.
    """
    try:
        state = dict(torch.load(weights, map_location="cpu", weights_only=True))
        return {name: state[name].detach() for name in (state if names is None else names)}
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(f"{weights} does not hold the weights that {url} has; delete it, or put that file there.") from error


def vgg16_features(what: str) -> torch.nn.Sequential:
    """The convolutional part of torchvision's VGG16, for a loss called `what` in the error if it cannot be had.

    Raises:
        UserError: if the weights are not to be had or broken.
    """
    import torchvision

    weights = require(find_vgg16(), VGG_URL, what)
    with torch.device("meta"):  # nothing to allocate or to initialise, the classifier above all
        features = torchvision.models.vgg16(weights=None, init_weights=False).features
    names = {name: f"features.{name}" for name in features.state_dict()}
    state = read_tensors(weights, list(names.values()), VGG_URL)
    try:
        features.load_state_dict({name: state[source] for name, source in names.items()}, assign=True)
    except RuntimeError as error:  # of another shape
        raise UserError(f"{weights} is not torchvision's VGG16; delete it, or put {VGG_URL} there.") from error
    return features


def _download(url: str, weights: Path, hash_prefix: str | None) -> bool:
    """Fetch `url` to `weights`, whole or not at all; False where there is no way to."""
    if not _reachable(url):
        return False
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(weights), hash_prefix=hash_prefix)
    except (OSError, RuntimeError):  # no connection, no room; a wrong checksum
        return False
    return True


def _reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether a server answers in time. Asked in a thread of its own, since looking up a name knows no time limit."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
            answers.append(True)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)
