"""LPIPS, and a perceptual distance for everywhere: LPIPS where its weights can be had, ST-LPIPS where not.

Whichever it is says its name.
"""

import contextlib
import functools
import io
import sys
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.losses.frames import enlarged, of_pictures
from chopgrad_ns.losses.pretrained import VGG_FILE, VGG_URL, find_vgg16, folder, vgg16_features

SMALLEST = 64
"""Pictures with a shorter side are enlarged until it has this many pixels: the networks' last layers would vanish."""


class Perceptual(torch.nn.Module):
    """A frozen distance between features of pictures.

    `name` is "lpips" (Zhang et al. 2018, VGG16), "st_lpips" (Ghildyal & Liu 2022, AlexNet), "dists" or "vgg_gram"
    (see textures.py).
    """

    def __init__(self, network: torch.nn.Module, name: str, **options):
        """`network(prediction, target, **options)` takes pictures and gives one value a pair, of any shape."""
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.options = options

    def forward(self, prediction: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        """Distance of each pair of pictures in 0…1; differentiable. The network follows the pictures to their device."""
        self.network.to(prediction.device)
        pictures = [enlarged(x.float(), SMALLEST) for x in (prediction, target)]
        return self.network(*pictures, **self.options).flatten()


@functools.lru_cache(maxsize=None)
def perceptual() -> Perceptual:
    """The perceptual distance of this machine; says once if it is not LPIPS, and how to get that."""
    if find_vgg16():
        return lpips()
    print(f"LPIPS needs {VGG_FILE} (torchvision), which is neither in {folder()} nor to be downloaded now; measuring "
          f"ST-LPIPS (st_lpips) instead. Put {VGG_URL} there to measure LPIPS.", file=sys.stderr)
    return st_lpips()


@functools.lru_cache(maxsize=None)
def lpips() -> Perceptual:
    """LPIPS on VGG16.

    Raises:
        UserError: if VGG16's weights are neither in torch.hub's folder nor to be downloaded, or broken.
    """
    import lpips as package

    state = vgg16_features("LPIPS").state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks torchvision in a deprecated way
        network = package.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    # It cuts torchvision's layers into slices, keeping their numbers: slice3.10.bias is 10.bias.
    network.net.load_state_dict({name: state[name.split(".", 1)[1]] for name in network.net.state_dict()})
    network.load_state_dict(_shipped(package, "v0.1/vgg.pth"), strict=False)  # the linear layers alone
    return Perceptual(network, "lpips", normalize=True)


@functools.lru_cache(maxsize=None)
def st_lpips() -> Perceptual:
    """ST-LPIPS on AlexNet; its weights come with its package."""
    with contextlib.redirect_stdout(io.StringIO()):
        import stlpips_pytorch.stlpips as package

        network = package.LPIPS(net="alex", variant="shift_tolerant", pretrained=False, verbose=False)
    # Not strict, since the package names each linear layer twice and stores it once.
    network.load_state_dict(_shipped(package, "vST0.0/alex_shift_tolerant.pth"), strict=False)
    return Perceptual(network, "st_lpips", normalize=True)


def _shipped(package, name: str) -> dict[str, Tensor]:
    """Weights that came with a package, as tensors only: nothing is unpickled."""
    return torch.load(Path(package.__file__).parent / "weights" / name, map_location="cpu", weights_only=True)


def perceptual_loss(prediction: Float[Tensor, "b 3 t h w"], target: Float[Tensor, "b _ t h w"]) -> Float[Tensor, "b t"]:
    """`perceptual()` as a per-frame loss on frames in −1…1; pixels without weight are taken from the target."""
    return of_pictures(perceptual(), prediction, target)


def lpips_loss(prediction: Float[Tensor, "b 3 t h w"], target: Float[Tensor, "b _ t h w"]) -> Float[Tensor, "b t"]:
    """`lpips()` as a per-frame loss on frames in −1…1; pixels without weight are taken from the target."""
    return of_pictures(lpips(), prediction, target)
