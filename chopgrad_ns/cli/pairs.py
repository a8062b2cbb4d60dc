"""Make pairs for fine-tuning: k folds of a scene's training views, and sample worlds.

Example: chopgrad pairs --output pairs --data captures/fox --every 8 --sample-worlds 6
"""

from pathlib import Path
from typing import Optional


def run(output: Path, data: Optional[Path] = None, every: int = 8, longest_side: int = 240, folds: int = 3,
        sample_worlds: int = 6, steps: int = 400, references: int = 2) -> None:
    """Make pairs.

    Args:
        output: folder to write the pairs into, one sub-folder each; pairs already there are kept
        data: scene whose training views are folded; none for sample worlds only
        every: every N-th view is a training view
        longest_side: pixels
        folds: k
        sample_worlds: number of sample worlds
        steps: training steps of each pair's splat
        references: training photos warped into each frame
    """
    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.cli.scenes import open_scene
    from chopgrad_ns.data.pairs import fold_pairs
    from chopgrad_ns.data.pairs import folds as split
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.progress import of_parts
    from chopgrad_ns.sim.pairs import sample_pairs
    from chopgrad_ns.splat.fit import FitSettings

    if data is None and not sample_worlds:
        raise UserError("There is nothing to make pairs from; give --data SCENE or --sample-worlds.")
    settings = FitSettings(steps=steps)
    views = None if data is None else open_scene(data, every, longest_side, settings.depth_prior).training_views()
    parts = sample_worlds + (len(split(len(views), folds)) if views is not None else 0)
    with bar("pairs") as report:
        progress = of_parts(report, parts)
        made = []
        if views is not None:
            made += [pair.save(output / pair.name) or pair.name
                     for pair in fold_pairs(views, folds, settings, references, progress)]
        made += [pair.save(output / pair.name) or pair.name
                 for pair in sample_pairs(sample_worlds, settings, references, progress)]
    print(f"{len(made)} pairs in {output}; next: chopgrad finetune --pairs {output} --output REFINER")
