"""Clips and pairs check their shapes, and are cut and moved whole."""

import pytest
import torch

from chopgrad_ns.data.clip import Clip, Pair
from tests.worlds import HEIGHT, WIDTH, plane_cameras, plane_photos

T, R = 3, 2


def make_clip() -> Clip:
    generator = torch.Generator().manual_seed(1)

    def rand(*shape):
        return torch.rand(*shape, HEIGHT, WIDTH, generator=generator)

    cameras = plane_cameras(T)
    return Clip(plane_photos(cameras), cameras, alpha=rand(T, 1), depth=3 * rand(T, 1), mask=rand(T, 1),
                references=rand(T, R, 3), reference_masks=rand(T, R, 1),
                actor_ids=(3 * rand(T, 1)).byte())


def test_slicing_cuts_every_field_alike():
    clip = make_clip()
    part = clip[1:]
    assert len(part) == len(part.cameras) == 2
    for name in ("frames", "alpha", "depth", "mask", "references", "reference_masks", "actor_ids"):
        assert torch.equal(getattr(part, name), getattr(clip, name)[1:]), name
    assert torch.equal(part.cameras.K, clip.cameras.K[1:])


def test_moving_casts_every_field():
    moved = make_clip().to(torch.float64)
    assert moved.references.dtype == moved.cameras.K.dtype == moved.depth.dtype == torch.float64
    assert moved.actor_ids.dtype == torch.uint8, "ids are no quantity"


@pytest.mark.parametrize("field, value", [
    ("frames", torch.zeros(T, 4, HEIGHT, WIDTH)), ("frames", torch.zeros(0, 3, HEIGHT, WIDTH)),
    ("alpha", torch.zeros(T, HEIGHT, WIDTH)), ("depth", torch.zeros(T, 1, WIDTH, HEIGHT)),
    ("mask", torch.zeros(T - 1, 1, HEIGHT, WIDTH)), ("references", torch.zeros(T, R + 1, 3, HEIGHT, WIDTH)),
    ("reference_masks", None), ("cameras", plane_cameras(T + 1))])
def test_wrong_shapes_are_refused_by_name(field, value):
    clip = make_clip()
    values = {**vars(clip), field: value}
    with pytest.raises(ValueError, match=field):
        Clip(**values)


@pytest.mark.parametrize("field", ["clean", "valid"])
def test_pair_checks_its_targets(field):
    clip = make_clip()
    values = {"clean": clip.frames, "valid": clip.alpha, field: torch.zeros(T, 1, HEIGHT, WIDTH - 1)}
    with pytest.raises(ValueError, match=field):
        Pair(clip, name="x", **values)


def test_pairs_are_cut_whole():
    clip = make_clip()
    pair = Pair(clip, clip.frames.flip(-1), "plane", valid=clip.alpha)
    part = pair.read(slice(1, 3))
    assert (len(pair), len(part), pair.size, pair.reference_count) == (T, 2, (HEIGHT, WIDTH), R)
    assert torch.equal(part.clean, pair.clean[1:]) and torch.equal(part.valid, pair.valid[1:])
    assert torch.equal(part.degraded.references, clip.references[1:])
