"""Compare two folders of frames: PSNR, SSIM and a perceptual metric, frames matched by name.

Example: chopgrad evaluate fox-refined/frames fox-truth --output metrics.json
"""

from pathlib import Path
from typing import Annotated, Optional

import tyro


def run(predicted: Annotated[Path, tyro.conf.Positional], truth: Annotated[Path, tyro.conf.Positional],
        output: Optional[Path] = None) -> None:
    """Compare frames.

    Args:
        predicted: folder of PNG or JPEG frames
        truth: folder of PNG or JPEG frames with the same names
        output: JSON to write
    """
    import json

    from chopgrad_ns.data.video import read_frames
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.evaluate.metrics import evaluate_frames, perceptual_metric
    from chopgrad_ns.files import write_json

    names, frames = read_frames(predicted)
    true_names, true_frames = read_frames(truth)
    if names != true_names:
        different = sorted(set(names) ^ set(true_names))
        raise UserError(f"{predicted} and {truth} do not hold the same frames; {different[0]} is in one of them only, so "
                        "make their names agree.")
    if frames.shape != true_frames.shape:
        raise UserError(f"The frames in {predicted} are {frames.shape[-1]}×{frames.shape[-2]} px, those in {truth} "
                        f"{true_frames.shape[-1]}×{true_frames.shape[-2]}; make the sizes agree.")
    metrics = evaluate_frames(frames, true_frames, perceptual_metric())
    if output is not None:
        write_json(output, {"frames": len(names), **metrics})
    print(json.dumps(metrics, indent=2))
