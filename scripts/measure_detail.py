"""Which ways of keeping detail are worth it: python scripts/measure_detail.py --pairs pairs [--vae vae]

A latent is a bottleneck, and what a clip had right must not be blurred by it. This trains the same refiner for
artifact removal with and without each of the ways, on the same pairs for the same number of steps, and prints the quality
on pairs that were not trained on, at the frames that the splats were not fitted to. `--vae` is an autoencoder that has
learnt something, as `scripts/train_small_vae.py` makes one; with a transformer that at first changes nothing it stands for
a published base.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from chopgrad_ns.data.pair_set import PairSet
from chopgrad_ns.evaluate.metrics import evaluate_frames
from chopgrad_ns.losses import perceptual
from chopgrad_ns.machine import processor
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from chopgrad_ns.refiner.backbones.wan import Wan
from chopgrad_ns.refiner.config import RefinerConfig, tiny_backbone

VARIANTS = {
    "tiny": {}, "tiny, no encoder skips": {"skips": False},
    "base, decode": {"output": "decode", "skips": False}, "base, decode, encoder skips": {"output": "decode"},
    "base, residual": {"output": "residual", "skips": False}, "base, residual, encoder skips": {"output": "residual"},
}


@dataclass
class Options:
    """What to compare."""

    pairs: Path
    """folder that chopgrad pairs wrote"""
    vae: Path | None = None
    """folder with an autoencoder of Wan's architecture; without, the variants of a base are left out"""
    held_out: int = 3
    """the last pairs by name, which only judge"""
    settings: FinetuneSettings = field(default_factory=FinetuneSettings)
    output: Path | None = None
    """JSON file for the table"""


def judge(refine, pairs) -> dict[str, float]:
    """Mean metrics over the frames that the splats were not fitted to."""
    rows = []
    for pair in (stored.read() for stored in pairs):
        unseen = pair.valid.flatten(1).amax(dim=1) > 0
        rows.append(evaluate_frames(refine(pair.degraded)[unseen], pair.clean[unseen], perceptual()))
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}


def base(folder: Path) -> Wan:
    """The autoencoder and a small transformer whose velocity is zero at first."""
    vae = AutoencoderKLWan.from_pretrained(folder)
    channels = vae.config.z_dim
    transformer = WanTransformer3DModel(**tiny_backbone()["transformer"] | {"in_channels": channels, "out_channels": channels})
    for parameter in transformer.proj_out.parameters():
        torch.nn.init.zeros_(parameter)
    return Wan(vae, transformer, {})


def main(options: Options) -> None:
    """Train, judge, print."""
    stored = PairSet(options.pairs)
    training, judges = stored[: -options.held_out], stored[-options.held_out :]
    print(f"{processor()}, {torch.get_num_threads()} threads; {len(training)} pairs, {options.settings.steps} steps; judged by "
          f"{', '.join(pair.name for pair in judges)}", flush=True)
    table = {"input": judge(lambda clip: clip.frames, judges)}
    print("input", table["input"], flush=True)
    for name, changes in VARIANTS.items():
        began = time.monotonic()
        if name.startswith("base"):
            if options.vae is None:
                continue
            torch.manual_seed(0)
            backbone = base(options.vae)
            config = RefinerConfig(backbone=backbone.config, base=str(options.vae), prompt_tokens=1,
                                   condition_channels=[12, 24, 32, 48][: backbone.latent_factor.bit_length()], **changes)
            refiner = Refiner(config, backbone)
        else:
            refiner = Refiner(RefinerConfig(**changes))
        before = judge(refiner, judges)
        finetune(refiner, training, options.settings)
        table[name] = {"before": before, "after": judge(refiner, judges), "seconds": round(time.monotonic() - began)}
        print(name, json.dumps(table[name]), flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
