"""What a refiner learns by: latents alone, or pixels, with the gradient reaching so far back through the decoder.

A small autoencoder is trained first and kept as it is. From the same weights, on the same pairs, for the same number of steps,
the transformer and what conditions it then learn by each loss; the head is left out, for a loss of latents does not reach it.
The result is what is decoded, as in the paper. Worlds with seeds of their own judge. Everything is kept under --work and done
once; the same command given again goes on.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from diffusers import AutoencoderKLWan

from chopgrad_ns.chopgrad import Backprop, Exact, Full, Truncated
from chopgrad_ns.cli.progress import bar
from chopgrad_ns.data.references import REFERENCES
from chopgrad_ns.errors import check_least
from chopgrad_ns.evaluate.comparison import Comparison
from chopgrad_ns.refiner import FinetuneSettings, Refiner
from comparing.autoencoder import autoencoder, refiner_around
from comparing.gradients import cosine_and_ratio, measured, peak_of
from comparing.judged import add_clips, add_method, judges_of
from comparing.methods import FROZEN, PIXEL_LOSSES, trained
from comparing.options import check_qualities
from comparing.results import begin, gradient_table, tell, training_table
from comparing.worlds import FIRST_JUDGE, FIRST_SEED, world_pairs

TASK = "artifact-removal"
DISTANCES = (0, 1, 2, 3)
"""Groups that the gradient is truncated to, for the curve."""
LENGTHS = (9, 17, 33)
"""Frames, for the curve of memory."""


@dataclass(frozen=True)
class Variant:
    """One way to learn; `settings` are what is particular to it."""

    name: str
    label: str
    about: str
    backprop: Backprop
    settings: dict


VARIANTS = (
    Variant("latent", "latents alone", "Mean square of the difference of latents; nothing is decoded.", Exact(),
            {"losses": "latent=1"}),
    Variant("truncated-0", "pixels, Truncated(0)", "Pixel losses whose gradient stays in its own group of frames.",
            Truncated(0), {}),
    Variant("truncated-1", "pixels, Truncated(1)", "The paper: the gradient reaches the group before too.", Truncated(1), {}),
    Variant("exact", "pixels, Exact", "The gradient reaches all groups before.", Exact(), {}),
    Variant("frame-by-frame", "pixels, frame-by-frame",
            "In training each frame is encoded and decoded alone; the transformer sees them together.", Exact(),
            {"decoding": "frame-by-frame"}),
)


def run(work: Path = Path("outputs/ablation"), steps: int = 200, autoencoder_steps: int = 400, worlds: int = 5,
        judges: int = 6, qualities: int = 2, frames: int = 17, crop: int = 64, batch: int = 1, batches: int = 8,
        workers: int = 2, seed: int = 0, small: bool = False) -> None:
    """Compare losses and gradients.

    Args:
        work: folder for pairs, the autoencoder and each variant, and `comparison` and `table.md` with the result
        steps: of training, of each variant
        autoencoder_steps: of training before
        worlds: sample worlds that are trained on
        judges: sample worlds that judge
        qualities: splats fitted to each of them, of different sparsity
        frames: of a training clip; short ones leave nothing to truncate
        crop: pixels, width and height of a training clip
        batch: clips a step
        batches: that gradients are compared on
        workers: processes that fit splats to sample worlds side by side
        seed: of crops and order
        small: sample worlds of a few pixels, to try the command
    """
    check_least(steps=(steps, 1), autoencoder_steps=(autoencoder_steps, 1), worlds=(worlds, 1), judges=(judges, 1),
                frames=(frames, 5), crop=(crop, 16), batch=(batch, 1), batches=(batches, 1), workers=(workers, 1))
    check_qualities(qualities)
    began = time.monotonic()
    pairs = world_pairs(work / "pairs", worlds, qualities, FIRST_SEED, REFERENCES, workers, small)
    held = judges_of(world_pairs(work / "judges", judges, 1, FIRST_JUDGE, REFERENCES, workers, small), 49)
    base = FinetuneSettings(steps=steps, buckets=f"{frames}x{crop}x{crop}x{batch}", losses=PIXEL_LOSSES, head="frozen",
                            seed=seed, **FROZEN)
    with bar("autoencoder") as progress:
        first = replace(base, steps=autoencoder_steps, match_exposure=False)
        vae, _ = autoencoder(work / "autoencoder", pairs, TASK, first, progress)
    comparison = begin(work, "What a refiner learns by")
    add_clips(comparison, held)
    add_method(comparison, held, "raw", "render", "The splat as it is seen.", lambda clip: clip.frames, timed=False)
    add_method(comparison, held, "decoded", "render, encoded and decoded",
               "What all variants start from: the autoencoder alone, which loses detail.", refiner_around(vae, TASK, "decode"))
    trainings, refiners = {}, {}
    for variant in VARIANTS:
        settings = replace(base, **variant.settings)
        with bar(variant.name) as progress:
            refiners[variant.name], trainings[variant.label] = trained(
                lambda: refiner_around(vae, TASK, "decode"), TASK, work / variant.name, pairs, settings, progress,
                backprop=variant.backprop)
        add_method(comparison, held, variant.name, variant.label, variant.about, refiners[variant.name])
    rows = _gradients(comparison, refiners["exact"], pairs, base, batches)
    _memory(comparison, vae, pairs, base)
    tell(comparison, work, began, gradient_table(rows), training_table(trainings))


def _gradients(comparison: Comparison, refiner: Refiner, pairs, base: FinetuneSettings, batches: int) -> dict[str, tuple]:
    """By label: cosine and ratio of lengths against Exact, seconds and bytes of a step, all at the weights Exact ended with."""
    found = {}
    for variant in VARIANTS:
        found[variant.name] = measured(refiner, pairs, replace(base, **variant.settings), variant.backprop, batches)
    rows = {}
    for variant in VARIANTS:
        compared = cosine_and_ratio(found[variant.name], found["exact"])
        peak = peak_of(refiner, pairs, replace(base, **variant.settings), variant.backprop)
        rows[variant.label] = (*compared, found[variant.name].seconds, peak)
    lines = {"cosine": [], "length": []}
    for distance in DISTANCES:
        one = found.get(f"truncated-{distance}") or measured(refiner, pairs, base, Truncated(distance), batches)
        for line, value in zip(lines.values(), cosine_and_ratio(one, found["exact"])):
            line.append((distance, value))
    comparison.add_curve("Truncated gradient beside the exact one", "groups before its own that a loss reaches", "of Exact",
                         lines)
    return rows


def _memory(comparison: Comparison, vae: AutoencoderKLWan, pairs, base: FinetuneSettings) -> None:
    refiner, lines = refiner_around(vae, TASK, "decode"), {}
    crop = base.buckets.split("x", 1)[1]
    for label, backprop in (("Full", Full()), ("Truncated(1)", Truncated(1)), ("Exact", Exact())):
        lines[label] = [(frames, peak_of(refiner, pairs, replace(base, buckets=f"{frames}x{crop}"), backprop) / 1e6)
                        for frames in LENGTHS if frames <= min(len(pair) for pair in pairs)]
    comparison.add_curve("Memory of a step", "frames of a clip", "peak, MB", lines)
