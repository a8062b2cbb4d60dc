"""What sample worlds cost: python scripts/benchmark_sample.py

Makes and writes scenes of each kind in one thread of this process and prints, per kind, CPU seconds a scene (the mean
over seeds) and of its parts, photos a second, and how long a hundred scenes would take on two idle cores.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from chopgrad_ns.machine import processor


@dataclass
class Options:
    """What to time."""

    seeds: int = 3
    """scenes of each kind"""
    frames: int = 40
    width: int = 192
    height: int = 128


def main(options: Options) -> None:
    torch.set_num_threads(1)
    from chopgrad_ns.data.open3d_import import import_open3d
    from chopgrad_ns.sim.sample import make_world, write_scene
    from chopgrad_ns.sim.world import KINDS

    import_open3d()
    # A process' time begins with it, and it has done nothing else yet.
    imports, sizes = time.process_time(), (options.frames, options.width, options.height)
    print(f"{processor()}, one thread; {options.frames} photos of {options.width}×{options.height} px; imports, once a "
          f"process: {imports:.1f} s\n")
    print("| kind | seconds a scene | to build | to photograph and write | photos a second | a hundred on 2 cores |")
    print("|---|---|---|---|---|---|")
    totals = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            build, write = 0.0, 0.0
            for seed in range(options.seeds):
                began = time.process_time()
                world = make_world(kind, seed)
                middle = time.process_time()
                write_scene(Path(folder) / f"{kind}-{seed}", world, *sizes)
                build, write = build + middle - began, write + time.process_time() - middle
            build, write = build / options.seeds, write / options.seeds
            totals.append(build + write)
            _row(kind, build, write, options.frames)
    mean = sum(totals) / len(totals)
    print(f"| all in turn | {mean:.1f} | | | {options.frames / mean:.1f} | {50 * mean / 60 + imports / 60:.1f} min |")


def _row(kind: str, build: float, write: float, frames: int) -> None:
    whole = build + write
    print(f"| {kind} | {whole:.1f} | {build:.1f} | {write:.1f} | {frames / whole:.1f} | {50 * whole / 60:.1f} min |")


if __name__ == "__main__":
    main(tyro.cli(Options))
