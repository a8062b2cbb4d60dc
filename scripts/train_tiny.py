"""Train the embedded refiner, `assets/tiny/artifact-removal`:

    python scripts/train_tiny.py --photographs CLIPS… --exhibits SPLATS… --judges CAPTURE…

Sample worlds of every kind are photographed as captures are, most of them dressed in crops of the pictures and videos given,
some with a splat of a real thing among what they show (whose licences must allow it); splats of many qualities are fitted to
some of the photos, and the refiner learns to mend what these show of the others. Worlds with seeds of their own, made in the
same way, and captures that are not trained on, judge it. Every step is kept under --work and done once; the same command given
again goes on from there. On a CPU, convolutions this small hardly profit from threads: `OMP_NUM_THREADS=1 torchrun
--nproc-per-node 2` in the place of `python` nearly halves the time of a step. `assets/tiny/README.md` says what the
weights that are shipped took.
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from comparing.judged import unseen
from PIL import Image

from chopgrad_ns.chopgrad import Full
from chopgrad_ns.cli.pair_jobs import CaptureJob, SplatWays, WorldJob, licence_of
from chopgrad_ns.cli.pairs import make_all
from chopgrad_ns.data.pair_set import PairSet
from chopgrad_ns.data.plain_videos import open_video
from chopgrad_ns.data.references import REFERENCES, blend_baseline
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.metrics import evaluate_frames, psnr
from chopgrad_ns.files import whole_folder
from chopgrad_ns.losses import perceptual
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.finetune import distributed
from chopgrad_ns.splat.fit import FitSettings

KINDS = ("closeup", "room", "closeup", "courtyard", "closeup", "objects", "closeup", "street")
SIZES = ((192, 128), (240, 160), (128, 192), (160, 240))
FRAMES = 40
FIRST_SEED, FIRST_VALIDATION_SEED = 2000, 9000
"""The job's own sample worlds start at seed 1000: the refiner is tried on worlds that it has not seen."""
SINGLE = 24
"""Worlds of which one splat is shown; of all others two together, trained for half as long."""
PICTURES_A_SOURCE, LONGEST_SIDE = 12, 640
LEAST_PSNR = 20.0
"""dB of what a splat shows; of worse ones nothing is learnt that helps those that are nearly right."""


@dataclass
class Options:
    """How much to train."""

    photographs: tuple[Path, ...] = ()
    """videos and folders of pictures that most of the worlds are dressed in"""
    exhibits: tuple[Path, ...] = ()
    """splats of real things that some of the worlds get"""
    judges: tuple[Path, ...] = ()
    """captures that only judge, by splats of every 4th and every 6th view"""
    work: Path = Path("outputs/tiny")
    """folder for worlds, pairs and progress"""
    output: Path = Path("assets/tiny/artifact-removal")
    """folder for the refiner"""
    worlds: int = 53
    """training worlds"""
    validation_worlds: int = 8
    """worlds that only judge"""
    references: int = REFERENCES
    """photos warped into each frame"""
    minutes: float = 60.0
    """of training"""
    steps: int = 4200
    """at most"""
    buckets: str = "5x48x48x4=3,9x64x64x2=1"
    losses: str = "robust_l1=0.5,mse=2,ssim=0.1"
    """with a perceptual distance among them, what is mended of captures is farther from the truth in that very distance: what
    is learnt of worlds' textures is not true of them"""
    reference_disorder: float = 0.6
    """chance that a photo is bent and exposed differently, as `FinetuneSettings` takes it"""
    strength: float = 0.5
    """share of the change that was learnt which is kept (`weaken`)"""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16 takes less time on processors that have it (avx512_bf16), and much more on others"""
    lr: float = 3e-3
    start: str | None = None
    """refiner to go on from; by default a random one"""
    workers: int = 1
    """processes that fit splats side by side"""


def extract(sources: Sequence[Path], folder: Path) -> None:
    """Some pictures of each source, made smaller, and where they are from. Raises UserError where there are others' already."""
    about = "; ".join(f"{source.name}: {licence_of(source)}" for source in sources) + "\n"
    if folder.exists():
        if (folder / "LICENSE.txt").read_text() != about:
            raise UserError(f"{folder} holds pictures of other --photographs; give another --work.")
        return
    with whole_folder(folder.resolve()) as unfinished:
        for number, source in enumerate(sources):
            video = open_video(source)
            every = max(video.frames // PICTURES_A_SOURCE, 1)
            for index, picture in enumerate(video.pictures()):
                if index % every == 0:
                    smaller = Image.fromarray(picture)
                    smaller.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
                    smaller.save(unfinished / f"{number:02d}-{index:05d}.png")
        (unfinished / "LICENSE.txt").write_text(about)


def jobs(worlds: int, first_seed: int, references: int, photographs: Path | None, exhibits: Sequence[Path]) -> list[WorldJob]:
    """Worlds with splats of several qualities, drawn at random but the same every time.

    Most are photographed as captures are, with flaws and changing exposure: splats of perfect photos are wrong in other ways,
    sharp where those of captures are smooth, and right in what those of captures get wrong, brightness and coarse shapes.
    """
    made = []
    for number in range(worlds):
        draw = random.Random(first_seed + number)
        kind = KINDS[number % len(KINDS)]
        ways = ("sparse", "underfit") if draw.random() < 0.15 else ("sparse",)
        every, underfit = draw.choice([8, 7, 6, 5, 4]), (draw.choice([300, 500]), draw.choice([8000, 20000]))
        steps = draw.choice([600, 1000, 1500, 1500])
        settings, ensemble = (FitSettings(steps=steps), 1) if number < SINGLE else (
            FitSettings(steps=steps // 2, max_gaussians=15_000), 2)
        splats = SplatWays(ways, every, 2, *underfit, settings, references, keep_photos=False, ensemble=ensemble)
        size, exposure = draw.choice(SIZES), None if draw.random() < 0.5 else 0.0
        dressed = photographs if draw.random() < 0.7 else None
        shown = draw.choice(exhibits) if exhibits and kind != "street" and draw.random() < 0.4 else None
        made.append(WorldJob(kind, first_seed + number, FRAMES, *size, exposure, splats, dressed, shown, draw.random() < 0.8))
    return made


def captures(paths: Sequence[Path], references: int) -> list[CaptureJob]:
    """Captures as judges: two pairs each, of ensembles as the job makes them."""
    return [CaptureJob(path, path.name, licence_of(path), 1, False, 240,
                       SplatWays(("sparse",), every, 2, 1, 1, FitSettings(steps=1200), references, keep_photos=False, ensemble=5))
            for path in paths for every in (4, 6)]


def mendable(stored: StoredPair) -> bool:
    """Whether what a splat shows of the photos that it was not fitted to is near enough to be mended."""
    pair = stored.read()
    held = unseen(pair)
    return bool(held.any()) and float(psnr(pair.degraded.frames[held], pair.clean[held]).mean()) >= LEAST_PSNR


@torch.no_grad()
def weaken(refiner: Refiner, strength: float) -> None:
    """Let a refiner that corrects its input change that by about `strength` of what it did, less where it is at its bounds.

    Refiners trained on worlds overdo it on captures, whose photos are warped less truly. What is changed are last layers, so
    that a weakened refiner is one like others.
    """
    head, decoder = refiner.model.head, refiner.model.backbone.vae.decoder
    for value in (*head.delta.parameters(), *head.weight.parameters()):
        value.mul_(strength)
    for value in decoder.conv_out.parameters():
        value[:3] *= strength  # the correction among the channels, which
    head.mix.weight[:, :3] /= strength  # goes into the head as it was


def judge(refine, pairs: Sequence[StoredPair]) -> dict[str, dict[str, float]]:
    """Metrics over the frames that the splats were not fitted to, of each pair and the mean."""
    rows = {}
    for pair in (stored.read() for stored in pairs):
        held = unseen(pair)
        rows[pair.name] = evaluate_frames(refine(pair.degraded)[held], pair.clean[held], perceptual())
    mean = {name: round(sum(row[name] for row in rows.values()) / len(rows), 4) for name in next(iter(rows.values()))}
    return rows | {"mean": mean}


def prepare(options: Options) -> None:
    """Pictures, pairs and judges, where they are not there yet."""
    photographs = None
    if options.photographs:
        photographs = options.work / "photographs"
        extract(options.photographs, photographs)
    worlds = lambda count, seed: jobs(count, seed, options.references, photographs, options.exhibits)  # noqa: E731
    make_all(worlds(options.worlds, FIRST_SEED), options.work / "pairs", options.workers, ray=None)
    make_all(worlds(options.validation_worlds, FIRST_VALIDATION_SEED) + captures(options.judges, options.references),
             options.work / "judges", options.workers, ray=None)


def main(options: Options) -> None:
    """Pictures, pairs, training, verdict."""
    if not 0 < options.strength <= 1:
        raise UserError(f"--strength is {options.strength}; give a number above 0, up to 1.")
    start, here = time.monotonic(), distributed.accelerator()
    if here.is_main_process:
        prepare(options)
    here.wait_for_everyone()
    pairs = [pair for pair in PairSet(options.work / "pairs") if mendable(pair)]
    settings = FinetuneSettings(steps=options.steps, max_seconds=60 * options.minutes, buckets=options.buckets,
                                losses=options.losses, precision=options.precision, lr=options.lr, relative=True, ema=0.997,
                                reference_disorder=options.reference_disorder, checkpoint_every=200)
    refiner = Refiner(RefinerConfig(keep_contrast=True)) if options.start is None else Refiner.from_pretrained(options.start)

    def progress(step: int, steps: int) -> None:
        if step % 100 == 0 and here.is_main_process:
            print(f"{time.monotonic() - start:.0f} s: step {step} of {steps} on {len(pairs)} pairs", flush=True)

    # Full and Exact have the same gradient; clips this short fit into memory whole, and Full goes through them once.
    result = finetune(refiner, pairs, settings, progress, options.work / "progress", Full(), log_dir=options.work)
    if not here.is_main_process:
        return
    weaken(refiner, options.strength)
    refiner.save(options.output, torch.float16)
    refined, judges = Refiner.from_pretrained(options.output), PairSet(options.work / "judges")
    table = {name: judge(refine, judges) for name, refine in {
        "raw": lambda clip: clip.frames, "blend of warped photos": blend_baseline, "refined": refined}.items()}
    (options.work / "verdict.json").write_text(json.dumps({"trained": result, "validation": table}, indent=2))
    print(json.dumps({"trained": result, "validation": {name: rows["mean"] for name, rows in table.items()}}, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Options))
