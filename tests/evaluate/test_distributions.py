"""FID and KID against pytorch-fid, torchmetrics and scipy, FVD against cd-fvd, all with random weights."""

import numpy as np
import pytest
import torch
from cdfvd.third_party.i3d.utils import frechet_distance as cdfvd_distance
from cdfvd.third_party.i3d.utils import load_i3d_model, preprocess_i3d
from pytorch_fid import fid_score
from pytorch_fid import inception as pytorch_fid_inception
from torchmetrics.image.kid import KernelInceptionDistance

from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate import (add_features, frechet_distance, i3d_features, inception_features, kernel_distance,
                                  usable)
from chopgrad_ns.evaluate.distributions import I3D_URL, INCEPTION_URL
from tests.evaluate.clips import disc, noisy_clip


def features(count: int, size: int = 12, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=torch.Generator().manual_seed(9))
    return torch.randn(count, size, generator=generator) @ mixing + shift


def test_frechet_distance_is_pytorch_fids():
    first, second = features(60), features(40, seed=1, shift=0.3)
    statistics = [part for x in (first.double().numpy(), second.double().numpy())
                  for part in (x.mean(axis=0), np.cov(x, rowvar=False))]
    assert frechet_distance(first, second) == pytest.approx(fid_score.calculate_frechet_distance(*statistics), rel=1e-6)
    assert frechet_distance(first, second) == pytest.approx(distance_of_few(first, second), rel=1e-6)
    assert frechet_distance(first, second) > 0.1 and frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_torchmetrics():
    """With subsets that are all there is, so that nothing is drawn."""
    first, second = features(30), features(30, seed=1, shift=0.3)
    theirs = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=2, subset_size=30)
    theirs.update(second, real=True)
    theirs.update(first, real=False)
    mean, std = kernel_distance(first, second)
    assert mean == pytest.approx(float(theirs.compute()[0]), rel=1e-4) and mean > 0.01
    assert std is None, 'all are compared, once'


def test_kernel_distance_is_unbiased():
    """Zero on average for sets of one kind, where the biased estimate cannot be below it."""
    values = [kernel_distance(features(20, seed=2 * i), features(20, seed=2 * i + 1))[0] for i in range(40)]
    assert min(values) < 0 < max(values) and abs(np.mean(values)) < 2 * np.std(values) / 40**0.5


def test_inception_features_are_pytorch_fids(feature_hub, random_inception, without_init):
    """Of pictures of the size that both want; resizing differs, ours is that of the first FID code."""
    torch.save(random_inception, feature_hub / pytorch_fid_inception.FID_WEIGHTS_URL.rsplit("/", 1)[1])
    theirs = pytorch_fid_inception.InceptionV3([3], resize_input=False).eval()
    pictures = noisy_clip(frames=3, size=(299, 299))[0]
    found = inception_features(pictures)
    with torch.no_grad():  # it scales by 2x − 1, ours (as TensorFlow's) by (byte − 128) / 128
        expected = theirs((pictures * 255).round() / 256)[0].flatten(1)
    assert found.shape == (3, 2048)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert found.std(dim=0).max() > 1e-3


def test_fvd_is_cd_fvds(feature_hub):
    """Features, and distances, of clips of which the last frames fill no window."""
    prediction, truth = (torch.cat([clip, clip.flip(3)]) for clip in noisy_clip(frames=16, size=(40, 56), noise=0.3))
    theirs = load_i3d_model("cpu", str(feature_hub / I3D_URL.rsplit("/", 1)[1]))
    found, true = (i3d_features(torch.cat([clip, clip[:5]])) for clip in (prediction, truth))
    with torch.no_grad():
        expected = theirs(preprocess_i3d((prediction[None, 16:].permute(0, 1, 3, 4, 2) * 255).numpy()))
    assert found.shape == (2, 400)
    assert torch.allclose(found[1:], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    distance = float(cdfvd_distance(found.double(), true.double()))
    assert frechet_distance(found, true) == pytest.approx(distance, rel=1e-3) and distance > 1e-3
    assert i3d_features(truth[:15]).shape == (0, 400)


def test_sets_by_region(feature_hub, monkeypatch):
    """Which pictures reach the network, frame by frame."""
    seen = []
    monkeypatch.setattr("chopgrad_ns.evaluate.clips.inception_features",
                        lambda pictures: seen.append(pictures) or pictures.mean(dim=(2, 3)))
    prediction, truth = noisy_clip(frames=4)
    mask = disc(truth)
    mask[2] = False
    ids = torch.zeros_like(mask, dtype=torch.uint8)
    ids[1, :, 5:25, 3:33] = 7
    ids[3, :, 10:30, 20:45] = 2
    sets = {}
    add_features(sets, ["psnr", "fid"], prediction, truth, mask, ids)
    assert list(sets) == ["whole", "inside", "outside", "actors"]
    assert all(known.names == ("fid",) for known in sets.values())
    counts = {region: known.distances()["fid"]["count"] for region, known in sets.items()}
    assert counts == {"whole": 4, "inside": 3, "outside": 4, "actors": 2}
    assert torch.equal(seen[2], torch.where(mask, prediction, truth)[[0, 1, 3]])
    assert torch.equal(seen[4], prediction[1:2, :, 2:28, 0:36]) and torch.equal(seen[5], truth[1:2, :, 2:28, 0:36])
    true = sets["inside"].pictures[1][0]
    assert torch.equal(true, truth[[0, 1, 3]].mean(dim=(2, 3))), "computed once, of the frames that have the region"


def distance_of_few(first, second):
    """Fréchet distance by numpy, for A and B of few rows: Tr √(Aᵀ A Bᵀ B) is the nuclear norm of A Bᵀ."""
    first, second = (x.double().numpy() for x in (first, second))
    a, b = ((x - x.mean(axis=0)) / (len(x) - 1) ** 0.5 for x in (first, second))
    means = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
    return means + (a**2).sum() + (b**2).sum() - 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum()


def test_fid_of_a_clip_from_frames_to_number(feature_hub):
    sets = {}
    prediction, truth = noisy_clip(frames=3)
    add_features(sets, ["fid", "kid", "fvd"], prediction, truth)
    found = sets["whole"].distances()
    expected = [inception_features(clip) for clip in (prediction, truth)]
    distance = distance_of_few(*expected)
    assert found["fid"] == {"value": pytest.approx(distance, rel=1e-3), "count": 3, "unit": "pictures"}
    assert distance > 1e-3
    assert found["kid"]["value"] == pytest.approx(kernel_distance(*expected)[0]) and found["kid"]["count"] == 3
    assert found["fvd"]["value"] is None and found["fvd"]["reason"] == "needs at least 2 windows of 16 frames"


def test_missing_weights_are_named_and_metrics_skipped(empty_hub):
    found, skipped = usable(["psnr", "fid", "lpips", "st_lpips", "kid", "fvd", "dists", "flicker"])
    assert found == ["psnr", "st_lpips", "flicker"] and list(skipped) == ["fid", "lpips", "kid", "fvd", "dists"]
    for name, url in (("fid", INCEPTION_URL), ("fvd", I3D_URL)):
        assert url in skipped[name] and str(empty_hub) in skipped[name]
    assert not empty_hub.exists()
    with pytest.raises(UserError, match="no metric 'pnsr'; choose among psnr, ssim"):
        usable(["pnsr"])


@pytest.mark.parametrize("content", [b"<html>404</html>", {"fc.weight": torch.zeros(1)}, torch.zeros(2)])
@pytest.mark.parametrize("url, name", [(INCEPTION_URL, "fid"), (I3D_URL, "fvd")])
def test_broken_weights_are_named(empty_hub, without_init, content, url, name):
    empty_hub.mkdir(parents=True)
    file = empty_hub / url.rsplit("/", 1)[1]
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    found, skipped = usable([name])
    assert not found and file.name in skipped[name] and "delete it" in skipped[name]


def test_nothing_in_a_file_of_weights_is_run(empty_hub, tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-here"), "w"))

    empty_hub.mkdir(parents=True)
    for url in (INCEPTION_URL, I3D_URL):
        torch.save({"fc.weight": Attack()}, empty_hub / url.rsplit("/", 1)[1])
    assert list(usable(["fid", "fvd"])[1]) == ["fid", "fvd"] and not (tmp_path / "was-here").exists()
