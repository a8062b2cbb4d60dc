"""Schedule, refined-frame store and novel cameras of a round."""

import pytest
import torch

from chopgrad_ns.distill import PseudoObservations, RoundSettings, Schedule, make_round, novel_cameras
from chopgrad_ns.errors import UserError
from tests.worlds import plane_views, plane_splat


def test_schedule_covers_every_step_once():
    schedule = Schedule(reconstruct_steps=10, rounds=2, round_steps=5)
    assert schedule.total_steps == 20
    assert [schedule.round_at(step) for step in range(20)] == [0] * 10 + [1] * 5 + [2] * 5


def test_schedule_without_rounds_never_leaves_reconstruction():
    assert {Schedule(10, 0, 5).round_at(step) for step in range(10)} == {0}


def test_store_round_trip(tmp_path):
    views = plane_views(3)
    kept = PseudoObservations(views.photos, torch.rand(3, 1, *views.photos.shape[-2:]), views.cameras)
    kept.save(tmp_path / "deep" / "round.safetensors")
    again = PseudoObservations.load(tmp_path / "deep" / "round.safetensors")
    assert (again.frames - kept.frames).abs().max() <= 0.5 / 255 + 1e-6
    assert (again.weight - kept.weight).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(again.cameras.camera_from_world, kept.cameras.camera_from_world)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["round.safetensors"]


def test_damaged_store_is_refused(tmp_path):
    path = tmp_path / "round.safetensors"
    path.write_bytes(b"half a file")
    with pytest.raises(UserError, match="round.safetensors"):
        PseudoObservations.load(path)


def test_novel_cameras_move_outward_and_change_sides():
    cameras = plane_views(4).cameras
    settings = RoundSettings(frames=12, reach=0.5)
    near, far = (novel_cameras(cameras, r, 2, settings)[1] for r in (1, 2))
    through = novel_cameras(cameras, 1, 2, settings)[0]
    ends = slice(0, 1)
    shift = lambda path: path.centers[ends] - through.centers[ends]  # noqa: E731
    assert shift(far).norm() > 1.5 * shift(near).norm() > 0
    assert (shift(far) * shift(near)).sum() < 0


def test_round_trusts_what_photos_confirm():
    views, splat = plane_views(4), plane_splat()
    seen = make_round(splat, lambda clip: clip.frames, views, 1, 1, RoundSettings(frames=8, reach=0.3))
    assert len(seen) == 8 and seen.weight.max() <= 1
    middle = seen.weight[:, :, 12:36, 16:48]
    assert middle.mean() > 0.8, "the plane fills the picture's middle and every photo shows it"
