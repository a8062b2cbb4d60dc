"""Rolling shutters, held to cameras that are moved line by line."""

import math
from dataclasses import replace

import pytest
import torch

from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.render import render
from chopgrad_ns.splat.rolling import as_shown, line_delays, seen_at

WIDTH, HEIGHT, FOCAL = 48, 36, 40.0


def camera(readout=(0.0, 0.04), motion=(4.0, -1.0, 9.0, 0.2, -0.3, 0.1), dtype=torch.float64) -> Cameras:
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.2, 0.1], [0.2, 0, -0.3], [-0.1, 0.3, 0]], dtype=dtype))
    pose = torch.eye(4, dtype=dtype)
    pose[:3, :3], pose[:3, 3] = turn, torch.tensor([0.3, -0.2, 0.5], dtype=dtype)
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], dtype=dtype)
    return Cameras(pose[None], K[None], WIDTH, HEIGHT, torch.zeros(1, dtype=dtype), torch.tensor([readout], dtype=dtype),
                   torch.tensor([motion], dtype=dtype))


def in_view(eye: Cameras, count: int = 60) -> torch.Tensor:
    """Points that the camera sees, 4 to 20 m away, in the world."""
    draw = torch.Generator().manual_seed(3)
    uv = torch.rand(count, 2, generator=draw, dtype=torch.float64) * torch.tensor([WIDTH, HEIGHT])
    z = 4 + 16 * torch.rand(count, 1, generator=draw, dtype=torch.float64)
    local = torch.cat([(uv - torch.tensor([WIDTH / 2, HEIGHT / 2])) / FOCAL * z, z], dim=1)
    world = eye.world_from_camera[0]
    return local @ world[:3, :3].T + world[:3, 3]


def moved_camera(eye: Cameras, delay: float) -> torch.Tensor:
    """camera_from_world so much later, by the exponential of the motion."""
    velocity, (x, y, z) = eye.motion[0, :3], eye.motion[0, 3:].tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    later_from_now = torch.eye(4, dtype=torch.float64)
    turn = torch.linalg.matrix_exp(delay * cross)  # of the camera, in its own axes
    later_from_now[:3, :3], later_from_now[:3, 3] = turn.T, -turn.T @ (delay * velocity)
    return later_from_now @ eye.camera_from_world[0]


def pixels(camera_from_world: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    local = points @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
    return local[:, :2] / local[:, 2:] * FOCAL + torch.tensor([WIDTH / 2, HEIGHT / 2])


def line_by_line(eye: Cameras, point: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Of all moments, the one in which the line exposed just then shows the point (by bisection): pixel and delay."""
    axis = 0 if float(eye.readout[0, 0]) else 1
    size, taken = (WIDTH, HEIGHT)[axis], float(eye.readout[0, axis])

    def off(share: float) -> float:
        return float(pixels(moved_camera(eye, taken * (share - 0.5)), point[None])[0, axis]) / size - share

    low, high = -0.3, 1.3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if off(middle) > 0 else (low, middle)
    delay = taken * (low - 0.5)
    return pixels(moved_camera(eye, delay), point[None])[0], delay


@pytest.mark.parametrize("readout", [(0.0, 0.04), (0.0, -0.04), (0.03, 0.0), (-0.03, 0.0)])
def test_places_are_shown_where_their_line_saw_them(readout):
    eye = camera(readout)
    points = in_view(eye)
    shown, delays = pixels(eye.camera_from_world[0], as_shown(points, eye)), line_delays(points, eye)
    slow = [line_by_line(eye, point) for point in points]
    truth = torch.stack([pixel for pixel, _ in slow])
    assert (shown - truth).norm(dim=1).max() < 0.02
    torch.testing.assert_close(delays, torch.tensor([delay for _, delay in slow], dtype=torch.float64), atol=2e-5, rtol=0)
    still = pixels(eye.camera_from_world[0], points)
    assert (still - truth).norm(dim=1).max() > 0.4, "at this speed, leaving the shutter out shows"


@pytest.mark.parametrize("readout", [(0.0, 0.04), (-0.03, 0.0)])
def test_what_a_picture_shows_is_found_again(readout):
    eye = camera(readout)
    points = in_view(eye)
    torch.testing.assert_close(seen_at(as_shown(points, eye), eye), points, atol=1e-4, rtol=0)
    assert (as_shown(points, eye) - points).norm(dim=1).max() > 0.1 and seen_at(points, eye.still()) is points


def test_gradients_are_those_of_moved_cameras():
    eye = camera()
    points = in_view(eye, 20).requires_grad_()
    weights = torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (pixels(eye.camera_from_world[0], as_shown(points, eye)) * weights).sum().backward()
    fast, points.grad = points.grad.clone(), None
    delays = line_delays(points, eye)
    slow = torch.stack([pixels(moved_camera(eye, float(delay)), point[None])[0] for delay, point in zip(delays, points)])
    (slow * weights).sum().backward()
    assert (fast - points.grad).norm() < 2e-3 * points.grad.norm()


def test_cameras_that_stand_or_expose_all_at_once_show_places_where_they_are():
    points = in_view(camera())
    assert as_shown(points, camera().still()) is points
    for eye in (camera(motion=(0.0,) * 6), camera(readout=(0.0, 0.0))):
        torch.testing.assert_close(as_shown(points, eye), points)
    with pytest.raises(ValueError, match="no rolling shutter"):
        line_delays(points, camera().still())


def test_what_is_behind_or_far_outside_stays_finite():
    eye = camera()
    world = eye.world_from_camera[0]
    local = torch.tensor([[0.0, 0, -5], [0, 0, 0], [1e4, 0, 1e-3], [3, -900, 4]], dtype=torch.float64)
    points = local @ world[:3, :3].T + world[:3, 3]
    shown = as_shown(points, eye)
    assert torch.isfinite(shown).all() and ((shown - points).norm(dim=1) < 0.3 + 0.01 * local.norm(dim=1)).all()
    torch.testing.assert_close(shown[:2], points[:2])


def test_a_picture_is_made_of_lines_of_moved_cameras():
    """The whole render beside one that takes every line from a camera of its own."""
    eye = camera(motion=(6.0, 0.0, 3.0, 0.0, 0.3, 0.0))
    draw = torch.Generator().manual_seed(5)
    points = in_view(eye, 400).float()
    splat = Gaussians(points, torch.full((400, 3), math.log(0.25)), torch.randn(400, 4, generator=draw),
                      torch.full((400,), 3.0), torch.randn(400, 1, 3, generator=draw))
    eye = eye.to(torch.float32)
    rolled, still = render(splat, eye).rgb[0], render(splat, eye.still()).rgb[0]
    lines = []
    for row in range(HEIGHT):
        delay = float(eye.readout[0, 1]) * ((row + 0.5) / HEIGHT - 0.5)
        pose = moved_camera(eye.to(torch.float64), delay).float()
        lines.append(render(splat, replace(eye.still(), camera_from_world=pose[None])).rgb[0][:, row])
    truth = torch.stack(lines, dim=1)
    error, without = ((picture - truth).square().mean() for picture in (rolled, still))
    assert error < without / 15 and without > 1e-3


def test_what_cameras_know_goes_with_them():
    eye = camera()
    three = Cameras.cat([eye, eye, eye])
    assert three[1:].readout.shape == (2, 2) and three[[0, 2]].times.shape == (2,) and three[0].motion.shape == (1, 6)
    small = eye.resized(WIDTH // 2, HEIGHT // 2)
    assert torch.equal(small.readout, eye.readout) and torch.equal(small.times, eye.times)
    assert eye.to(torch.float32).motion.dtype == torch.float32 and eye.still().readout is None
    torch.testing.assert_close(pixels(eye.camera_from_world[0], as_shown(in_view(eye), small)),
                               pixels(eye.camera_from_world[0], as_shown(in_view(eye), eye)), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="cannot be joined"):
        Cameras.cat([eye, eye.still()])
    with pytest.raises(ValueError, match="go together"):
        replace(eye, motion=None)
    with pytest.raises(ValueError, match="times of shape"):
        replace(eye, times=torch.zeros(2))
