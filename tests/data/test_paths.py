"""Paths run through the cameras they are made of, smoothly, and see the same things from beside them."""

import math

import pytest
import torch

from chopgrad_ns.data.paths import beside, focus_distance, through
from chopgrad_ns.data.references import project
from chopgrad_ns.splat.cameras import Cameras


def orbit(count: int, sweep: float = 1.5, radius: float = 2.0) -> Cameras:
    """Cameras on an arc in the x-z plane, looking at the origin; the focal length grows along it."""
    angle = torch.linspace(0, sweep, count, dtype=torch.float64)
    center = radius * torch.stack([torch.sin(angle), 0 * angle, -torch.cos(angle)], dim=1)
    forward = -center / radius
    down = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand_as(forward)
    rotation = torch.stack([torch.linalg.cross(down, forward), down, forward], dim=1)
    pose = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    pose[:, :3, :3], pose[:, :3, 3:] = rotation, -rotation @ center[..., None]
    K = torch.tensor([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]], dtype=torch.float64).repeat(count, 1, 1)
    K[:, 0, 0] = K[:, 1, 1] = torch.linspace(50, 60, count, dtype=torch.float64)
    return Cameras(pose, K, 64, 48)


def rigid(cameras: Cameras) -> bool:
    rotation = cameras.camera_from_world[:, :3, :3]
    eye = torch.eye(3, dtype=rotation.dtype).expand_as(rotation)
    return torch.allclose(rotation @ rotation.transpose(1, 2), eye,
                          atol=1e-6) and bool((torch.linalg.det(rotation) > 0).all())


@pytest.mark.parametrize("count, steps", [(2, 5), (5, 4), (7, 1)])
def test_passes_through_every_camera(count, steps):
    cameras = orbit(count)
    path = through(cameras, steps * (count - 1) + 1)
    assert torch.allclose(path.camera_from_world[::steps], cameras.camera_from_world, atol=1e-6)
    assert torch.allclose(path.K[::steps], cameras.K)
    assert rigid(path)


def test_path_is_smooth_and_stays_near_the_arc():
    path = through(orbit(6), 101)
    step = path.centers.diff(dim=0)
    assert step.diff(dim=0).norm(dim=1).max() < 0.12 * step.norm(dim=1).mean()
    assert (path.centers.norm(dim=1) - 2).abs().max() < 0.02
    assert (path.K[1:, 0, 0] >= path.K[:-1, 0, 0]).all()


def test_long_way_round_is_not_taken():
    """Rotations that differ by a full turn in sign of quaternion are the same rotation."""
    cameras = orbit(2, sweep=3.0)
    turn = through(cameras, 31).world_from_camera[:, :3, :3]
    trace = (turn[:-1].transpose(1, 2) @ turn[1:]).diagonal(dim1=1, dim2=2).sum(dim=1)
    assert torch.acos(((trace - 1) / 2).clamp(-1, 1)).sum() == pytest.approx(3.0, abs=1e-4)


@pytest.mark.parametrize("frames", [1, 4])
def test_one_camera_stays(frames):
    path = through(orbit(3)[1], frames)
    assert len(path) == frames and torch.equal(path.camera_from_world[-1], orbit(3).camera_from_world[1])


def test_focus_of_an_orbit_is_its_middle():
    assert focus_distance(orbit(6)) == pytest.approx(2.0, rel=0.05)


def test_focus_of_parallel_cameras_is_finite():
    pose = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    pose[:, 0, 3] = -torch.arange(4)
    distance = focus_distance(Cameras(pose, orbit(4).K, 64, 48))
    assert math.isfinite(distance) and distance >= 3


@pytest.mark.parametrize("direction, axis, sign",
                         [("right", 0, 1), ("left", 0, -1), ("down", 1, 1), ("up", 1, -1)])
def test_beside_moves_as_told_and_looks_at_the_same_point(direction, axis, sign):
    cameras = orbit(6)
    path, moved = through(cameras, 16), beside(cameras, 16, 0.5, look_ahead=1.7, direction=direction)
    spacing = (cameras.centers[1:] - cameras.centers[:-1]).norm(dim=1).median()
    shift = (path.camera_from_world[:, :3, :3] @ (moved.centers - path.centers)[..., None])[..., 0]
    expected = torch.zeros_like(shift)
    expected[:, axis] = sign * 0.5 * spacing
    assert torch.allclose(shift, expected, atol=1e-6)
    for index in range(16):
        target = path.centers[index] + 1.7 * path.world_from_camera[index, :3, 2]
        uv, z = project(target[None], moved[index])
        assert torch.allclose(uv[0, 0], moved.K[index, :2, 2], atol=1e-4) and z > 0
    assert rigid(moved)


def test_beside_nothing_is_through():
    cameras = orbit(4)
    assert torch.allclose(beside(cameras, 10, 0.0).camera_from_world, through(cameras, 10).camera_from_world,
                          atol=1e-6)


def test_sides_mirror():
    cameras = orbit(4)
    middle = (beside(cameras, 10, 0.4).centers + beside(cameras, 10, -0.4).centers) / 2
    assert torch.allclose(middle, through(cameras, 10).centers, atol=1e-6)
