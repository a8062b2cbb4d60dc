"""What is so far away that it looks the same from everywhere in a scene: a picture by direction."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.splat.cameras import Cameras

LOWEST = -10.0
"""Degrees below the horizon at which the picture begins; lower directions see its lowest row."""


class Sky(torch.nn.Module):
    """Colours [3, H, W] by direction, 0…1 where fitted to photos.

    Columns go round from azimuth −180° to 180° (0 is +x, 90° +y), rows from straight up down to 10° below the horizon.
    """

    def __init__(self, colors: Float[Tensor, "3 h w"]):
        super().__init__()
        if colors.ndim != 3 or len(colors) != 3 or min(colors.shape[1:]) < 2:
            raise ValueError(f"a sky's colours have the shape [3, H, W], H and W ≥ 2, not {tuple(colors.shape)}")
        self.colors = torch.nn.Parameter(colors.clone())

    @staticmethod
    def of_one_color(color: Float[Tensor, "3"], height: int = 48, width: int = 192) -> Sky:
        """The same everywhere, to be fitted."""
        return Sky(color[:, None, None].expand(3, height, width))

    def seen_by(self, camera: Cameras) -> Float[Tensor, "3 h w"]:
        """What the first of the cameras sees of it, differentiable in the colours."""
        return self.toward(_directions(camera.to(self.colors)))

    def toward(self, directions: Float[Tensor, "h w 3"]) -> Float[Tensor, "3 h w"]:
        """Colours in directions of any length."""
        directions = F.normalize(directions, dim=-1)
        azimuth = torch.atan2(directions[..., 1], directions[..., 0]) / math.pi
        elevation = torch.asin(directions[..., 2].clamp(-1, 1)) * 180 / math.pi
        row = (90 - elevation.clamp_min(LOWEST)) / (90 - LOWEST) * 2 - 1
        # A column of the other end at each side, so that colours go on past ±180°.
        wide = torch.cat([self.colors[..., -1:], self.colors, self.colors[..., :1]], dim=-1)
        count = self.colors.shape[-1]
        grid = torch.stack([azimuth * count / (count + 2), row], dim=-1)
        return F.grid_sample(wide[None], grid[None], align_corners=False, padding_mode="border")[0]

    @torch.no_grad()
    def turned(self, rotation: Float[Tensor, "3 3"]) -> Sky:
        """The sky of a world that is turned as a whole."""
        height, width = self.colors.shape[1:]
        azimuth = ((torch.arange(width) + 0.5) / width * 2 - 1) * math.pi
        elevation = (90 - (torch.arange(height) + 0.5) / height * (90 - LOWEST)) * math.pi / 180
        elevation, azimuth = torch.meshgrid(elevation, azimuth, indexing="ij")
        directions = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], dim=-1)
        return Sky(self.toward(directions.to(self.colors) @ rotation.to(self.colors)))

    def roughness(self) -> Float[Tensor, ""]:
        """Mean squared difference of neighbouring colours: small for what photos say nothing of."""
        along = self.colors - self.colors.roll(1, dims=-1)
        return along.square().mean() + self.colors.diff(dim=-2).square().mean()


def _directions(camera: Cameras) -> Float[Tensor, "h w 3"]:
    """In the world, of each pixel of the first camera."""
    K, turn = camera.K[0], camera.camera_from_world[0, :3, :3]
    v, u = torch.meshgrid(torch.arange(camera.height).to(K) + 0.5, torch.arange(camera.width).to(K) + 0.5, indexing="ij")
    local = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)], dim=-1)
    return local @ turn
