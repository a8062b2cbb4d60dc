"""How long the CPU rasteriser takes beside torch, and how far it is from float64: python scripts/benchmark_splat.py

Random scenes whose Gaussians are about two pixels wide; harmonics of degree 3. Prints two tables: medians in
milliseconds of the kernel, of the tiled torch fallback and of a plain torch renderer that knows no tiles, all in one
run and in turns; and errors of the kernel against tiled torch in float64.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro

from chopgrad_ns.machine import processor
from chopgrad_ns.splat import rasterize, torch_backend

SIZES = ((10_000, 192, 128), (50_000, 480, 320))
NAMES = ("means", "quats", "scales", "opacities", "harmonics", "viewmats")


@dataclass
class Options:
    """What to time."""

    threads: int = torch.get_num_threads()
    """threads of torch and of the kernel"""
    repeats: int = 15
    """runs of the kernel; tiled torch, being slow, gets a fifth"""
    torch: bool = True
    """whether to time tiled torch too"""
    plain: bool = True
    """whether to time plain torch too: once, and at the smallest size only (about a minute and 3 GB)"""
    errors: bool = True
    """whether to measure errors"""


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


def draw(inputs: list[torch.Tensor], width: int, height: int, backend: str) -> torch.Tensor:
    """The picture [1, H, W, 3]."""
    return rasterize(*inputs, width, height, sh_degree=3, packed=False, backend=backend)[0]


def draw_plainly(inputs: list[torch.Tensor], width: int, height: int) -> torch.Tensor:
    """The same picture without tiles: every Gaussian in front of every pixel, 512 pixels at a time."""
    means, quats, scales, opacities, sh, viewmats, Ks = inputs
    radii, means2d, depths, conics, _, colors = torch_backend.project(
        means, quats, scales, sh, viewmats, Ks, width, height, 0.01, 1e10, 0.0, 0.3, 3)
    order = torch.argsort(depths[0])[int((radii[0] <= 0).sum()):]
    means2d, conics, colors, opacities = means2d[0, order], conics[0, order], colors[0, order], opacities[order]
    a, b, c = (conics[:, k, None] for k in range(3))
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")

    def composite(part: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        dx, dy = means2d[:, :1] - x, means2d[:, 1:] - y
        alpha = opacities[:, None] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
        alpha = torch.where(alpha >= torch_backend.ALPHA_MIN, alpha, 0).clamp_max(torch_backend.ALPHA_MAX)
        after = torch.cumprod(1 - alpha, dim=0)
        weight = torch.where(after > torch_backend.TRANSMITTANCE_MIN, alpha * after / (1 - alpha), 0)
        return weight.T @ part

    parts = [torch.utils.checkpoint.checkpoint(composite, colors, *xy, use_reentrant=False)
             for xy in zip(x.flatten().split(512), y.flatten().split(512))]
    return torch.cat(parts).reshape(1, height, width, 3)


def run(inputs: list[torch.Tensor], render: Callable[[], torch.Tensor]) -> tuple[float, float]:
    """Milliseconds of a forward pass, and of one with its backward pass."""
    for tensor in inputs[:5]:
        tensor.grad = None
    start = time.perf_counter()
    image = render()
    middle = time.perf_counter()
    image.square().sum().backward()
    return 1e3 * (middle - start), 1e3 * (time.perf_counter() - start)


def print_times(options: Options) -> None:
    """The table of times."""
    print("| Gaussians | picture | renderer | forward ms | forward + backward ms | × kernel |")
    print("|---|---|---|---|---|---|")
    for size in SIZES:
        count, width, height = size
        inputs = scene(*size)
        renderers = {"kernel": (options.repeats, lambda: draw(inputs, width, height, "cpu"))}
        if options.torch:
            renderers["tiled torch"] = (max(options.repeats // 5, 1), lambda: draw(inputs, width, height, "torch"))
        if options.plain and size == SIZES[0]:
            renderers["plain torch"] = (1, lambda: draw_plainly(inputs, width, height))
        times = {name: [] for name in renderers}
        draw(inputs, width, height, "cpu")  # built and warm
        for turn in range(options.repeats):
            for name, (repeats, render) in renderers.items():
                if turn * repeats // options.repeats != (turn - 1) * repeats // options.repeats:
                    times[name].append(run(inputs, render))
        medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in times.items()}
        for name, (forward, both) in medians.items():
            print(f"| {count:,} | {width} × {height} | {name} | {forward:.1f} | {both:.1f} | "
                  f"{both / medians['kernel'][1]:.1f} |", flush=True)


def print_errors() -> None:
    """The table of errors against float64."""
    print("\n| Gaussians | largest error of the image | pixels not clear | " + " | ".join(NAMES) + " |")
    print("|---|---|---|" + "---|" * len(NAMES))
    for size in SIZES:
        _, width, height = size
        drawn = []
        for backend, dtype in (("cpu", torch.float32), ("torch", torch.float64)):
            inputs = [t.detach().to(dtype) for t in scene(*size)]
            image = draw([*(t.requires_grad_() for t in inputs[:6]), inputs[6]], width, height, backend)
            weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
            (image * weights).sum().backward()
            drawn.append((image.detach().double(), [t.grad.double() for t in inputs[:6]]))
        (ours, gradients), (truth, expected) = drawn
        clear = torch_backend.clear_pixels(lambda: draw(inputs, width, height, "torch"))
        error = ((ours - truth).abs() * clear).max()
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(gradients, expected)]
        print(f"| {size[0]:,} | {float(error):.1e} | {int((~clear).sum())} of {clear.numel():,} | "
              + " | ".join(f"{value:.1e}" for value in errors) + " |", flush=True)


def main(options: Options) -> None:
    """Print the tables."""
    torch.set_num_threads(options.threads)
    print(f"{processor()}, {options.threads} threads, torch {torch.__version__}\n")
    print_times(options)
    if options.errors:
        print_errors()


if __name__ == "__main__":
    main(tyro.cli(Options))
