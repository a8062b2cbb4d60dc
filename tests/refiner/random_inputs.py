"""Random inputs for backbones of any kind."""

import torch
from torch import Tensor

from chopgrad_ns.refiner.backbones import Backbone


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clip(backbone: Backbone, frames: int, height: int = 1, width: int = 2, seed: int = 0) -> Tensor:
    """Frames [1, 3, T, H, W] in −1…1; height and width are counted in tokens."""
    generator = torch.Generator().manual_seed(seed)
    size = (height * backbone.spatial_factor, width * backbone.spatial_factor)
    return 2 * torch.rand(1, 3, frames, *size, generator=generator) - 1


def latents(backbone: Backbone, frames: int = 3, height: int = 4, width: int = 6, seed: int = 0) -> Tensor:
    return noise(1, backbone.transformer.config.in_channels, frames, height, width, seed=seed)


def prompt(backbone: Backbone, seed: int = 1) -> Tensor:
    return noise(1, *backbone.prompt_shape, seed=seed)
