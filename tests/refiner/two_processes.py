"""What each of two processes of a training does: python -m torch.distributed.run … two_processes.py FOLDER

`cases` is also what the test does alone, to compare.
"""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from chopgrad_ns.chopgrad import strategy_named
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.finetune import distributed
from chopgrad_ns.refiner.finetune.run import Run
from tests.refiner.clips import pair, stir

UNEVEN = FinetuneSettings(steps=2, lr=1e-3, buckets="5x16x16x3=1", losses="mse=1,latent=0.1", clip_gradient=1e6)
STRATEGIES = ("exact", "truncated-1", "full")


def refiner(dtype: torch.dtype = torch.float64) -> Refiner:
    made = Refiner(RefinerConfig())
    stir(made.model)
    made.model.to(dtype)
    return made


def pairs() -> list:
    return [pair(frames=6 + i, seed=i, name=str(i)) for i in range(4)]


def gradients(strategy: str, averaged: bool = True) -> dict[str, torch.Tensor]:
    """Of one step, in float64, with three examples: two processes have two and one."""
    with Run(refiner(), pairs(), UNEVEN, strategy_named(strategy)) as run:
        average, given = distributed.average_gradients, distributed.average_gradients
        if not averaged:
            average = lambda here, parameters: None  # noqa: E731
        distributed.average_gradients = average
        try:
            run._gradients()
        finally:
            distributed.average_gradients = given
        return {name: value.grad.clone() for name, value in run.trained.items() if value.grad is not None}


def weights(folder: Path, dtype: torch.dtype = torch.float64, **settings) -> dict[str, torch.Tensor]:
    """After two steps, of which the second takes up the checkpoint of the first."""
    chosen = replace(UNEVEN, clip_gradient=0.5, checkpoint_every=1, **settings)

    def stop(step, steps):
        if step == 2:  # its checkpoint is not written yet
            raise InterruptedError

    with contextlib.suppress(InterruptedError):
        finetune(refiner(dtype), pairs(), chosen, stop, folder)
    made = refiner(dtype)
    finetune(made, pairs(), chosen, checkpoint_dir=folder)
    return {name: value.detach().clone() for name, value in made.model.state_dict().items()}


def skipping(fsdp: bool) -> dict[str, torch.Tensor]:
    """Weights after six steps of two examples, some of which have a pair without numbers: one process's or the other's."""
    made, broken = refiner(torch.float32), pair(name="broken")
    broken.degraded.frames[:] = float("nan")
    chosen = replace(UNEVEN, steps=6, buckets="5x16x16x2", fsdp=fsdp)
    skipped = finetune(made, [broken, *pairs()], chosen)["skipped"]
    return {"skipped": torch.tensor(skipped)} | {name: value.clone() for name, value in made.model.state_dict().items()}


def timed() -> dict[str, torch.Tensor]:
    """Weights after a training that ends by time, which passes a little differently in each process."""
    made = refiner()
    finetune(made, pairs(), replace(UNEVEN, steps=10_000, max_seconds=0.5))
    return {name: value.clone() for name, value in made.model.state_dict().items()}


def cases(folder: Path, fsdp: bool) -> dict[str, dict[str, torch.Tensor]]:
    found = {f"gradients-{name}": gradients(name) for name in STRATEGIES}
    found["full"] = weights(folder / "full")
    found["fsdp"] = weights(folder / "fsdp", fsdp=fsdp)
    found["fsdp-lora"] = weights(folder / "lora", fsdp=fsdp, transformer="lora")
    found["skipping"] = skipping(fsdp)
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    here = distributed.accelerator()
    made = cases(folder, fsdp=True)
    made["bfloat16"] = weights(folder / "bfloat16", torch.float32, fsdp=True, transformer="lora", precision="bf16")
    made["timed"] = timed()
    made["alone"] = gradients("exact", averaged=False)
    for name, tensors in made.items():
        file = folder / f"{name}-{here.process_index}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    torch.distributed.destroy_process_group()
