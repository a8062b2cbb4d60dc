"""LPIPS where its weights can be had, ST-LPIPS where not; whichever it is says its name."""

import contextlib
import functools
import io
import pickle
import sys
import threading
import urllib.request
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.losses.frames import of_pictures

VGG_FILE = "vgg16-397923af.pth"
"""torchvision's ImageNet weights of VGG16, which LPIPS builds on (about 530 MB)."""
VGG_URL = f"https://download.pytorch.org/models/{VGG_FILE}"
SMALLEST = 64
"""Pictures with a shorter side are enlarged until it has this many pixels: the networks' last layers would vanish."""


class Perceptual(torch.nn.Module):
    """A frozen perceptual distance.

    `name` is "lpips" (Zhang et al. 2018, VGG16) or "st_lpips" (Ghildyal & Liu 2022, AlexNet).
    """

    def __init__(self, network: torch.nn.Module, name: str):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.name = name

    def forward(self, prediction: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        """Distance of each pair of pictures in 0…1; differentiable. The network follows the pictures to their device."""
        self.network.to(prediction.device)
        pictures = [prediction.float(), target.float()]
        shortest = min(prediction.shape[-2:])
        if shortest < SMALLEST:
            size = [round(side * SMALLEST / shortest) for side in prediction.shape[-2:]]
            pictures = [torch.nn.functional.interpolate(x, size=size, mode="bilinear") for x in pictures]
        return self.network(*pictures, normalize=True).flatten()


@functools.lru_cache(maxsize=None)
def perceptual() -> Perceptual:
    """The perceptual distance of this machine; says once if it is not LPIPS, and how to get that."""
    weights = Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    if weights.exists() or _download(weights):
        return Perceptual(_lpips(weights), "lpips")
    print(f"LPIPS needs {VGG_FILE} (torchvision), which is neither in {weights.parent} nor to be downloaded now; measuring "
          f"ST-LPIPS (st_lpips) instead. Put {VGG_URL} there to measure LPIPS.", file=sys.stderr)
    return Perceptual(_st_lpips(), "st_lpips")


def _lpips(weights: Path) -> torch.nn.Module:
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks torchvision in a deprecated way
        network = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        # lpips cuts torchvision's `features` into slices, keeping layers' numbers: slice3.10.bias is features.10.bias.
        names = {name: "features." + name.split(".", 1)[1] for name in network.net.state_dict()}
        network.net.load_state_dict({name: state[source] for name, source in names.items()})
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{weights} does not hold torchvision's weights of VGG16; delete it, or put {VGG_URL} "
                        "there.") from error
    network.load_state_dict(_shipped(lpips, "v0.1/vgg.pth"), strict=False)  # the linear layers alone
    return network


def _st_lpips() -> torch.nn.Module:
    with contextlib.redirect_stdout(io.StringIO()):
        import stlpips_pytorch.stlpips as package

        network = package.LPIPS(net="alex", variant="shift_tolerant", pretrained=False, verbose=False)
    # Not strict, since the package names each linear layer twice and stores it once.
    network.load_state_dict(_shipped(package, "vST0.0/alex_shift_tolerant.pth"), strict=False)
    return network


def _shipped(package, name: str) -> dict[str, Tensor]:
    """Weights that came with a package, as tensors only: nothing is unpickled."""
    return torch.load(Path(package.__file__).parent / "weights" / name, map_location="cpu", weights_only=True)


def _download(weights: Path) -> bool:
    """Fetch VGG16 to `weights`, whole or not at all; False where there is no way to."""
    if not _reachable(VGG_URL):
        return False
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(VGG_URL, str(weights), hash_prefix=VGG_FILE[6:14])
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


def perceptual_loss(prediction: Float[Tensor, "b 3 t h w"], target: Float[Tensor, "b _ t h w"]) -> Float[Tensor, "b t"]:
    """The same distance as a per-frame loss on frames in −1…1; pixels without weight are taken from the target."""
    return of_pictures(perceptual(), prediction, target)
