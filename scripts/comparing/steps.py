"""One step beside many, for inpainting: the refiner's step, and multi-step sampling of the same backbone (VACE-style).

Both start from the same weights around the same autoencoder, which is trained first and kept as it is, and learn on the same
pairs for the same number of steps: one by pixel losses, the other by flow matching. Make pairs with chopgrad pairs --tasks
inpainting, of clips that do not judge and of some that do. Everything is kept under --work and done once.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Tuple

from chopgrad_ns.chopgrad import Exact
from chopgrad_ns.cli.finetune import of_task
from chopgrad_ns.cli.progress import bar
from chopgrad_ns.data.pair_set import PairSet
from chopgrad_ns.errors import UserError, check_least
from chopgrad_ns.evaluate.comparison import Comparison
from chopgrad_ns.refiner import FinetuneSettings
from chopgrad_ns.refiner.finetune.validation import check_apart
from comparing.autoencoder import autoencoder, refiner_around
from comparing.judged import add_clips, add_method, judges_of
from comparing.methods import FROZEN, PIXEL_LOSSES, trained
from comparing.results import begin, tell, training_table
from comparing.sampling import STEPS, TASK, Sampler

PLOTTED = {"psnr": "PSNR, dB", "lpips": "LPIPS", "st_lpips": "ST-LPIPS"}


def run(pairs: Path, judges: Path, work: Path = Path("outputs/steps"), steps: int = 400, autoencoder_steps: int = 600,
        samples: Tuple[int, ...] = (1, 2, 4, 8, 16), clips: int = 12, frames: int = 25, crop: int = 64, batch: int = 2,
        seed: int = 0) -> None:
    """Compare one step with many.

    Args:
        pairs: folder with pairs for inpainting to train on
        judges: folder with such pairs of other scenes to judge by
        work: folder for the autoencoder and both methods, and `comparison` and `table.md` with the result
        steps: of training, of each method
        autoencoder_steps: of training before
        samples: numbers of Euler steps
        clips: that judge, at most
        frames: of each of them, at most
        crop: pixels, width and height of a training clip
        batch: clips of 9 frames a step
        seed: of crops, order and noise
    """
    check_least(steps=(steps, 1), autoencoder_steps=(autoencoder_steps, 1), clips=(clips, 1), frames=(frames, 1),
                crop=(crop, 16), batch=(batch, 1), samples=(min(samples, default=0), 1))
    if max(samples) > STEPS:
        raise UserError(f"--samples has {max(samples)}; give {STEPS} or less.")
    began = time.monotonic()
    stored, held = of_task(PairSet(pairs), TASK, True), of_task(PairSet(judges), TASK, True)
    check_apart(stored, held)
    held = held[:: -(-len(held) // clips)]  # spread over all scenes, which lie one after the other
    base = FinetuneSettings(steps=steps, buckets=f"9x{crop}x{crop}x{batch}", losses=PIXEL_LOSSES, head="frozen", seed=seed,
                            **FROZEN)
    with bar("autoencoder") as progress:
        vae, _ = autoencoder(work / "autoencoder", stored, TASK, replace(base, steps=autoencoder_steps), progress)
    with bar("one step") as progress:
        refiner, about = trained(lambda: refiner_around(vae, TASK, "decode"), TASK, work / "one-step", stored, base, progress,
                                 backprop=Exact())
    sampler = Sampler(vae)
    with bar("many steps") as progress:
        many = sampler.train(stored, base, work / "many-steps", progress)
    comparison = begin(work, "One step beside many")
    found = judges_of(held, frames)
    add_clips(comparison, found)
    add_method(comparison, found, "input", "holes filled by OpenCV", "What both are given: holes filled from around them.",
               lambda clip: refiner.task.prepare(clip).frames, timed=False)
    add_method(comparison, found, "one-step", "one step, pixel losses (ours)",
               "The clip's own latents are taken for the noisy sample, and pixel losses train the one step.", refiner)
    for count in samples:
        add_method(comparison, found, f"steps-{count}", f"flow matching, {count} step{'s' if count > 1 else ''} (VACE-style)",
                   f"From noise in {count} Euler step{'s' if count > 1 else ''}, the holed clip and its mask beside.",
                   lambda clip: sampler.sample(clip, count, seed))
    _curves(comparison, samples)
    tell(comparison, work, began, training_table({
        "one step, pixel losses (ours)": about, "flow matching (VACE-style)": many | {"pixels": about["pixels"]}}))


def _curves(comparison: Comparison, samples: Tuple[int, ...]) -> None:
    """Quality inside the holes over the number of steps."""
    for metric in (name for name in comparison.metrics if name in PLOTTED):
        def value(method: str) -> float:
            return comparison.results(method).summary()["inside"][metric]["mean"]

        comparison.add_curve(f"{PLOTTED[metric]} inside the holes", "steps of sampling", PLOTTED[metric], {
            "flow matching (VACE-style)": [(count, value(f"steps-{count}")) for count in samples],
            "one step, pixel losses (ours)": [(1, value("one-step"))]})
