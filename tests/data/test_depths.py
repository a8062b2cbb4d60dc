"""Prior depths from points: exact where they are seen, unknown elsewhere, hidden ones left out."""

import math

import pytest
import torch

from chopgrad_ns.data.depths import depths_from_points
from chopgrad_ns.data.views import Views
from tests.worlds import DISTANCE, HEIGHT, WIDTH, plane_cameras, plane_points, plane_views


def depths_oracle(points, cameras):
    """Point by point, without leaving out hidden ones: the nearest in each pixel."""
    maps = torch.zeros(len(cameras), 1, cameras.height, cameras.width)
    for view in range(len(cameras)):
        for point in points:
            x, y, z = (cameras.camera_from_world[view] @ torch.cat([point, torch.ones(1)]))[:3].tolist()
            K = cameras.K[view].tolist()
            column, row = math.floor(K[0][0] * x / z + K[0][2]), math.floor(K[1][1] * y / z + K[1][2])
            if z > 0 and 0 <= column < WIDTH and 0 <= row < HEIGHT:
                old = float(maps[view, 0, row, column])
                maps[view, 0, row, column] = min(z, old) if old else z
    return maps


def test_on_one_surface_all_points_count():
    cameras = plane_cameras(3)
    points = plane_points(300)[0] + 0.03 * torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    depths = depths_from_points(points, cameras)
    assert (depths > 0).sum() > 300
    assert torch.allclose(depths, depths_oracle(points, cameras), atol=1e-5)


def test_hidden_points_are_unknown():
    """A wall of points behind the plane is not seen through the gaps between the plane's points."""
    cameras = plane_cameras(2)
    front, _ = plane_points(1500)
    wall = 2 * torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) - 1
    wall[:, 2] = 2 * DISTANCE
    depths = depths_from_points(torch.cat([front, wall]), cameras)
    known = depths[depths > 0]
    assert torch.allclose(known, torch.full_like(known, DISTANCE), atol=1e-4)
    assert (depths_from_points(wall, cameras) > 0).sum() > 500, "nothing hides them once the plane is gone"


def test_points_nobody_sees():
    cameras = plane_cameras(2)
    points = torch.tensor([[0.0, 0, -1], [50, 0, 3], [float("nan"), 0, 1], [0, 0, float("inf")]])
    assert not depths_from_points(points, cameras).any()
    assert not depths_from_points(points[:0], cameras).any()


def test_depths_go_with_their_views():
    views = plane_views(4)
    depths = torch.arange(4.0)[:, None, None, None].expand(4, 1, HEIGHT, WIDTH)
    views = Views(views.photos, views.cameras, views.points, views.colors, depths)
    assert views.subset([1, 3]).depths[:, 0, 0, 0].tolist() == [1, 3]
    with pytest.raises(ValueError, match="depths of shape"):
        Views(views.photos, views.cameras, views.points, views.colors, depths[:3])
