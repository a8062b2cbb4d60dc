"""Range images to points, against a plain loop over pixels; what the loop does is written down from the format's words."""

import math

import numpy as np
import pytest

from chopgrad_ns.data.drives.drive import inverse
from chopgrad_ns.data.drives.range_images import range_image_points, uniform_inclinations
from tests.data.waymo_recording import euler, roll_pitch_yaw, vehicle


def about(axis, angle):
    """A rotation about one axis."""
    a, b = [(1, 2), (2, 0), (0, 1)]["xyz".index(axis)]
    turn = np.eye(3)
    turn[a, a], turn[a, b], turn[b, a], turn[b, b] = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    return turn


def plain(image, lowest_first, extrinsic, frame_pose, poses=None):
    """Points in the frame's vehicle pose, one after the other, in Python's own floats."""
    height, width = image.shape[:2]
    points = []
    for row in range(height):
        for column in range(width):
            distance = float(image[row, column, 0])
            if distance <= 0:
                continue
            beam = lowest_first[height - 1 - row]
            azimuth = ((width - column - 0.5) / width * 2 - 1) * math.pi - math.atan2(extrinsic[1, 0], extrinsic[0, 0])
            point = distance * np.array([math.cos(azimuth) * math.cos(beam), math.sin(azimuth) * math.cos(beam),
                                         math.sin(beam)])
            point = extrinsic[:3, :3] @ point + extrinsic[:3, 3]
            if poses is not None:
                roll, pitch, yaw, *place = (float(value) for value in poses[row, column])
                point = about("z", yaw) @ about("y", pitch) @ about("x", roll) @ point + place
                point = np.linalg.inv(frame_pose) @ [*point, 1]
            points.append(point[:3])
    return np.array(points)


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    ranges = np.where(rng.random((6, 9)) < 0.3, -1, rng.uniform(1, 75, (6, 9)))
    ranges[2, 3] = 0
    return np.stack([ranges, rng.random((6, 9)), rng.random((6, 9)), -np.ones((6, 9))], -1).astype(np.float32)


BEAMS = np.array([-0.3, -0.21, -0.1, -0.05, 0.01, 0.04])
EXTRINSIC = euler(0.02, -0.1, 2.2, (1.4, 0.3, 2.1))


def test_without_poses(image):
    xyz, hit = range_image_points(image, BEAMS[::-1], EXTRINSIC, np.eye(4))
    assert np.abs(xyz - plain(image, BEAMS, EXTRINSIC, np.eye(4))).max() < 1e-12
    assert (hit == (image[..., 0] > 0)).all() and not hit.all() and len(xyz) == hit.sum()


def test_with_poses(image):
    frame_pose, columns = vehicle(1.0), [vehicle(0.95 + 0.1 * column / 9) for column in range(9)]
    poses = np.array([[*roll_pitch_yaw(pose), *pose[:3, 3]] for pose in columns])
    poses = np.broadcast_to(poses, (6, 9, 6)).astype(np.float32)
    xyz, _ = range_image_points(image, BEAMS[::-1], EXTRINSIC, inverse(frame_pose), poses)
    expected = plain(image, BEAMS, EXTRINSIC, frame_pose, poses)
    assert np.abs(xyz - expected).max() < 1e-8
    still = plain(image, BEAMS, EXTRINSIC, frame_pose)
    assert 0.3 < np.abs(still - expected).max() < 5  # The vehicle moved while the lidar turned.


def test_rotations_of_a_pose():
    pose = vehicle(2.0)
    roll, pitch, yaw = roll_pitch_yaw(pose)
    assert np.abs(about("z", yaw) @ about("y", pitch) @ about("x", roll) - pose[:3, :3]).max() < 1e-12


def test_where_pixels_look():
    """Not turned, the middle column looks ahead and those to its left look left; the top row is the highest beam."""
    image = np.full((2, 4, 4), 10, np.float32)
    xyz, _ = range_image_points(image, np.array([0.1, -0.1]), np.eye(4), np.eye(4))
    xyz = xyz.reshape(2, 4, 3)
    assert (xyz[0, :, 2] > 0).all() and (xyz[1, :, 2] < 0).all()
    assert (xyz[:, 1:3, 0] > 0).all() and (xyz[:, [0, 3], 0] < 0).all()
    assert (xyz[:, :2, 1] > 0).all() and (xyz[:, 2:, 1] < 0).all()


def test_turned_lidar_looks_the_same_way():
    """Columns are counted from the vehicle's back, however the lidar is mounted."""
    image = np.full((2, 8, 4), 10, np.float32)
    straight, _ = range_image_points(image, np.array([0.1, -0.1]), np.eye(4), np.eye(4))
    turned, _ = range_image_points(image, np.array([0.1, -0.1]), euler(0, 0, 1.9), np.eye(4))
    assert np.abs(straight - turned).max() < 1e-12


def test_uniform_inclinations():
    assert uniform_inclinations(-1.0, 1.0, 4) == pytest.approx([0.75, 0.25, -0.25, -0.75])


def test_nothing_came_back():
    xyz, hit = range_image_points(np.full((2, 3, 4), -1, np.float32), np.zeros(2), EXTRINSIC, np.eye(4))
    assert xyz.shape == (0, 3) and not hit.any()
