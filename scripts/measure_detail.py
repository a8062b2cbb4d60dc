"""Which ways of keeping detail are worth it: python scripts/measure_detail.py --pairs pairs

A latent is a bottleneck, and what a clip had right must not be blurred by it. This trains the tiny refiner for artifact
removal with each output, with and without skips from the encoder to the decoder, on the same pairs for the same number of
steps. It prints the quality on pairs of other scenes, at the frames that their splats were not fitted to, and how well a
single clip can be learnt by heart.
"""

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro
from train_tiny import judge

from chopgrad_ns.data.pair_set import PairSet
from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.metrics import psnr
from chopgrad_ns.files import write_json
from chopgrad_ns.machine import processor
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.finetune import hold_out


@dataclass
class Options:
    """What to compare."""

    pairs: Path
    """folder that chopgrad pairs wrote"""
    output: Path = Path("outputs/detail.json")
    """file for the table"""
    held_out: int = 3
    """pairs that only judge, 1 or more; no others of their scenes are trained on"""
    by_heart_steps: int = 300
    """of learning the first 5 frames of the first pair that is trained on, 48×48 pixels of them, by heart"""
    settings: FinetuneSettings = field(default_factory=FinetuneSettings)


def by_heart(config: RefinerConfig, pair, steps: int) -> float:
    """PSNR of a clip that was all there was to learn, references left out: they would give the answer away."""
    clip, size = pair.degraded[:5], (slice(40, 88), slice(40, 88))
    cut = lambda x: x[..., size[0], size[1]]  # noqa: E731
    clip = replace(clip, frames=cut(clip.frames), alpha=None, depth=cut(clip.depth), references=None, reference_masks=None,
                   cameras=None)
    one = replace(pair, degraded=clip, clean=cut(pair.clean[:5]), valid=None, reference_photos=None)
    refiner = Refiner(config)
    finetune(refiner, [one], FinetuneSettings(steps=steps, lr=3e-3, buckets="whole=1", losses="l1=1,mse=10", ema=0.9,
                                              flips=False, unaligned=0))
    return round(float(psnr(refiner(clip), one.clean).mean()), 2)


def main(options: Options) -> None:
    """Train, judge, print."""
    if options.held_out < 1:
        raise UserError(f"--held-out is {options.held_out}; give 1 or more, for pairs are needed that only judge.")
    stored = PairSet(options.pairs)
    training, judges = hold_out(stored, options.held_out, options.settings.seed)
    print(f"{processor()}, {torch.get_num_threads()} threads; {len(training)} pairs, {options.settings.steps} steps; judged by "
          f"{', '.join(pair.name for pair in judges)}", flush=True)
    table = {"input": judge(lambda clip: clip.frames, judges)}
    print("input", table["input"], flush=True)
    for output in ("correct", "residual", "decode"):
        for skips in (True, False):
            config, began = RefinerConfig(output=output, skips=skips), time.monotonic()
            refiner = Refiner(config)
            finetune(refiner, training, options.settings)
            name = f"{output}, {'with' if skips else 'no'} encoder skips"
            table[name] = judge(refiner, judges) | {"seconds": round(time.monotonic() - began),
                                                    "by_heart": by_heart(config, training[0].read(), options.by_heart_steps)}
            print(name, json.dumps(table[name]), flush=True)
            write_json(options.output, table)


if __name__ == "__main__":
    main(tyro.cli(Options))
