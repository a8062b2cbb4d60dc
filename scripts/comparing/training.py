"""A plain training loop that can be interrupted, for what is no refiner: an autoencoder, a multi-step denoiser.

Refiners are trained by `chopgrad_ns.refiner.finetune`; optimizer, schedule, clipping and averaging are the same here.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from chopgrad_ns.errors import UserError
from chopgrad_ns.files import write_whole
from chopgrad_ns.refiner.finetune import FinetuneSettings
from chopgrad_ns.refiner.finetune.schedule import factor

EVERY = 50
"""Steps between two savings."""


def train(parameters: Mapping[str, nn.Parameter], loss_of: Callable[[int], Tensor], settings: FinetuneSettings, lr: float,
          folder: Path, recipe: dict, progress: Callable[[int, int], None]) -> float:
    """Train parameters, by name, on the loss of each step, and leave their averages in place of them; returns seconds.

    Of `settings`, `steps`, `warmup`, `schedule`, `clip_gradient`, `ema` and `seed` count. Whatever `loss_of` draws from
    PyTorch's generator follows from seed and step, so that a training that was interrupted ends as if it had not been.

    Args:
        folder: in which progress is kept, and taken up where there is some
        recipe: all that decides what comes out, as JSON

    Raises:
        UserError: where the folder has progress of another recipe.
    """
    progress_file, made_with = folder / "progress.safetensors", json.dumps(recipe, sort_keys=True)
    optimizer = torch.optim.AdamW(parameters.values(), lr=lr, weight_decay=1e-4)
    average = {name: value.detach().clone() for name, value in parameters.items()}
    step, seconds = _resume(progress_file, made_with, parameters, average, optimizer)
    while step < settings.steps:
        began = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = lr * factor((step + 0.5) / settings.steps, settings.warmup, settings.schedule)
        optimizer.zero_grad(set_to_none=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((settings.seed, step)) % 2**63)
            loss_of(step).backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), settings.clip_gradient)
        optimizer.step()
        step += 1
        with torch.no_grad():
            for name, value in parameters.items():
                average[name].lerp_(value, 1 - min(settings.ema, step / (step + 10)))
        seconds += time.monotonic() - began
        progress(step, settings.steps)
        if step % EVERY == 0 or step == settings.steps:
            about = {"step": str(step), "seconds": str(seconds), "recipe": made_with}
            _save(progress_file, parameters, average, optimizer, about)
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(average[name])
    return seconds


def _save(path: Path, parameters: Mapping[str, nn.Parameter], average: Mapping[str, Tensor],
          optimizer: torch.optim.Optimizer, about: dict[str, str]) -> None:
    tensors = {}
    for name, value in parameters.items():
        tensors |= {f"model/{name}": value.detach().contiguous(), f"average/{name}": average[name].contiguous()}
        tensors |= {f"optimizer/{name}/{key}": entry.contiguous() for key, entry in optimizer.state[value].items()}
    write_whole(path, save(tensors, about))


@torch.no_grad()
def _resume(path: Path, recipe: str, parameters: Mapping[str, nn.Parameter], average: Mapping[str, Tensor],
            optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as file:
        about = file.metadata()
        if about["recipe"] != recipe:
            raise UserError(f"The training in {path.parent} was begun with other settings; give another --work, or delete that "
                            "folder.")
        for name, value in parameters.items():
            value.copy_(file.get_tensor(f"model/{name}"))
            average[name].copy_(file.get_tensor(f"average/{name}"))
            optimizer.state[value] = {key: file.get_tensor(f"optimizer/{name}/{key}")
                                      for key in ("step", "exp_avg", "exp_avg_sq")}
    return int(about["step"]), float(about["seconds"])
