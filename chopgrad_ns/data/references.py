"""Training photos warped into a view by the splat's depth: where a small refiner's gain comes from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.rolling import as_shown, seen_at

REFERENCES = 4
"""Photos warped into each frame where nothing else is asked for."""
DEPTH_TOLERANCE = 0.05
"""Relative difference of depth at which belief in a warped pixel has fallen to 1/e."""


def project(points: Float[Tensor, "p 3"],
            cameras: Cameras) -> tuple[Float[Tensor, "t p 2"], Float[Tensor, "t p"]]:
    """World points in each camera: pixels (u right, v down; u/z for z > 0 only) and z depth, with rolling shutters."""
    shown = points if cameras.readout is None else torch.stack([as_shown(points, cameras[t]) for t in range(len(cameras))])
    seen = cameras.camera_from_world[:, :3, :3] @ shown.mT + cameras.camera_from_world[:, :3, 3:]
    z = seen[:, 2]
    uv = (cameras.K @ (seen / z.clamp_min(1e-6)[:, None]))[:, :2]
    return uv.transpose(1, 2), z


def lift(camera: Cameras, depth: Float[Tensor, "1 h w"]) -> Float[Tensor, "hw 3"]:
    """World points of the first camera's pixels, row by row, at their z depth, each as its line saw it."""
    height, width = depth.shape[-2:]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).flatten(1).to(depth)
    local = torch.linalg.inv(camera.K[0]) @ pixels * depth.flatten()
    return seen_at((camera.world_from_camera[0, :3, :3] @ local).T + camera.centers[0], camera)


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


@dataclass
class ReferencePhotos:
    """Photos to warp, and which of them belong to each of T frames.

    `photos` [N, 3, h, w] in 0…1 with their `cameras` and the splat's `depth` [N, 1, h, w] there, z in world units, 0 where
    empty; `choice` [T, R] holds indices into them, −1 for none.
    """

    photos: Float[Tensor, "n 3 h w"]
    cameras: Cameras
    depth: Float[Tensor, "n 1 h w"]
    choice: Int[Tensor, "t r"]

    def __post_init__(self) -> None:
        count, _, height, width = self.photos.shape
        if self.depth.shape != (count, 1, height, width) or (
                (len(self.cameras), self.cameras.height, self.cameras.width) != (count, height, width)):
            raise ValueError(f"depth {tuple(self.depth.shape)} and {len(self.cameras)} cameras of {self.cameras.width}×"
                             f"{self.cameras.height} for {count} photos of {width}×{height}")
        if self.choice.ndim != 2 or not ((self.choice >= -1) & (self.choice < count)).all():
            raise ValueError(f"choice {tuple(self.choice.shape)} must be [T, R] of indices of {count} photos, or −1")

    def __getitem__(self, frames: slice) -> ReferencePhotos:
        """The photos of some of the frames."""
        return ReferencePhotos(self.photos, self.cameras, self.depth, self.choice[frames])

    def to(self, device) -> ReferencePhotos:
        """Move."""
        return ReferencePhotos(*(value.to(device) for value in (self.photos, self.cameras, self.depth, self.choice)))

    @torch.no_grad()
    def warp(self, cameras: Cameras, depth: Float[Tensor, "t 1 h w"], alpha: Float[Tensor, "t 1 h w"]
             ) -> tuple[Float[Tensor, "t r 3 h w"], Float[Tensor, "t r 1 h w"]]:
        """Bring each frame's photos into it.

        A frame's pixel is lifted to the world by its depth and looked up in the photo, bicubically. Its confidence in 0…1 is
        zero outside the photo and behind its camera, falls as exp(−(Δ/0.05)²) with the relative difference Δ
        between the point's depth in the photo and what the splat shows there (occlusion and wrong depth alike),
        and is scaled by the frame's alpha.

        Args:
            depth: z of the frames in world units, 0 where empty.

        Returns:
            references (black where confidence is zero) and their confidence, zero for a choice of −1.
        """
        frames = []
        for t, chosen in enumerate(self.choice.clamp_min(0)):
            frames.append(_warp(cameras[t], depth[t], alpha[t], self.photos[chosen], self.cameras[chosen],
                                self.depth[chosen]))
        references, masks = (torch.stack(values) for values in zip(*frames))
        allowed = (self.choice >= 0).to(masks)[:, :, None, None, None]
        return references * allowed, masks * allowed


def choose_references(target: Cameras, photos: Cameras, count: int,
                      exclude: Int[Tensor, "t"] | None = None) -> Int[Tensor, "t r"]:
    """The `count` nearest photos of each target, R = min(count, N), by `nearest`.

    Args:
        exclude: index of a photo that target t must not see, its own for instance; −1 for none. Where too few photos are
            left, −1 stands in its place.
    """
    choice = nearest(target, photos, count, exclude)
    return choice if exclude is None else choice.masked_fill(choice == exclude.to(choice)[:, None], -1)


def without_unused(choice: Int[Tensor, "t r"]) -> tuple[list[int], Int[Tensor, "t r"]]:
    """Indices of the photos that are chosen at all (one at least), and the choice among these."""
    kept, place = choice.clamp_min(0).unique(return_inverse=True)
    return kept.tolist(), torch.where(choice < 0, choice, place.to(choice))


def _warp(camera: Cameras, depth, alpha, photos, photo_cameras: Cameras, photo_depth):
    """One frame: [R, 3, H, W] and [R, 1, H, W]."""
    height, width = depth.shape[-2:]
    uv, z = project(lift(camera, depth), photo_cameras)
    grid = uv / uv.new_tensor([photo_cameras.width, photo_cameras.height]) * 2 - 1
    grid = grid.reshape(-1, height, width, 2)
    z = z.reshape(-1, 1, height, width)
    # Bicubic: bilinear looking up blurs what a photo has over the render, and the distance that eyes see grows by a third.
    colors = F.grid_sample(photos, grid, mode="bicubic", align_corners=False, padding_mode="border").clamp(0, 1)
    seen = F.grid_sample(photo_depth, grid, align_corners=False, padding_mode="border")
    inside = (grid.abs() <= 1).all(dim=-1)[:, None] & (z > 1e-3) & (depth > 0) & (seen > 0)
    mask = torch.where(inside, torch.exp(-((seen - z) / z.clamp_min(1e-6) / DEPTH_TOLERANCE) ** 2), torch.zeros_like(z)) * alpha
    return colors * (mask > 0), mask


def blend_baseline(clip: Clip, strength: float = 0.5) -> Float[Tensor, "t 3 h w"]:
    """The refiner without learning: move pixels `strength` of the way to what their references show."""
    if clip.references is None:
        return clip.frames
    weight = clip.reference_masks
    residual = (weight * (clip.references - clip.frames[:, None])).sum(dim=1)
    residual = residual / weight.sum(dim=1).clamp_min(1.0)
    return (clip.frames + strength * residual).clamp(0, 1)
