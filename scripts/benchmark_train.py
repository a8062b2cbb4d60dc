"""What a step of fine-tuning costs by the way through the decoder: python scripts/benchmark_train.py

One whole step: encode, one step of the transformer, pixel loss through the decoder, backward, AdamW. Random weights and
frames. `tiny`, trained in full, anywhere; Wan2.1-1.3B's architecture in bfloat16, its transformer by LoRA and in full,
where there is a CUDA device. A row that does not fit into memory says so. With --budget-gb it is also told which is the
longest clip that `plan` gives a way for.
"""

import statistics
import time
from dataclasses import dataclass

import torch
import tyro
from benchmark_refine import wan

from chopgrad_ns.chopgrad import strategy_named
from chopgrad_ns.chopgrad.meter import peak_bytes
from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.errors import UserError
from chopgrad_ns.machine import processor
from chopgrad_ns.refiner import FinetuneSettings, Refiner
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.finetune.run import Run

WAYS = ("full", "truncated-0", "truncated-1", "exact", "exact-offload", "exact-offload-layers")


@dataclass
class Options:
    """What to time."""

    repeats: int = 3
    """timed steps after one that is not; medians are told"""
    threads: int = torch.get_num_threads()
    budget_gb: float | None = None
    """memory for which the longest clip is looked for, such as 24 or 80"""


def clip_of(frames: int, height: int, width: int) -> Pair:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(frames, 3, height, width, generator=generator)
    return Pair(Clip(clean * 0.9), clean, "noise")


def settings_of(**changes) -> FinetuneSettings:
    return FinetuneSettings(buckets="whole=1", losses="l1=1", ema=0.0, unaligned=0.0, **changes)


def measure(refiner: Refiner, pair: Pair, settings: FinetuneSettings, way: str, repeats: int) -> tuple[float, int]:
    """Median seconds of a step, and peak bytes beyond weights that are there before it."""
    with Run(refiner, [pair], settings, strategy_named(way)) as run:
        run.train_step()
        peak = peak_bytes(run.train_step, refiner.device)
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            run.train_step()
            if refiner.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
    return statistics.median(times), peak


def print_rows(name: str, refiner: Refiner, pair: Pair, settings: FinetuneSettings, repeats: int) -> None:
    frames, (height, width) = len(pair), pair.size
    for way in WAYS:
        try:
            seconds, peak = measure(refiner, pair, settings, way, repeats)
            told = f"{seconds:.2f} | {peak / 2**30:.2f}"
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            told = "– | out of memory"
        print(f"| {name} | {frames}×{height}×{width} | {way} | {told} |", flush=True)


def longest(refiner: Refiner, height: int, width: int, budget_gb: float) -> int:
    """Frames of the longest clip of a size that can be trained on in a budget, 0 where none can."""
    settings = settings_of(memory_budget=round(budget_gb * 1e9), precision="bf16", gradient_checkpointing=True)
    fits = 0
    for frames in (1, 17, 33, 49, 81, 121, 161, 241):
        try:
            with Run(refiner, [clip_of(frames, height, width)], settings, strategy_named("exact")) as run:
                run.plan()
            fits = frames
        except (UserError, torch.OutOfMemoryError):
            break
    return fits


def main(options: Options) -> None:
    """Print the tables."""
    torch.set_num_threads(options.threads)
    cuda = torch.cuda.is_available()
    print(f"{torch.cuda.get_device_name() if cuda else processor()}, {options.threads} threads, torch {torch.__version__}\n")
    print("| model | frames×height×width | way | seconds a step | GiB beyond what waits |\n|---|---|---|---|---|")
    print_rows("tiny", Refiner(RefinerConfig()), clip_of(25, 64, 96), settings_of(), options.repeats)
    if not cuda:
        return
    large = {"precision": "bf16", "gradient_checkpointing": True, "decoder": "frozen", "encoder": "frozen"}
    pair = clip_of(49, 480, 832)
    for name, transformer in (("Wan2.1-1.3B, LoRA", "lora"), ("Wan2.1-1.3B, full", "full")):
        print_rows(name, wan(), pair, settings_of(transformer=transformer, **large), options.repeats)
    if options.budget_gb is not None:
        print(f"\nlongest clip of 480×832 in {options.budget_gb:g} GB: {longest(wan(), 480, 832, options.budget_gb)} frames")


if __name__ == "__main__":
    main(tyro.cli(Options))
