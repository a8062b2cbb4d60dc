"""Fine-tune a video refiner on pairs, with pixel losses through its causal decoder over whole clips.

Example: chopgrad finetune --pairs pairs --output refiner --steps 1000
"""

from pathlib import Path
from typing import Optional


def run(pairs: Path, output: Path, base: str = "tiny", steps: int = 240, learning_rate: Optional[float] = None,
        seed: int = 0) -> None:
    """Fine-tune a refiner.

    Args:
        pairs: folder that `chopgrad pairs` wrote
        output: folder for the refiner (config.json, model.safetensors); progress is kept in it, and an interrupted
            run given again continues
        base: "tiny" or a folder with a refiner
        steps: optimisation steps
        learning_rate: of AdamW, at its highest; by default 1e-3 for an untrained base, 2e-4 for a trained one
        seed: of crops and order
    """
    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.data.clip import load_pairs
    from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune

    examples = load_pairs(pairs)
    refiner = Refiner.from_pretrained(base, task="artifact-removal")
    settings = FinetuneSettings(steps=steps, lr=learning_rate, seed=seed)
    with bar("fine-tuning") as progress:
        finetune(refiner, examples, settings, progress, checkpoint_dir=output / "progress")
    refiner.save(output)
    print(f"Refiner in {output}; next: chopgrad refine SCENE --splat splat.ply --refiner {output}")
