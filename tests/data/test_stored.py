"""Pairs survive the way to disk and back, whole and in part; damaged ones are refused by name."""

import json
from dataclasses import replace

import pytest
import torch

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.pair_set import PairSet
from chopgrad_ns.data.references import ReferencePhotos
from chopgrad_ns.data.render_clip import reference_photos, with_references
from chopgrad_ns.data.stored import StoredPair, save_pair
from chopgrad_ns.errors import Incomplete, UserError
from chopgrad_ns.splat.render import render
from tests.data.test_clip import make_clip
from tests.worlds import HEIGHT, WIDTH, plane_cameras, plane_splat, plane_views

PICTURES = ("frames", "alpha", "mask", "references", "reference_masks")


def make_pair() -> Pair:
    clip = make_clip()
    return Pair(clip, clip.frames.flip(-1), "plane", valid=(clip.alpha > 0.5).float())


def same(read: Pair, kept: Pair, tolerance=0.5 / 255 + 1e-6):
    """8 bit are kept of pictures, everything of the rest."""
    for name in PICTURES:
        assert (getattr(read.degraded, name) - getattr(kept.degraded, name)).abs().max() <= tolerance, name
    assert torch.equal(read.degraded.depth, kept.degraded.depth)
    assert torch.equal(read.degraded.actor_ids, kept.degraded.actor_ids)
    assert torch.equal(read.degraded.cameras.camera_from_world, kept.degraded.cameras.camera_from_world)
    assert torch.equal(read.degraded.cameras.K, kept.degraded.cameras.K)
    assert (read.clean - kept.clean).abs().max() <= tolerance and torch.equal(read.valid, kept.valid)


def test_round_trip(tmp_path):
    pair = make_pair()
    save_pair(pair, tmp_path / "a", {"scene": "plane"})
    save_pair(pair, tmp_path / "a", {"scene": "plane"})  # again over what is there
    stored = StoredPair(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (stored.name, stored.about, len(stored)) == ("plane", {"scene": "plane"}, 3)
    assert (stored.size, stored.reference_count, stored.carries) == (pair.size, pair.reference_count, pair.carries)
    same(stored.read(), pair)


@pytest.mark.parametrize("run", [slice(0, 1), slice(1, 3), slice(2, None), slice(None)])
def test_a_run_of_frames(tmp_path, run):
    pair = make_pair()
    save_pair(pair, tmp_path / "a")
    same(StoredPair(tmp_path / "a").read(run), pair.read(run))


@pytest.mark.parametrize("run", [slice(0, 0), slice(2, 1), slice(0, 3, 2), slice(3, 5)])
def test_what_is_no_run(tmp_path, run):
    save_pair(make_pair(), tmp_path / "a")
    with pytest.raises(ValueError, match="not a run of the 3 frames"):
        StoredPair(tmp_path / "a").read(run)


def test_saving_what_was_read_changes_nothing(tmp_path):
    save_pair(make_pair(), tmp_path / "a")
    save_pair(StoredPair(tmp_path / "a").read(), tmp_path / "b")
    same(StoredPair(tmp_path / "b").read(), StoredPair(tmp_path / "a").read(), tolerance=0)


def test_bare_frames(tmp_path):
    frames = torch.rand(1, 3, 5, 7)
    save_pair(Pair(Clip(frames), frames, "bare"), tmp_path / "bare")
    again = StoredPair(tmp_path / "bare")
    assert again.reference_count == 0
    read = again.read()
    assert read.degraded.cameras is None and read.degraded.references is None and read.valid is None


def pair_of_a_splat(frames: int, count: int) -> Pair:
    views, splat = plane_views(4), plane_splat()
    cameras = plane_cameras(frames)
    photos = reference_photos(splat, cameras, views, count, exclude=torch.tensor([0] + [-1] * (frames - 1)))
    clip = with_references(render(splat, cameras), cameras, photos)
    return Pair(clip, clip.frames, "warped", reference_photos=photos)


def test_references_made_on_the_fly_are_those_on_disk(tmp_path):
    pair = pair_of_a_splat(5, 2)
    save_pair(pair, tmp_path / "fly")
    save_pair(replace(pair, reference_photos=None), tmp_path / "disk")
    fly, disk = StoredPair(tmp_path / "fly"), StoredPair(tmp_path / "disk")
    assert fly.reference_count == disk.reference_count == 2
    assert fly.carries == disk.carries == pair.carries, "photos that are stored are references, not photos, once they are read"
    for run in (slice(None), slice(1, 3), slice(4, 5)):
        ours, theirs = fly.read(run).degraded, disk.read(run).degraded
        # The one rounds photos and alpha before warping, the other what was warped.
        assert (ours.references - theirs.references).abs().max() < 1.6 / 255
        assert (ours.reference_masks - theirs.reference_masks).abs().max() < 1.6 / 255
    assert ours.reference_masks.mean() > 0.3
    same_size = [sum(path.stat().st_size for path in pair.folder.iterdir()) for pair in (fly, disk)]
    assert same_size[0] < same_size[1]


def test_photos_that_the_run_does_not_need_are_not_read(tmp_path):
    """Frame 0 may not see photo 0: whatever that holds on disk, frame 0 comes out."""
    pair = pair_of_a_splat(1, 1)
    photos = pair.reference_photos
    two = ReferencePhotos(torch.cat([photos.photos, photos.photos]), photos.cameras[[0, 0]], torch.cat([photos.depth] * 2),
                          torch.tensor([[0]]))
    save_pair(replace(pair, reference_photos=two), tmp_path / "a")
    file = tmp_path / "a" / "pair.safetensors"
    whole = StoredPair(tmp_path / "a").read()
    from safetensors.numpy import load_file, save_file
    tensors = load_file(file)
    tensors["photos"] = tensors["photos"].copy()
    tensors["photos"][tensors["photos.offsets"][1] + 9 :] ^= 255
    save_file(tensors, file)
    assert torch.equal(StoredPair(tmp_path / "a").read().degraded.references, whole.degraded.references)


def data_set(folder, count=3):
    for index in range(count):
        frames = torch.rand(2, 3, 5, 7)
        save_pair(Pair(Clip(frames), frames, f"pair-{index}"), folder / f"pair-{index}")


def flip_byte(path, place=-3):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_damaged_pair_is_named_and_left_out(tmp_path, capsys):
    data_set(tmp_path)
    flip_byte(tmp_path / "pair-1" / "pair.safetensors")
    pairs = PairSet(tmp_path)
    assert [pair.name for pair in pairs] == ["pair-0", "pair-2"] and list(pairs.left_out) == ["pair-1"]
    assert str(tmp_path / "pair-1") in capsys.readouterr().err
    with pytest.raises(Incomplete, match="1 of 3 pairs"):
        pairs.complain()


@pytest.mark.parametrize("damage", [
    lambda folder: (folder / "pair.safetensors").write_bytes(b"not tensors"),
    lambda folder: (folder / "pair.safetensors").write_bytes((folder / "pair.safetensors").read_bytes()[:-20]),
    lambda folder: (folder / "pair.safetensors").unlink(),
    lambda folder: (folder / "pair.json").write_text("[]"),
    lambda folder: (folder / "pair.json").write_text("{"),
    lambda folder: change(folder, lambda about: about.update(format=1)),
    lambda folder: change(folder, lambda about: about["arrays"].pop("clean")),
    lambda folder: change(folder, lambda about: about["arrays"]["clean"].update(shape=[2, 3, 5, 8])),
    lambda folder: change(folder, lambda about: about["arrays"]["clean"].update(shape=[9, 3, 5, 7])),
    lambda folder: change(folder, lambda about: about["arrays"]["clean"].update(dtype="object")),
    lambda folder: change(folder, lambda about: about["arrays"].update(strange={"dtype": "uint8", "shape": [2, 1, 5, 7]})),
])
def test_whatever_is_wrong_with_a_pair(tmp_path, damage):
    data_set(tmp_path, 1)
    damage(tmp_path / "pair-0")
    with pytest.raises(UserError, match="pair-0 cannot be read"):
        StoredPair(tmp_path / "pair-0").read()
    with pytest.raises(UserError, match="None of the 1 pairs"):
        PairSet(tmp_path)


def change(folder, how):
    about = json.loads((folder / "pair.json").read_text())
    how(about)
    (folder / "pair.json").write_text(json.dumps(about))


def test_no_pairs(tmp_path):
    with pytest.raises(UserError, match="no pairs"):
        PairSet(tmp_path)
    unfinished = tmp_path / "a.part"
    unfinished.mkdir()
    (unfinished / "pair.json").write_text("{}")
    with pytest.raises(UserError, match="no pairs"):
        PairSet(tmp_path)
