"""How long the CPU rasteriser takes against tiled torch, in milliseconds: python scripts/benchmark_splat.py

Medians over repetitions of a random scene whose Gaussians are about two pixels wide; harmonics of degree 3.
"""

import statistics
import time
from dataclasses import dataclass

import torch
import tyro

from chopgrad_ns.machine import processor
from chopgrad_ns.splat import rasterize

SIZES = ((10_000, 192, 128), (50_000, 480, 320))


@dataclass
class Options:
    """What to time."""

    threads: int = torch.get_num_threads()
    """threads of torch and of the kernel"""
    repeats: int = 15
    """runs of the kernel; tiled torch, being slow, gets a fifth"""
    torch: bool = True
    """whether to time tiled torch too"""


def scene(count: int, width: int, height: int) -> list[torch.Tensor]:
    """Gaussians filling the view to a depth of 2…8, as `rasterize` takes them."""
    generator = torch.Generator().manual_seed(0)
    depth = 2 + 6 * torch.rand(count, generator=generator)
    across = (torch.rand(count, 2, generator=generator) - 0.5) * 1.2 * torch.tensor([1.0, height / width])
    means = torch.cat([across / 0.9 * depth[:, None], depth[:, None]], dim=1)
    scales = torch.exp(0.5 * torch.randn(count, 3, generator=generator)) * 2 * depth[:, None] / (0.9 * width)
    quats, opacities = torch.randn(count, 4, generator=generator), torch.rand(count, generator=generator)
    tensors = [means, quats, scales, opacities, torch.randn(count, 16, 3, generator=generator) * 0.2]
    K = torch.tensor([[[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1]]])
    return [t.requires_grad_() for t in tensors] + [torch.eye(4)[None], K]


def time_backend(inputs: list[torch.Tensor], width: int, height: int, backend: str, repeats: int
                 ) -> tuple[float, float]:
    """Median milliseconds of a forward pass, and of one with its backward pass."""
    forward, both = [], []
    for _ in range(repeats + 1):
        for tensor in inputs[:5]:
            tensor.grad = None
        start = time.perf_counter()
        image, _, _ = rasterize(*inputs, width, height, sh_degree=3, packed=False, backend=backend)
        middle = time.perf_counter()
        image.square().sum().backward()
        forward.append(middle - start)
        both.append(time.perf_counter() - start)
    return 1e3 * statistics.median(forward[1:]), 1e3 * statistics.median(both[1:])  # the first run warms up


def main(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(options.threads)
    print(f"{processor()}, {options.threads} threads, torch {torch.__version__}\n")
    print("| Gaussians | picture | backend | forward ms | forward + backward ms |\n|---|---|---|---|---|")
    backends = {"cpu": options.repeats, **({"torch": max(options.repeats // 5, 1)} if options.torch else {})}
    for count, width, height in SIZES:
        inputs = scene(count, width, height)
        for backend, repeats in backends.items():
            forward, both = time_backend(inputs, width, height, backend, repeats)
            print(f"| {count} | {width} × {height} | {backend} | {forward:.1f} | {both:.1f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
