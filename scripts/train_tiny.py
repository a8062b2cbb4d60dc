"""Train the embedded refiner, `assets/tiny`: python scripts/train_tiny.py --work outputs/tiny

Sample worlds only: no photograph, and so nobody's licence, is involved. Worlds are photographed, splats of many qualities
are fitted to some of their photos, and the refiner learns to mend what these show of the other photos. Worlds with seeds
of their own judge it. Every step is kept under --work and done once; the same command given again goes on from there.
On two CPU cores take --minutes 240 or so, on a GPU a few minutes are worth as much.
"""

import json
import multiprocessing
import random
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import imageio.v3 as imageio
import torch
import tyro
from safetensors.torch import load_file, save_file

from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.pairs import held_out_pair
from chopgrad_ns.data.references import blend_baseline
from chopgrad_ns.data.views import Views
from chopgrad_ns.evaluate.metrics import evaluate_frames, perceptual_metric
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.fit import FitSettings

KINDS = ("room", "courtyard", "objects")
FRAMES, WIDTH, HEIGHT = 40, 192, 128
FIRST_SEED, FIRST_VALIDATION_SEED = 2000, 9000
"""The job's own sample worlds start at seed 1000: the refiner is tried on worlds it has not seen."""


@dataclass
class Options:
    """How much to train."""

    work: Path = Path("outputs/tiny")
    """folder for worlds, pairs and progress"""
    output: Path = Path("assets/tiny")
    """folder for the refiner"""
    worlds: int = 60
    """training worlds"""
    validation_worlds: int = 6
    """worlds that only judge"""
    qualities: int = 2
    """splats fitted to each world, of different sparsity and length of training"""
    minutes: float = 240.0
    """of training"""
    steps: int = 20_000
    """at most"""
    batch: int = 3
    """examples a step"""
    crop: int = 64
    """pixels"""
    workers: int = 1
    """processes that fit splats side by side"""
    photograph_only: bool = False
    """stop when the worlds are photographed (that needs open3d; the rest does not)"""


def capture(folder: Path, index: int, first_seed: int) -> Path:
    """Photograph a world; photos are kept as JPEG, as a camera would."""
    path = folder / f"{KINDS[index % 3]}-{first_seed + index}"
    if (path / "views.safetensors").exists():
        return path
    from chopgrad_ns.sim.sample import sample_clip

    exposure = 0.15 if index % 4 == 3 else 0.0
    world = sample_clip(KINDS[index % 3], first_seed + index, FRAMES, WIDTH, HEIGHT, exposure)
    path.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(world.frames):
        picture = (frame.permute(1, 2, 0) * 255).round().byte().numpy()
        imageio.imwrite(path / f"{number:02d}.jpg", picture, quality=95, subsampling=0)
    save_file({"camera_from_world": world.cameras.camera_from_world.contiguous(), "K": world.cameras.K.contiguous(),
               "points": world.points.contiguous(), "colors": world.colors.contiguous()}, path / "views.safetensors")
    return path


def read_capture(path: Path) -> Views:
    """What `capture` wrote."""
    photos = [torch.from_numpy(imageio.imread(file)).permute(2, 0, 1) for file in sorted(path.glob("*.jpg"))]
    numbers = load_file(path / "views.safetensors")
    cameras = Cameras(numbers["camera_from_world"], numbers["K"], WIDTH, HEIGHT)
    return Views(torch.stack(photos).float() / 255, cameras, numbers["points"], numbers["colors"])


def make_pair(folder: Path, work: tuple[Path, int], device: str) -> Path:
    """Fit a splat to every so-manieth photo of a capture, and pair what it shows with the photos."""
    path, quality = work
    target = folder / f"{path.name}-{quality}"
    if not (target / "pair.json").exists():
        torch.set_num_threads(1)
        draw = random.Random(f"{path.name}/{quality}")
        every, steps = draw.choice([8, 7, 6, 5, 4]), draw.choice([400, 700, 1200])
        views = read_capture(path)
        moved = Views(views.photos.to(device), views.cameras.to(device), views.points.to(device), views.colors.to(device))
        pair = held_out_pair(moved, range(0, FRAMES, every), target.name, FitSettings(steps=steps))
        Pair(pair.degraded.to("cpu"), pair.clean.cpu(), pair.name, pair.valid.cpu()).save(target)
    return target


def make_pairs(folder: Path, captures: list[Path], options: Options) -> list[Pair]:
    """Pairs of all captures, fitted side by side."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    work = [(path, quality) for path in captures for quality in range(options.qualities)]
    if device == "cuda":
        make_pair(folder, work[0], device)  # gsplat compiles its kernels once, not in every process
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return [Pair.load(path) for path in pool.map(partial(make_pair, folder, device=device), work)]


def judge(refine, pairs: list[Pair]) -> dict[str, float]:
    """Mean metrics over the frames that the splats were not fitted to."""
    rows = []
    for pair in pairs:
        unseen = pair.valid.flatten(1).amax(dim=1) > 0
        rows.append(evaluate_frames(refine(pair.degraded)[unseen], pair.clean[unseen], perceptual_metric()))
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}


def main(options: Options) -> None:
    """Worlds, pairs, training, verdict."""
    start = time.monotonic()
    train = [capture(options.work / "worlds", index, FIRST_SEED) for index in range(options.worlds)]
    validation = [capture(options.work / "validation", index, FIRST_VALIDATION_SEED)
                  for index in range(options.validation_worlds)]
    print(f"{time.monotonic() - start:.0f} s: {len(train)} worlds, {len(validation)} to judge by", flush=True)
    if options.photograph_only:
        return
    pairs = make_pairs(options.work / "pairs", train, options)
    judges = make_pairs(options.work / "judges", validation, options)
    print(f"{time.monotonic() - start:.0f} s: {len(pairs)} pairs", flush=True)
    settings = FinetuneSettings(
        steps=options.steps, max_seconds=60 * options.minutes, batch=options.batch, crop=options.crop,
        losses="robust_l1=1,ssim=0.2,perceptual=0.1", checkpoint_every=200)
    refiner = Refiner(RefinerConfig())
    table = {"raw": judge(lambda clip: clip.frames, judges), "blend of warped photos": judge(blend_baseline, judges)}

    def progress(step: int, steps: int) -> None:
        if step % 200 == 0:
            print(f"{time.monotonic() - start:.0f} s: step {step} of {steps}", flush=True)

    result = finetune(refiner, pairs, settings, progress, checkpoint_dir=options.work / "progress")
    table["refined"] = judge(refiner, judges)
    refiner.save(options.output)
    print(json.dumps({"trained": result, "validation": table}, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Options))
