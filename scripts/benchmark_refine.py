"""How fast clips are refined, and in how much memory, by size, length, window and tile: python scripts/benchmark_refine.py

Random weights, random frames, no references; reading and writing are not timed. Two models: `tiny`, the embedded one, and
Wan2.1-1.3B's architecture where there is a CUDA device. Memory is what is allocated beyond weights, by `peak_bytes`.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import tyro

from chopgrad_ns.chopgrad.meter import peak_bytes
from chopgrad_ns.data.clip import Clip
from chopgrad_ns.machine import processor
from chopgrad_ns.refiner import Refiner
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.windows import Windows


@dataclass(frozen=True)
class Row:
    """A clip of so many frames, height × width, and how it is cut."""

    frames: int
    height: int
    width: int
    window: int = 49
    tile: tuple[int, int] | None = None


TINY = (Row(25, 64, 96, 25), Row(49, 64, 96, 25), Row(97, 64, 96, 25), Row(49, 64, 96), Row(97, 64, 96), Row(25, 128, 192, 25),
        Row(25, 128, 192, 25, (80, 112)))
WAN = (Row(49, 480, 832), Row(97, 480, 832), Row(97, 480, 832, 25), Row(49, 720, 1280), Row(49, 720, 1280, 49, (480, 832)),
       Row(49, 1080, 1920, 25, (480, 832)))


@dataclass
class Options:
    """What to time."""

    threads: int = torch.get_num_threads()
    repeats: int = 3
    """timed runs of each row after one that is not; medians are told"""
    memory: bool = True
    """whether to measure memory too, in a run of its own"""


def wan() -> Refiner:
    """Wan2.1-1.3B as published, but for its weights, in bfloat16 as a published one is loaded for that."""
    transformer = {"patch_size": [1, 2, 2], "num_attention_heads": 12, "attention_head_dim": 128, "in_channels": 16,
                   "out_channels": 16, "text_dim": 4096, "freq_dim": 256, "ffn_dim": 8960, "num_layers": 30,
                   "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024}
    vae = {"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [],
           "temperal_downsample": [False, True, True]}
    backbone = {"family": "wan", "vae": vae, "transformer": transformer, "scheduler": {}}
    refiner = Refiner(RefinerConfig(backbone=backbone, output="decode", condition_channels=[12, 24, 32, 48]))
    for part in (refiner.model.backbone.vae, refiner.model.backbone.transformer):
        to_bfloat16(part)
    refiner.precision = "bf16"
    return refiner


def to_bfloat16(part: torch.nn.Module) -> None:
    """As diffusers loads weights: all but those that a class keeps in 32 bits."""
    kept = getattr(part, "_keep_in_fp32_modules", None) or []
    for name, value in part.named_parameters():
        if not any(place in name.split(".") for place in kept):
            value.data = value.data.bfloat16()


def refined(refiner: Refiner, row: Row) -> Iterator[torch.Tensor]:
    """Frames of random noise, refined; made when they are read."""
    def read(part: slice) -> Clip:
        generator = torch.Generator().manual_seed(part.start)
        return Clip(torch.rand(part.stop - part.start, 3, row.height, row.width, generator=generator))

    return refiner.stream(read, row.frames, windows=Windows(row.window, min(8, row.window // 2), row.tile))


def run(refiner: Refiner, row: Row) -> float:
    """Seconds of refining all frames."""
    begun = time.perf_counter()
    for _ in refined(refiner, row):
        pass
    return time.perf_counter() - begun


def print_rows(name: str, refiner: Refiner, rows: tuple[Row, ...], options: Options) -> None:
    """Rows of the table; each run alone, and the rows in turns, so that what else goes on meets all of them."""
    times = {row: [] for row in rows}
    for turn in range(options.repeats + 1):
        for row in rows:
            seconds = run(refiner, row)
            if turn:
                times[row].append(seconds)
    for row in rows:
        memory = peak_bytes(lambda row=row: run(refiner, row), refiner.device) / 1e6 if options.memory else float("nan")
        tile = "whole" if row.tile is None else f"{row.tile[0]}×{row.tile[1]}"
        seconds = statistics.median(times[row])
        print(f"| {name} | {row.height}×{row.width} | {row.frames} | {row.window} | {tile} | {seconds:.2f} | "
              f"{row.frames / seconds:.2f} | {memory:,.0f} |", flush=True)


def main(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(options.threads)
    cuda = torch.cuda.is_available()
    print(f"{torch.cuda.get_device_name() if cuda else processor()}, {options.threads} threads, torch {torch.__version__}\n")
    print("| model | height × width | frames | window | tile | seconds | frames/s | MB beyond weights |")
    print("|---|---|---|---|---|---|---|---|")
    print_rows("tiny", Refiner(RefinerConfig()), TINY, options)
    if cuda:
        print_rows("Wan2.1-1.3B, bf16", wan(), WAN, options)


if __name__ == "__main__":
    main(tyro.cli(Options))
