"""Distances that compare textures by statistics of VGG16's features: DISTS and Gram matrices."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.losses.frames import of_pictures
from chopgrad_ns.losses.perceptual import Perceptual
from chopgrad_ns.losses.pretrained import find_weights, read_tensors, require, vgg16_features

RELUS = {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22, "relu5_3": 29}
"""Where torchvision's VGG16 has the last activation of each scale."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@functools.lru_cache(maxsize=None)
def dists() -> Perceptual:
    """DISTS (Ding et al. 2020), piq's. Pictures whose shorter side is over 256 pixels are scaled down to that there.

    Raises:
        UserError: if VGG16's weights or those of DISTS are neither in torch.hub's folder nor to be downloaded, or
            broken.
    """
    import piq

    features = vgg16_features("DISTS")
    url = piq.DISTS._weights_url
    weights = read_tensors(require(find_weights(url), url, "DISTS"), ["alpha", "beta"], url)
    channels = [3, 64, 128, 256, 512, 512]

    class Dists(piq.DISTS):
        """piq's, but for its constructor, which downloads whatever is there."""

        def __init__(self):
            piq.ContentLoss.__init__(
                self, features, layers=[str(i) for i in RELUS.values()], replace_pooling=True, reduction="none",
                weights=[part for name in ("alpha", "beta") for part in weights[name].split(channels, dim=1)],
                allow_layers_weights_mismatch=True)

    return Perceptual(Dists(), "dists")


class GramDistance(torch.nn.Module):
    """Squared Frobenius distance of Gram matrices, summed over the first four scales of VGG16.

    A Gram matrix [c, c] is of a layer's c features at its h · w places, divided by c · h · w (Johnson et al. 2016,
    after Gatys et al. 2016).
    """

    def __init__(self, features: torch.nn.Sequential):
        super().__init__()
        self.layers = [RELUS[name] for name in ("relu1_2", "relu2_2", "relu3_3", "relu4_3")]
        self.features = features[: self.layers[-1] + 1]
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, prediction: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        pairs = zip(self._grams(prediction), self._grams(target))
        return sum((first - second).square().sum(dim=(1, 2)) for first, second in pairs)

    def _grams(self, pictures: Tensor) -> list[Tensor]:
        x, grams = (pictures - self.mean) / self.std, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.layers:
                flat = x.flatten(2)
                grams.append(flat @ flat.transpose(1, 2) / flat[0].numel())
        return grams


@functools.lru_cache(maxsize=None)
def vgg_gram() -> Perceptual:
    """The distance of Gram matrices of VGG16's features.

    Raises:
        UserError: if VGG16's weights are neither in torch.hub's folder nor to be downloaded, or broken.
    """
    return Perceptual(GramDistance(vgg16_features("VGG-Gram")), "vgg_gram")


def dists_loss(prediction: Float[Tensor, "b 3 t h w"], target: Float[Tensor, "b _ t h w"]) -> Float[Tensor, "b t"]:
    """`dists()` as a per-frame loss on frames in −1…1; pixels without weight are taken from the target."""
    return of_pictures(dists(), prediction, target)


def vgg_gram_loss(prediction: Float[Tensor, "b 3 t h w"], target: Float[Tensor, "b _ t h w"]) -> Float[Tensor, "b t"]:
    """`vgg_gram()` as a per-frame loss on frames in −1…1; pixels without weight are taken from the target."""
    return of_pictures(vgg_gram(), prediction, target)
