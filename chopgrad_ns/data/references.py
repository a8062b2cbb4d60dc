"""Training photos warped into a view by the splat's depth: where a small refiner's gain comes from."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.splat.cameras import Cameras

DEPTH_TOLERANCE = 0.05
"""Relative difference of depth at which belief in a warped pixel has fallen to 1/e."""


def project(points: Float[Tensor, "p 3"],
            cameras: Cameras) -> tuple[Float[Tensor, "t p 2"], Float[Tensor, "t p"]]:
    """World points in each camera: pixels (u right, v down; u/z for z > 0 only) and z depth."""
    ones = torch.ones_like(points[:, :1])
    seen = (cameras.camera_from_world @ torch.cat([points, ones], dim=1).T)[:, :3]
    z = seen[:, 2]
    uv = (cameras.K @ (seen / z.clamp_min(1e-6)[:, None]))[:, :2]
    return uv.transpose(1, 2), z


def lift(camera: Cameras, depth: Float[Tensor, "1 h w"]) -> Float[Tensor, "hw 3"]:
    """World points of the first camera's pixels, row by row, at their z depth."""
    height, width = depth.shape[-2:]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).flatten(1).to(depth)
    local = torch.linalg.inv(camera.K[0]) @ pixels * depth.flatten()
    return (camera.world_from_camera[0, :3, :3] @ local).T + camera.centers[0]


def nearest(target: Cameras, photos: Cameras, count: int,
            exclude: Int[Tensor, "t"] | None = None) -> Int[Tensor, "t r"]:
    """Indices of the photos to warp into each target, R = min(count, N): near, and looking the same way.

    Photo `exclude[t]` comes last for target t (−1: none).
    """
    distance = torch.cdist(target.centers, photos.centers)
    extent = torch.cdist(photos.centers, photos.centers).max().clamp_min(1e-6)
    forward = lambda cameras: F.normalize(cameras.camera_from_world[:, 2, :3], dim=-1)  # noqa: E731
    cost = distance / extent + 1 - forward(target) @ forward(photos).T
    if exclude is not None:
        own = exclude.to(cost.device)[:, None] == torch.arange(len(photos), device=cost.device)
        cost = cost.masked_fill(own, torch.inf)
    return cost.argsort(dim=1)[:, :count]


@torch.no_grad()
def warp_references(
    target_cameras: Cameras, target_depth: Float[Tensor, "t 1 h w"], target_alpha: Float[Tensor, "t 1 h w"],
    photos: Float[Tensor, "n 3 h w"], photo_cameras: Cameras, photo_depth: Float[Tensor, "n 1 h w"],
    count: int = 2, exclude: Int[Tensor, "t"] | None = None,
) -> tuple[Float[Tensor, "t r 3 h w"], Float[Tensor, "t r 1 h w"]]:
    """Bring the nearest `count` photos into each target view.

    A target pixel is lifted to the world by its depth and looked up in the photo. Its confidence in 0…1 is
    zero outside the photo and behind its camera, falls as exp(−(Δ/0.05)²) with the relative difference Δ
    between the point's depth in the photo and what the splat shows there (occlusion and wrong depth alike),
    and is scaled by the target's alpha.

    Args:
        target_depth, photo_depth: z in world units, 0 where empty.
        exclude: index of a photo that target t must not see, its own for instance; −1 for none. Where too few
            photos are left the excluded one's place is filled with zero confidence.

    Returns:
        references (black where confidence is zero) and their confidence; R = min(count, N).
    """
    choice = nearest(target_cameras, photo_cameras, count, exclude)
    frames = [_warp(target_cameras[t], target_depth[t], target_alpha[t], photos[choice[t]],
                    photo_cameras[choice[t]], photo_depth[choice[t]]) for t in range(len(target_cameras))]
    references, masks = (torch.stack(values) for values in zip(*frames))
    if exclude is not None:
        allowed = (choice != exclude.to(choice)[:, None]).to(masks)[:, :, None, None, None]
        references, masks = references * allowed, masks * allowed
    return references, masks


def _warp(camera: Cameras, depth, alpha, photos, photo_cameras: Cameras, photo_depth):
    """One frame: [R, 3, H, W] and [R, 1, H, W]."""
    height, width = depth.shape[-2:]
    uv, z = project(lift(camera, depth), photo_cameras)
    grid = uv / uv.new_tensor([photo_cameras.width, photo_cameras.height]) * 2 - 1
    grid = grid.reshape(-1, height, width, 2)
    z = z.reshape(-1, 1, height, width)
    sampled = F.grid_sample(torch.cat([photos, photo_depth], dim=1), grid, align_corners=False,
                            padding_mode="border")
    difference = (sampled[:, 3:] - z) / z.clamp_min(1e-6)
    inside = (grid.abs() <= 1).all(dim=-1)[:, None] & (z > 1e-3) & (depth > 0) & (sampled[:, 3:] > 0)
    mask = torch.where(inside, torch.exp(-(difference / DEPTH_TOLERANCE) ** 2), torch.zeros_like(z)) * alpha
    return sampled[:, :3] * (mask > 0), mask


def blend_baseline(clip: Clip, strength: float = 0.5) -> Float[Tensor, "t 3 h w"]:
    """The refiner without learning: move pixels `strength` of the way to what their references show."""
    if clip.references is None:
        return clip.frames
    weight = clip.reference_masks
    residual = (weight * (clip.references - clip.frames[:, None])).sum(dim=1)
    residual = residual / weight.sum(dim=1).clamp_min(1.0)
    return (clip.frames + strength * residual).clamp(0, 1)
