"""Fine-tune a video refiner on pairs, with pixel losses through its causal decoder over whole clips.

Example: chopgrad finetune --pairs pairs --output refiner --steps 1000 --losses robust_l1=1,ssim=0.2,perceptual=0.1@500+200
"""

from pathlib import Path
from typing import Optional


def run(pairs: Path, output: Path, base: str = "tiny", steps: int = 240, losses: str = "robust_l1=1,ssim=0.2",
        backprop: str = "exact", learning_rate: Optional[float] = None, seed: int = 0) -> None:
    """Fine-tune a refiner.

    Args:
        pairs: folder that `chopgrad pairs` wrote
        output: folder for the refiner (config.json, model.safetensors); progress is kept in it, and an interrupted
            run given again continues
        base: "tiny" or a folder with a refiner
        steps: optimisation steps
        losses: name=weight of each; name=weight@start for one that begins at that step, name=weight@start+ramp for one
            whose weight then rises over so many steps; names are l1, mse, charbonnier, robust_l1, ssim, ms_ssim,
            perceptual, lpips, dists, vgg_gram and frame_difference
        backprop: how far losses reach back through the decoder: exact, full (the same, with everything in memory) or
            truncated-N (to N groups of frames before their own); exact-offload, exact-keep-K and exact-layers take less
            memory and more time, and can be joined: exact-offload-layers
        learning_rate: of AdamW, at its highest; by default 1e-3 for an untrained base, 2e-4 for a trained one
        seed: of crops and order
    """
    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.data.pair_set import PairSet
    from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune, training_losses

    strategy = strategy_of(backprop)
    training_losses(losses)
    stored = PairSet(pairs)
    examples = stored.of_one_size()
    if len(examples) < len(stored):
        print(f"{len(stored) - len(examples)} of {len(stored)} pairs are for super-resolution, which no refiner here learns yet; "
              "they are left out.")
    refiner = Refiner.from_pretrained(base, task="artifact-removal")
    settings = FinetuneSettings(steps=steps, lr=learning_rate, losses=losses, seed=seed)
    with bar("fine-tuning") as progress:
        finetune(refiner, examples, settings, progress, checkpoint_dir=output / "progress", backprop=strategy)
    refiner.save(output)
    print(f"Refiner in {output}; next: chopgrad refine SCENE --splat splat.ply --refiner {output}")
    stored.complain()


def strategy_of(backprop: str):
    """The way through the decoder that `--backprop` names, as `chopgrad profile` names it."""
    from chopgrad_ns.chopgrad import strategy_named
    from chopgrad_ns.errors import UserError

    try:
        return strategy_named(backprop)
    except ValueError as error:
        raise UserError(f"There is no --backprop {backprop!r}; {error}.") from error
