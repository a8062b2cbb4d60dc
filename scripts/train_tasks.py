"""Train the embedded refiners for super-resolution, inpainting and driving, and compare them with what needs no learning:

    python scripts/train_tasks.py --task inpainting --videos VIDEO… --judge-videos VIDEO…

Sample worlds and clips of the videos are degraded (driving: a vehicle is put into true drives), the refiner learns to mend
them, and worlds and videos that it has not seen judge it. The weights are stored with 16 bits, and these are what is judged.
Every step is kept under --work and done once; the same command given again goes on from there.
"""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Optional

import torch
import tyro
from jaxtyping import Bool, Float
from task_data import Sources, TaskName, make_task_pairs
from torch import Tensor

from chopgrad_ns.chopgrad import Full
from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.fill import filled
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.evaluate import actor_boxes
from chopgrad_ns.evaluate.baselines import enlarged, masked_mean
from chopgrad_ns.evaluate.comparison import Comparison
from chopgrad_ns.evaluate.regions import mask_of_boxes
from chopgrad_ns.progress import ProgressLines
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from chopgrad_ns.refiner.config import RefinerConfig

FIRST_SEED, FIRST_JUDGE_SEED = 6000, 9500
RECIPES = {"super-resolution": ("5x48x48x3", "mse=20,ssim=0.1,perceptual=0.02@1200"),
           "inpainting": ("5x96x96x1", "mse=20,ssim=0.1,perceptual=0.05@400"),
           "driving": ("5x96x128x1", "mse=20,ssim=0.1,perceptual=0.1@300")}
"""Shapes of examples, and losses, of each task."""
SHADOW = 0.3
"""By which an inserted vehicle's box is widened, in parts of its longer side, to hold its shadow too."""


@dataclass
class Options:
    """How much to train, and on what."""

    task: TaskName
    work: Path = Path("outputs/tasks")
    """folder for worlds, and in a folder of the task's name pairs, progress and the comparison"""
    output: Path = Path("assets/tiny")
    """folder for a folder of the task's name with the refiner"""
    videos: tuple[Path, ...] = ()
    """video files that clips are trained on; not for driving"""
    judge_videos: tuple[Path, ...] = ()
    """video files whose clips only judge"""
    worlds: int = 32
    """sample worlds that are trained on; for driving, drives"""
    judge_worlds: int = 4
    """sample worlds that only judge"""
    draws: int = 2
    """how often the vehicle is put into each drive that is trained on, under another light"""
    minutes: float = 240.0
    """of training, at most"""
    steps: int = 1800
    """at most"""
    buckets: Optional[str] = None
    """shapes of examples, as chopgrad finetune takes them; many steps of few pixels teach more than few steps of many, but a
    hole should be seen with what is around it, and a vehicle with its shadow"""
    losses: Optional[str] = None
    """as chopgrad finetune takes them; the perceptual distance makes a step take twice as long"""
    lr: float = 4e-3
    """highest learning rate"""
    width: int = 192
    """of sample worlds and, at most, judging videos, pixels"""
    height: int = 128
    """of sample worlds, pixels"""
    clip_frames: int = 21
    """of clips of worlds and videos"""

    def __post_init__(self):
        buckets, losses = RECIPES[self.task]
        self.buckets, self.losses = self.buckets or buckets, self.losses or losses


class Baseline(NamedTuple):
    """What is done without learning: its name in files, its label, what it does, and the function that does it."""

    name: str
    label: str
    about: str
    mend: Callable[[Pair], Float[Tensor, "t 3 h w"]]


BASELINES: dict[str, list[Baseline]] = {
    "super-resolution": [
        Baseline("bilinear", "bilinear", "Enlarged bilinearly: what the refiner starts from.",
                 lambda pair: enlarged(pair.degraded.frames, pair.size, "bilinear")),
        Baseline("bicubic", "bicubic", "Enlarged by bicubic interpolation.",
                 lambda pair: enlarged(pair.degraded.frames, pair.size))],
    "inpainting": [
        Baseline("masked-mean", "mean of what is seen", "Each hole filled with the mean colour of its frame outside.",
                 lambda pair: masked_mean(pair.degraded.frames, pair.degraded.mask)),
        Baseline("telea", "OpenCV, Telea", "cv2.inpaint, each frame by itself, fast marching (Telea 2004).",
                 lambda pair: filled(pair.degraded.frames, pair.degraded.mask, "telea")),
        Baseline("navier-stokes", "OpenCV, Navier-Stokes", "cv2.inpaint, each frame by itself, after Bertalmio et al. 2001: what the "
                 "refiner starts from.",
                 lambda pair: filled(pair.degraded.frames, pair.degraded.mask, "navier-stokes"))],
    "driving": [
        Baseline("naive", "naive insertion", "The vehicle's splat laid over the drive: no shadow, and light of its own.",
                 lambda pair: pair.degraded.frames)],
}
TITLES = {"super-resolution": "Super-resolution ×4", "inpainting": "Inpainting", "driving": "Vehicles put into drives"}


def settings_of(options: Options) -> FinetuneSettings:
    """The stored degradations are of whole frames and of both kinds: small crops degraded anew teach less. Holes are drawn
    anew for half of the steps.
    """
    return FinetuneSettings(steps=options.steps, lr=options.lr, max_seconds=60 * options.minutes, buckets=options.buckets,
                            losses=options.losses, fresh=options.task == "inpainting", checkpoint_every=100)


def judged_where(pair: Pair, task: TaskName) -> Bool[Tensor, "t 1 h w"] | None:
    """Holes, or inserted vehicles and what is around them; None for whole frames."""
    if task == "super-resolution":
        return None
    hole = pair.degraded.mask > 0.5
    return hole if task == "inpainting" else mask_of_boxes(actor_boxes(hole.to(torch.uint8), padding=SHADOW), pair.clean)


def compare(refiner: Refiner, judges: Sequence[StoredPair], folder: Path, command: str) -> Comparison:
    """The refiner beside its task's baselines on each of the clips."""
    task = refiner.task.name
    comparison = Comparison(folder, TITLES[task], command)
    methods = [*BASELINES[task], Baseline("tiny", "tiny refiner", "The embedded refiner: one step, all frames of a clip at once.",
                                          lambda pair: refiner(pair.degraded, pair.size))]
    for method in methods:
        comparison.add_method(method.name, method.label, method.about)
    for stored in judges:
        pair = stored.read()
        comparison.add_clip(pair.name, pair.clean, mask=judged_where(pair, task))
        for method in methods:
            start = time.monotonic()
            frames = method.mend(pair)
            comparison.add_frames(pair.name, method.name, frames, time.monotonic() - start)
        print(f"compared on {pair.name}", flush=True)
    comparison.finish()
    return comparison


def main(options: Options) -> None:
    """Pairs, training, verdict."""
    folder = options.work / options.task
    worlds = options.work / ("drives" if options.task == "driving" else "worlds")
    size, count = (options.width, options.height), options.clip_frames
    sources = {
        "judges": Sources(options.judge_worlds, FIRST_JUDGE_SEED, options.judge_videos, options.width, 3 * count, size, count),
        "pairs": Sources(options.worlds, FIRST_SEED, options.videos, 2 * options.width, count, size, count,
                         draws=options.draws)}
    judges, pairs = (make_task_pairs(options.task, source, worlds, folder / name) for name, source in sources.items())
    print(f"{len(pairs)} pairs to train on, {len(judges)} to judge by", flush=True)
    refiner = Refiner(RefinerConfig(task=options.task))
    # Small crops fit into memory whole; the exact gradient, group by group, is the same and takes longer.
    finetune(refiner, pairs, settings_of(options), ProgressLines(options.task, seconds=60), folder / "progress", Full())
    refiner.save(options.output / options.task, torch.float16)
    refiner = Refiner.from_pretrained(options.output / options.task, options.task)
    print(compare(refiner, judges, folder / "comparison", shlex.join(["python", *sys.argv])).table())


if __name__ == "__main__":
    main(tyro.cli(Options))
