"""Time to read clips of 24 frames out of a data set at random, and its size: python scripts/benchmark_pairs.py PAIRS

PAIRS is what `chopgrad pairs` wrote. Each clip begins at a random frame of a random pair and is decoded to float tensors:
render, truth, alpha, depth, references and their masks. The same pictures as PNG and as lossless WebP (Pillow) stand
beside it.
"""

import io
import os
import random
import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image

from chopgrad_ns.data.packing import pack, unpack
from chopgrad_ns.data.pair_set import PairSet
from chopgrad_ns.machine import processor


def main(pairs: Annotated[Path, tyro.conf.Positional], frames: int = 24, reads: int = 60) -> None:
    """Read at random.

    Args:
        pairs: folder of pairs
        frames: of a clip
        reads: how many clips
    """
    stored, draw = PairSet(pairs, check=False), random.Random(0)
    times = []
    for _ in range(reads):
        pair = draw.choice(stored)
        start = draw.randrange(len(pair) - frames + 1)
        began = time.perf_counter()
        read = pair.read(slice(start, start + frames))
        times.append(1000 * (time.perf_counter() - began))
    size = sum(path.stat().st_size for pair in stored for path in pair.folder.iterdir()) / sum(len(pair) for pair in stored)
    height, width = read.size
    print(f"{processor()}, {torch.get_num_threads()} threads; {frames} frames of {width}×{height}, {reads} reads of "
          f"{len(stored)} pairs, {read.reference_count} references")
    print(f"a clip: median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms; {size / 1000:.0f} kB a frame\n")
    pictures = (read.clean * 255).round().byte().numpy()
    print(f"{'pictures alone':<20}{'share of raw':>14}{'write ms':>10}{'read ms':>10}")
    for name, (write, back) in {"packed": (pack, lambda packed: unpack(*packed, "uint8", pictures.shape[1:])),
                                "PNG": _codec("PNG"), "lossless WebP": _codec("WEBP", lossless=True, exact=True)}.items():
        began = time.perf_counter()
        written = write(pictures)
        wrote = time.perf_counter()
        assert np.array_equal(back(written), pictures)
        ended = time.perf_counter()
        taken = len(written[0]) if name == "packed" else sum(map(len, written))
        print(f"{name:<20}{taken / pictures.nbytes:>14.3f}{1000 * (wrote - began):>10.1f}{1000 * (ended - wrote):>10.1f}")


def _codec(kind: str, **options):
    def write(pictures: np.ndarray) -> list[bytes]:
        files = [io.BytesIO() for _ in pictures]
        for picture, file in zip(pictures, files):
            Image.fromarray(picture.transpose(1, 2, 0)).save(file, kind, **options)
        return [file.getvalue() for file in files]

    def read(files: list[bytes]) -> np.ndarray:
        return np.stack([np.asarray(Image.open(io.BytesIO(file))).transpose(2, 0, 1) for file in files])

    return write, read


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    tyro.cli(main)
