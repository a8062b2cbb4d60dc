"""What a training writes down as it goes, for TensorBoard."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor


class Log:
    """Scalars and pictures by step under a folder."""

    def __init__(self, folder: Path, step: int):
        """`step`: the first that is to come; what is there of it and later ones, from before an interruption, is dropped."""
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

        self._writer = SummaryWriter(str(folder), purge_step=step)

    def scalars(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)

    def picture(self, step: int, name: str, picture: Float[Tensor, "3 h w"]) -> None:
        self._writer.add_image(name, picture.clamp(0, 1).cpu(), step)

    def close(self) -> None:
        self._writer.close()


def peak_memory(device: torch.device) -> int:
    """Bytes at the most so far: of a CUDA device what PyTorch allocated, elsewhere what the process held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
