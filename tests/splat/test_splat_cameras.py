"""Cameras: inverses, selection, resizing, and the one place where OpenGL axes come in."""

import pytest
import torch

from chopgrad_ns.splat import Cameras
from tests.splat.scenes import HEIGHT, WIDTH, cameras


def path(count: int = 4) -> Cameras:
    return Cameras(*cameras(count), WIDTH, HEIGHT)


def test_inverse_and_centres():
    made = path()
    torch.testing.assert_close(made.world_from_camera @ made.camera_from_world, torch.eye(4).expand(4, 4, 4))
    seen = made.camera_from_world @ torch.nn.functional.pad(made.centers, (0, 1), value=1.0)[..., None]
    torch.testing.assert_close(seen[:, :3, 0], torch.zeros(4, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("index, expected", [(2, [2]), (-1, [3]), (slice(1, 3), [1, 2]), ([3, 0], [3, 0]),
                                             (torch.tensor([0, 0]), [0, 0])])
def test_selection_keeps_the_leading_axis(index, expected):
    made = path()
    assert torch.equal(made[index].camera_from_world, made.camera_from_world[expected])
    assert torch.equal(made[index].K, made.K[expected]) and len(made[index]) == len(expected)


def test_resizing_moves_pixels_with_the_picture():
    made = path(1)
    point = torch.tensor([0.3, -0.2, 1.0])
    before, after = made.K[0] @ point, made.resized(2 * WIDTH, 3 * HEIGHT).K[0] @ point
    torch.testing.assert_close(after, before * torch.tensor([2.0, 3.0, 1.0]))


def test_opengl_poses_look_the_same_way():
    made = path()
    opengl = made.world_from_camera @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    fx, fy, cx, cy = made.K[:, 0, 0], made.K[:, 1, 1], made.K[:, 0, 2], made.K[:, 1, 2]
    for poses in (opengl, opengl[:, :3]):
        again = Cameras.from_opengl(poses, fx, fy, cx, cy, WIDTH, HEIGHT)
        torch.testing.assert_close(again.camera_from_world, made.camera_from_world)
        assert torch.equal(again.K, made.K)
    numbers = Cameras.from_opengl(opengl, 40.0, 41.0, 26.0, 20.0, WIDTH, HEIGHT)
    assert torch.equal(numbers.K[3], torch.tensor([[40.0, 0, 26], [0, 41, 20], [0, 0, 1]]))


def test_joining():
    joined = Cameras.cat([path(2), path(3)])
    assert len(joined) == 5 and torch.equal(joined.K[2:], path(3).K)
    with pytest.raises(ValueError, match="different sizes"):
        Cameras.cat([path(), path().resized(10, 10)])


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="camera_from_world"):
        Cameras(torch.eye(4), torch.eye(3)[None], WIDTH, HEIGHT)
