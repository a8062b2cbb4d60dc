"""A small pair for each task."""

from dataclasses import replace

import torch

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.degradations import Degradation
from chopgrad_ns.data.video_pairs import inpainting_pair, super_resolution_pair
from tests.refiner.clips import pair

TASKS = ("artifact-removal", "super-resolution", "driving", "inpainting")


def of_task(task: str, seed: int, frames: int = 5) -> Pair:
    """Frames of 32×32 pixels; half as large for super-resolution, with a box for driving and inpainting."""
    made, name = pair(frames=frames, seed=seed), f"{task}-{seed}"
    box = torch.zeros(frames, 1, 32, 32)
    box[:, :, 8:20, 8:20] = 1
    if task == "super-resolution":
        return super_resolution_pair(made.clean, name, Degradation(kind="bicubic", scale=2), seed)[0]
    if task == "driving":
        return Pair(Clip(made.degraded.frames, mask=box, actor_ids=box.to(torch.uint8)), made.clean, name)
    return inpainting_pair(made.clean, name, box) if task == "inpainting" else replace(made, name=name)
