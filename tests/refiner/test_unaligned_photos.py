"""Photos that nothing aligns, in training: which they are, and how they are come by."""

import random
from dataclasses import replace

import pytest
import torch

from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.stored import StoredPair, save_pair
from chopgrad_ns.refiner import FinetuneSettings
from chopgrad_ns.refiner.finetune.examples import Examples
from chopgrad_ns.refiner.tasks import task_named
from tests.refiner.clips import pair


@pytest.mark.parametrize("named", [True, False])
def test_photos_are_found_without_reading_whole_trajectories(tmp_path, monkeypatch, named):
    """By name where frames have names: one that its mask leaves out wholly was not fitted for that."""
    made = pair(frames=20)
    made.valid = torch.ones(20, 1, 32, 32)
    made.valid[[3, 9, 15]] = 0
    fitted = [3, 15] if named else [3, 9, 15]
    names = [f"{number}.png" for number in range(20)]
    save_pair(made, tmp_path / "long", {"cameras": names, "fitted": ["elsewhere.png", "15.png", "3.png"]} if named else {})
    stored, read, runs = StoredPair(tmp_path / "long"), StoredPair.read, []
    monkeypatch.setattr(StoredPair, "read", lambda self, run: (runs.append(run.stop - run.start), read(self, run))[1])
    task, seen = task_named("artifact-removal"), set()
    for seed in range(1 if named else 6):
        photos = task.photos(stored, random.Random(seed))
        chosen = [number for number in range(20) if any(torch.equal(photo, read(stored).clean[number]) for photo in photos)]
        assert len(chosen) == 2
        seen |= {*chosen}
    assert seen == {*fitted} and max(runs) <= (1 if named else 8)


def test_photos_of_frames_that_are_learnt_from_are_not_shown(tmp_path):
    """As of a splat that was fitted to everything and stopped early."""
    made = pair()
    made.valid, names = torch.ones(9, 1, 32, 32), [str(number) for number in range(9)]
    save_pair(made, tmp_path / "early", {"cameras": names, "fitted": names})
    assert task_named("artifact-removal").photos(StoredPair(tmp_path / "early"), random.Random(0)) is None


def test_photos_that_the_splat_was_fitted_to_take_the_place_of_references():
    """Whole, turned over in space as the crop is, the same for a batch in one process or two."""
    def fitted(size: int) -> Pair:
        example = pair(frames=9, height=size, width=24)
        example.valid = torch.ones(9, 1, size, 24)
        example.valid[::4] = 0
        return example

    task, settings = task_named("artifact-removal"), FinetuneSettings(buckets="5x16x16x2", unaligned=1.0)
    alike, mixed, without = [fitted(24), fitted(24)], [fitted(24), fitted(32)], [fitted(24), pair()]
    seen = set()
    for step in range(8):
        examples, _ = Examples(alike, task, settings, 4, 8).draw(step)
        for example in examples:
            assert example.clip.references is None and example.clip.photos.shape == (2, 3, 24, 24)
            whole = alike[0].clean[::4]
            turned = [whole.flip(axes) if axes else whole for axes in ((), (-1,), (-2,), (-1, -2))]
            (way,) = [k for k, clean in enumerate(turned)
                      if all((clean == photo).all(dim=(1, 2, 3)).any() for photo in example.clip.photos)]
            seen.add(way)
        shares = [Examples(alike, task, settings, 4, 8).draw(step, 0, rank, 2)[0][0] for rank in (0, 1)]
        assert all(torch.equal(one.clip.photos, two.clip.photos) for one, two in zip(examples, shares))
        for pairs in (mixed, without):
            assert all(one.clip.photos is None for one in Examples(pairs, task, settings, 4, 8).draw(step)[0])
    assert seen == {0, 1, 2, 3}
    assert Examples(alike, task, replace(settings, unaligned=0.0), 4, 8).draw(0)[0][0].clip.photos is None

