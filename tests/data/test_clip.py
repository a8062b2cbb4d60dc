"""Clips check their shapes; pairs survive the way to disk and back."""

import json

import pytest
import torch

from chopgrad_ns.data.clip import Clip, Pair, load_pairs
from chopgrad_ns.errors import UserError
from tests.worlds import HEIGHT, WIDTH, plane_cameras, plane_photos

T, R = 3, 2


def make_clip() -> Clip:
    generator = torch.Generator().manual_seed(1)

    def rand(*shape):
        return torch.rand(*shape, HEIGHT, WIDTH, generator=generator)

    cameras = plane_cameras(T)
    return Clip(plane_photos(cameras), cameras, alpha=rand(T, 1), depth=3 * rand(T, 1), mask=rand(T, 1),
                references=rand(T, R, 3), reference_masks=rand(T, R, 1))


def test_slicing_cuts_every_field_alike():
    clip = make_clip()
    part = clip[1:]
    assert len(part) == len(part.cameras) == 2
    for name in ("frames", "alpha", "depth", "mask", "references", "reference_masks"):
        assert torch.equal(getattr(part, name), getattr(clip, name)[1:]), name
    assert torch.equal(part.cameras.K, clip.cameras.K[1:])


def test_moving_casts_every_field():
    moved = make_clip().to(torch.float64)
    assert moved.references.dtype == moved.cameras.K.dtype == moved.depth.dtype == torch.float64


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


def test_pair_round_trip(tmp_path):
    clip = make_clip()
    pair = Pair(clip, clip.frames.flip(-1), "plane", valid=(clip.alpha > 0.5).float())
    pair.save(tmp_path / "a")
    pair.save(tmp_path / "a")  # again over what is there
    again = Pair.load(tmp_path / "a")
    assert again.name == "plane" and [path.name for path in tmp_path.iterdir()] == ["a"]
    for name in ("frames", "alpha", "mask", "references", "reference_masks"):
        assert (getattr(again.degraded, name) - getattr(clip, name)).abs().max() <= 0.5 / 255 + 1e-6, name
    assert torch.equal(again.degraded.depth, clip.depth)
    assert torch.equal(again.degraded.cameras.camera_from_world, clip.cameras.camera_from_world)
    assert (again.clean - pair.clean).abs().max() <= 0.5 / 255 + 1e-6 and torch.equal(again.valid, pair.valid)


def test_pair_of_bare_frames(tmp_path):
    frames = torch.rand(1, 3, 5, 7)
    Pair(Clip(frames), frames, "bare").save(tmp_path / "bare")
    again = Pair.load(tmp_path / "bare")
    assert again.degraded.cameras is None and again.degraded.references is None and again.valid is None


@pytest.mark.parametrize("field", ["clean", "valid"])
def test_pair_checks_its_targets(field):
    clip = make_clip()
    values = {"clean": clip.frames, "valid": clip.alpha, field: torch.zeros(T, 1, HEIGHT, WIDTH - 1)}
    with pytest.raises(ValueError, match=field):
        Pair(clip, name="x", **values)


def test_damaged_pairs_are_refused(tmp_path):
    frames = torch.rand(1, 3, 5, 7)
    Pair(Clip(frames), frames, "a").save(tmp_path / "a")
    assert len(load_pairs(tmp_path)) == 1
    (tmp_path / "a" / "pair.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match="cannot be read"):
        load_pairs(tmp_path)
    (tmp_path / "a" / "pair.json").write_text(json.dumps([]))
    with pytest.raises(UserError, match="cannot be read"):
        Pair.load(tmp_path / "a")


def test_no_pairs(tmp_path):
    with pytest.raises(UserError, match="no pairs"):
        load_pairs(tmp_path)
