"""Training photos warped into a view by the splat's depth: where a small refiner's gain comes from."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.splat.cameras import Cameras

DEPTH_TOLERANCE = 0.05
"""Relative difference of depth at which belief in a warped pixel has fallen to 1/e."""


def nearest(target: Cameras, photos: Cameras, count: int) -> Tensor:
    """Indices [T, count] of the photos to warp into each target: near, and looking the same way."""
    distance = torch.cdist(target.centers, photos.centers)
    extent = torch.cdist(photos.centers, photos.centers).max().clamp_min(1e-6)
    forward = lambda cameras: F.normalize(cameras.camera_from_world[:, 2, :3], dim=-1)  # noqa: E731
    turn = 1 - forward(target) @ forward(photos).T
    return (distance / extent + turn).argsort(dim=1)[:, :count]


@torch.no_grad()
def warp_references(
    target_cameras: Cameras, target_depth: Float[Tensor, "t 1 h w"], target_alpha: Float[Tensor, "t 1 h w"],
    photos: Float[Tensor, "n 3 h w"], photo_cameras: Cameras, photo_depth: Float[Tensor, "n 1 h w"], count: int = 2,
) -> tuple[Float[Tensor, "t r 3 h w"], Float[Tensor, "t r 1 h w"]]:
    """Bring the nearest `count` photos into each target view.

    A target pixel is lifted to the world by its depth and looked up in the photo. Its confidence in 0…1 is zero outside
    the photo and behind its camera, falls as exp(−(Δ/0.05)²) with the relative difference Δ between the point's depth
    in the photo and what the splat shows there (occlusion and wrong depth alike), and is scaled by the target's alpha.

    Returns:
        references (black where confidence is zero) and their confidence.
    """
    choice = nearest(target_cameras, photo_cameras, count)
    frames = [_warp(target_cameras[t], target_depth[t], target_alpha[t], photos[choice[t]], photo_cameras[choice[t]],
                    photo_depth[choice[t]]) for t in range(len(target_cameras))]
    references, masks = zip(*frames)
    return torch.stack(references), torch.stack(masks)


def _warp(camera: Cameras, depth, alpha, photos, photo_cameras: Cameras, photo_depth):
    """One frame: [R, 3, H, W] and [R, 1, H, W]."""
    height, width = depth.shape[-2:]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).flatten(1).to(depth)
    points = torch.linalg.inv(camera.K[0]) @ pixels * depth.flatten()
    ones = torch.ones_like(points[:1])
    world = camera.world_from_camera[0] @ torch.cat([points, ones])
    seen = (photo_cameras.camera_from_world @ world)[:, :3]
    z = seen[:, 2:]
    projected = photo_cameras.K @ (seen / z.clamp_min(1e-6))
    grid = torch.stack([projected[:, 0] / photo_cameras.width, projected[:, 1] / photo_cameras.height], dim=-1) * 2 - 1
    grid = grid.reshape(len(photos), height, width, 2)
    sampled = F.grid_sample(torch.cat([photos, photo_depth], dim=1), grid, align_corners=False, padding_mode="border")
    z = z.reshape(len(photos), 1, height, width)
    difference = (sampled[:, 3:] - z) / z.clamp_min(1e-6)
    inside = (grid.abs() <= 1).all(dim=-1)[:, None] & (z > 1e-3) & (depth > 0) & (sampled[:, 3:] > 0)
    mask = torch.where(inside, torch.exp(-(difference / DEPTH_TOLERANCE) ** 2), torch.zeros_like(z)) * alpha
    return sampled[:, :3] * (mask > 0), mask


def blend_baseline(clip: Clip, strength: float = 0.5) -> Float[Tensor, "t 3 h w"]:
    """The refiner without learning: move each pixel `strength` of the way to its confidence-weighted references."""
    if clip.references is None:
        return clip.frames
    weight = clip.reference_masks
    residual = (weight * (clip.references - clip.frames[:, None])).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0)
    return (clip.frames + strength * residual).clamp(0, 1)
