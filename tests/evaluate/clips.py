"""Small clips for metrics: a texture that moves, and noise on it."""

import torch


def moving_texture(frames: int = 3, size=(40, 56), step=(2.0, 1.0)) -> torch.Tensor:
    """Waves of several lengths and directions; where frame t has a pixel, frame 0 had it `t · step` (x, y) before."""
    y, x = torch.meshgrid(torch.arange(float(size[0])), torch.arange(float(size[1])), indexing="ij")
    clip = []
    for t in range(frames):
        u, v = x - step[0] * t, y - step[1] * t
        waves = sum(torch.sin(a * u + b * v) for a, b in ((0.5, 0.2), (-0.1, 0.31), (0.23, -0.41), (0.9, 0.7)))
        clip.append(torch.stack([0.5 + 0.1 * waves * scale for scale in (1.0, 0.8, 0.6)]))
    return torch.stack(clip)


def noisy_clip(frames: int = 3, size=(40, 56), noise: float = 0.05, seed: int = 0):
    """A prediction and its truth, in 0…1; noise grows from frame to frame."""
    truth = moving_texture(frames, size)
    more = noise * (1 + torch.arange(frames).view(-1, 1, 1, 1) / frames)
    generator = torch.Generator().manual_seed(seed)
    return (truth + more * torch.randn(truth.shape, generator=generator)).clamp(0, 1), truth


def disc(clip: torch.Tensor) -> torch.Tensor:
    """A mask [T, 1, H, W]: a disc that moves to the right, one pixel a frame."""
    height, width = clip.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    radius = min(height, width) / 3
    discs = [(x - width / 2.5 - t) ** 2 + (y - height / 2) ** 2 < radius**2 for t in range(len(clip))]
    return torch.stack(discs)[:, None]
