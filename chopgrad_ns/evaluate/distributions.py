"""Distances between the features of two sets of pictures or videos: FID, KID and FVD.

Nothing is compared frame by frame, so that there is no value a frame and no confidence interval (a resampled set holds
the same pictures twice, and is further away for that alone). The distances of small sets are biased: say how many
there were.
"""

import functools
import io
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.metrics import CHUNK, Frames
from chopgrad_ns.losses.pretrained import find_weights, read_tensors, require

INCEPTION_URL = ("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
                 "weights-inception-2015-12-05-6726825d.pth")
I3D_URL = "https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt"
I3D_FRAMES, I3D_SIZE = 16, 224
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
ENOUGH = 2048
"""Features are of 2048 numbers: with fewer pictures FID's covariances are not of full rank."""
FEWEST = 2


def inception() -> torch.nn.Module:
    """InceptionV3 with FID's own weights, torch-fidelity's.

    Raises:
        UserError: if the weights are neither in torch.hub's folder nor to be downloaded, or broken.
    """
    weights = find_weights(INCEPTION_URL, hash_prefix="6726825d")
    return _inception(require(weights, INCEPTION_URL, "FID's and KID's InceptionV3"))


@functools.lru_cache(maxsize=1)
def _inception(weights: Path) -> torch.nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # It would unpickle anything; so it is handed tensors that were read, and written again.
    clean = io.BytesIO()
    torch.save(read_tensors(weights, None, INCEPTION_URL), clean)
    clean.seek(0)
    try:
        return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=clean)
    except RuntimeError as error:  # of another shape
        raise UserError(f"{weights} is not FID's InceptionV3; delete it, or put {INCEPTION_URL} there.") from error


def i3d() -> torch.nn.Module:
    """I3D (Carreira & Zisserman 2017, RGB) trained on Kinetics-400, cd-fvd's.

    Raises:
        UserError: if the weights are neither in torch.hub's folder nor to be downloaded, or broken.
    """
    return _i3d(require(find_weights(I3D_URL), I3D_URL, "FVD"))


@functools.lru_cache(maxsize=1)
def _i3d(weights: Path) -> torch.nn.Module:
    from cdfvd.third_party.i3d.pytorch_i3d import InceptionI3d

    network = InceptionI3d(400).eval().requires_grad_(False)
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]  # of training alone
    try:
        network.load_state_dict(read_tensors(weights, names, I3D_URL), strict=False)
    except RuntimeError as error:  # of another shape
        raise UserError(f"{weights} is not I3D; delete it, or put {I3D_URL} there.") from error
    return network


@torch.no_grad()
def inception_features(pictures: Frames) -> Float[Tensor, "t 2048"]:
    """InceptionV3's pooled features of pictures in 0…1, rounded to 8 bit and resized to 299×299 as FID's first
    (TensorFlow 1) code does."""
    network = inception().to(pictures.device)
    as_bytes = (pictures.clamp(0, 1) * 255).round().byte()
    return torch.cat([network(some)[0] for some in as_bytes.split(CHUNK)]).cpu()


@torch.no_grad()
def i3d_features(clip: Frames) -> Float[Tensor, "n 400"]:
    """I3D's logits of each full 16 frames of a clip in 0…1, from the first on; the rest is left out.

    Frames are resized to 224×224, whatever their shape, bilinearly and without smoothing first, as cd-fvd does.
    """
    network = i3d().to(clip.device)
    features = [torch.empty(0, 400)]
    for start in range(0, len(clip) - I3D_FRAMES + 1, I3D_FRAMES):
        window = clip[start : start + I3D_FRAMES].clamp(0, 1)
        resized = torch.nn.functional.interpolate(window, (I3D_SIZE, I3D_SIZE), mode="bilinear")
        features.append(network((2 * resized - 1).transpose(0, 1)[None]).cpu())
    return torch.cat(features)


def frechet_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> float:
    """Fréchet distance between the Gaussians that fit two sets of at least 2 features (Heusel et al. 2017).

    Of InceptionV3's features it is FID; of I3D's logits FVD (Unterthiner et al. 2018). torch-fidelity's.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = (fid_features_to_statistics(features.double()) for features in (first, second))
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def kernel_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> tuple[float, float | None]:
    """KID of two sets of at least 2 features (Bińkowski et al. 2018; cubic kernel, unbiased): mean and standard
    deviation over 100 subsets of 1000, drawn with a fixed seed. Sets of 1000 or fewer are compared as they are, and
    there is no deviation. torch-fidelity's."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    size = min(KID_SUBSET_SIZE, len(first), len(second))
    whole = size == len(first) == len(second)
    found = kid_features_to_metric(first.double(), second.double(), kid_subsets=1 if whole else KID_SUBSETS,
                                   kid_subset_size=size, rng_seed=0, verbose=False)
    return found[KEY_METRIC_KID_MEAN], None if whole else found[KEY_METRIC_KID_STD]


DISTRIBUTION_METRICS = {"fid": inception, "kid": inception, "fvd": i3d}
"""By name, the network; getting it raises UserError where its weights are not to be had."""


@dataclass
class FeatureSets:
    """Features of predictions and truths, gathered clip by clip, and their distances by name (`fid`, `kid`, `fvd`)."""

    names: tuple[str, ...]
    pictures: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    windows: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))

    def add_pictures(self, prediction: Float[Tensor, "n 2048"], truth: Float[Tensor, "n 2048"]) -> None:
        """`inception_features` for FID and KID."""
        self.pictures[0].append(prediction)
        self.pictures[1].append(truth)

    def add_windows(self, prediction: Float[Tensor, "n 400"], truth: Float[Tensor, "n 400"]) -> None:
        """`i3d_features` for FVD."""
        self.windows[0].append(prediction)
        self.windows[1].append(truth)

    def distances(self) -> dict[str, dict]:
        """By metric its `value`, and how many (`count`, `unit`) pictures, or windows of 16 frames, it compares.

        KID has its `std` over subsets too, where there are any. With fewer than two to compare there is a `reason` and no value.
        """
        return {name: self._distance(name) for name in self.names}

    def _distance(self, name: str) -> dict:
        windows = name == "fvd"
        gathered, unit = (self.windows, f"windows of {I3D_FRAMES} frames") if windows else (self.pictures, "pictures")
        first, second = (torch.cat(known) if known else torch.empty(0) for known in gathered)
        told = {"value": None, "count": len(first), "unit": unit}
        if len(first) < FEWEST:
            return told | {"reason": f"needs at least {FEWEST} {unit}"}
        if name == "kid":
            value, std = kernel_distance(first, second)
            return told | {"value": value, "std": std}
        return told | {"value": frechet_distance(first, second)}
