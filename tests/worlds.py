"""A textured plane as photos, cameras and a splat: real data small enough for every test."""

import torch

from chopgrad_ns.data.views import Views
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.gaussians import Gaussians

WIDTH, HEIGHT, FOCAL, DISTANCE = 64, 48, 60.0, 3.0


def texture(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """RGB in 0…1 at plane coordinates, stacked on a new last axis."""
    return torch.stack([0.5 + 0.4 * torch.sin(5 * x + 1), 0.5 + 0.4 * torch.sin(4 * y), 0.5 + 0.3 * torch.cos(3 * (x + y))], -1)


def plane_cameras(count: int) -> Cameras:
    """Cameras side by side at z = 0, looking along +z at the plane z = `DISTANCE`."""
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, 0, 3] = -torch.linspace(-0.6, 0.6, count)
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]).repeat(count, 1, 1)
    return Cameras(poses, K, WIDTH, HEIGHT)


def plane_photos(cameras: Cameras) -> torch.Tensor:
    """Exact pictures of the plane, [T, 3, H, W]."""
    v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    x, y = (u - WIDTH / 2) / FOCAL * DISTANCE, (v - HEIGHT / 2) / FOCAL * DISTANCE
    return torch.stack([texture(x + c[0], y + c[1]) for c in cameras.centers]).permute(0, 3, 1, 2).contiguous()


def plane_points(count: int = 1500) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on the plane, [P, 3], and their colours."""
    generator = torch.Generator().manual_seed(0)
    xy = (torch.rand(count, 2, generator=generator) * 2 - 1) * torch.tensor([2.6, 1.6])
    return torch.cat([xy, torch.full((count, 1), DISTANCE)], 1), texture(xy[:, 0], xy[:, 1])


def plane_views(count: int) -> Views:
    cameras = plane_cameras(count)
    return Views(plane_photos(cameras), cameras, *plane_points())


def plane_splat() -> Gaussians:
    """An opaque splat of the plane, coarse enough to be blurred."""
    splat = Gaussians.from_points(*plane_points(), sh_degree=0)
    splat.opacity_logits = torch.full_like(splat.opacity_logits, 4.0)
    return splat
