"""Train the embedded refiner, `assets/tiny`: python scripts/train_tiny.py --work outputs/tiny

Sample worlds only: no photograph, and so nobody's licence, is involved. Worlds are photographed, splats of many qualities
are fitted to some of their photos, and the refiner learns to mend what these show of the other photos. Worlds with seeds
of their own judge it. Every step is kept under --work and done once; the same command given again goes on from there.
On two CPU cores take --minutes 240 or so, on a GPU a few minutes are worth as much.
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from chopgrad_ns.cli.pair_jobs import SplatWays, WorldJob
from chopgrad_ns.cli.pairs import make_all
from chopgrad_ns.data.pair_set import PairSet
from chopgrad_ns.data.references import blend_baseline
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.evaluate.metrics import evaluate_frames
from chopgrad_ns.losses import perceptual
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.splat.fit import FitSettings

KINDS = ("room", "courtyard", "objects")
FRAMES, WIDTH, HEIGHT = 40, 192, 128
FIRST_SEED, FIRST_VALIDATION_SEED = 2000, 9000
"""The job's own sample worlds start at seed 1000: the refiner is tried on worlds that it has not seen."""


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


def jobs(worlds: int, first_seed: int, qualities: int) -> list[WorldJob]:
    """Worlds with splats of several qualities each, drawn at random but the same every time."""
    made = []
    for seed in range(first_seed, first_seed + worlds):
        draw = random.Random(seed)
        for every in draw.sample([8, 7, 6, 5, 4], qualities):
            ways = SplatWays(("sparse",), every, 2, 1, 1, FitSettings(steps=draw.choice([400, 700, 1200])), references=2,
                             keep_photos=False)
            made.append(WorldJob(KINDS[seed % len(KINDS)], seed, FRAMES, WIDTH, HEIGHT, 0.0, ways))
    return made


def judge(refine, pairs: Sequence[StoredPair]) -> dict[str, float]:
    """Mean metrics over the frames that the splats were not fitted to: all, where a pair does not say."""
    rows = []
    for pair in (stored.read() for stored in pairs):
        unseen = slice(None) if pair.valid is None else pair.valid.flatten(1).amax(dim=1) > 0
        rows.append(evaluate_frames(refine(pair.degraded)[unseen], pair.clean[unseen], perceptual()))
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}


def main(options: Options) -> None:
    """Worlds, pairs, training, verdict."""
    start = time.monotonic()
    sets = {"pairs": (options.worlds, FIRST_SEED), "judges": (options.validation_worlds, FIRST_VALIDATION_SEED)}
    for name, (worlds, first_seed) in sets.items():
        make_all(jobs(worlds, first_seed, options.qualities), options.work / name, options.workers, ray=None)
    pairs, judges = (PairSet(options.work / name) for name in sets)
    print(f"{time.monotonic() - start:.0f} s: {len(pairs)} pairs, {len(judges)} to judge by", flush=True)
    settings = FinetuneSettings(
        steps=options.steps, max_seconds=60 * options.minutes,
        buckets=f"9x{options.crop}x{options.crop}x{options.batch}=7,whole=1",
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
