"""Small degraded clips with known truth: a textured picture that slides by."""

import torch
import torch.nn.functional as F

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.degradations import Degradation
from chopgrad_ns.data.video_pairs import inpainting_pair, super_resolution_pair


def pair(frames: int = 9, height: int = 32, width: int = 32, references: int = 2, seed: int = 0,
         name: str = "slide") -> Pair:
    """Render: the truth blurred, with a colour cast. References: the truth with noise, black where masked."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(1, 3, (height + 8) // 2, (width + frames + 8) // 2, generator=generator)
    picture = F.interpolate(rough, scale_factor=2, mode="bilinear")[0]
    clean = torch.stack([picture[:, 2 : 2 + height, t : t + width] for t in range(frames)])
    render = F.avg_pool2d(clean, 5, stride=1, padding=2, count_include_pad=False) * 0.9 + 0.03
    masks = torch.ones(frames, references, 1, height, width)
    masks[:, :, :, : height // 8] = 0
    noise = 0.02 * torch.randn(frames, references, 3, height, width, generator=generator)
    seen = torch.where(masks > 0, (clean[:, None] + noise).clamp(0, 1), torch.zeros(()))
    one = torch.ones(frames, 1, height, width)
    clip = Clip(render, alpha=one, depth=2 * one, references=seen, reference_masks=masks)
    return Pair(clip, clean, name)


def stir(model: torch.nn.Module, scale: float = 0.02) -> None:
    """Move every weight, so that no layer is zero and nothing agrees by accident."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)


TASKS = ("artifact-removal", "super-resolution", "driving", "inpainting")


def task_pair(task: str, frames: int = 9, height: int = 32, width: int = 32, seed: int = 0) -> Pair:
    """A pair as `chopgrad pairs` makes them for a task."""
    name = f"{task}-{seed}"
    example = pair(frames, height, width, seed=seed, name=name)
    if task == "artifact-removal":
        return example
    if task == "super-resolution":
        return super_resolution_pair(example.clean, name, Degradation("bicubic", 2), seed)[0]
    mask = torch.zeros(frames, 1, height, width)
    for t in range(frames):
        left = width // 4 + t
        mask[t, :, height // 4 : height // 2, left : left + width // 3] = 1
    if task == "inpainting":
        return inpainting_pair(example.clean, name, mask)
    inserted = torch.where(mask > 0, 0.5 * example.clean + 0.1, example.clean)
    return Pair(Clip(inserted, mask=mask, actor_ids=mask.byte()), example.clean, name)
