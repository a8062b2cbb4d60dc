"""Compare frames with the truth: metrics a frame, a clip and overall, also inside masks and of actors.

Example: chopgrad evaluate fox-refined/frames fox-truth --output metrics.json
"""

from pathlib import Path
from typing import Annotated, Optional

import tyro


def run(predicted: Annotated[Path, tyro.conf.Positional], truth: Annotated[Path, tyro.conf.Positional],
        masks: Optional[Path] = None, actors: Optional[Path] = None, metrics: tuple[str, ...] = (),
        output: Optional[Path] = None, name: Optional[str] = None, device: Optional[str] = None) -> None:
    """Compare frames.

    Args:
        predicted: folder of PNG or JPEG frames, video file, or folder of such clips
        truth: the same for the truth, or the folder of pairs that was refined; clips and frames are matched by name. Frames
            that a pair's splat was fitted to are left out
        masks: the same for masks (white inside), or the folder of pairs; adds the regions inside and outside
        actors: folder of 8-bit PNG maps of actor ids (0 is none), or folder of such, or of pairs; adds crops of actors
        metrics: names among psnr, ssim, lpips, st_lpips, dists, warp_error, flicker, fid, kid and fvd; all of them if
            left out. Those whose weights are not to be had are named and skipped
        output: JSON to write
        name: what is evaluated, for the table and the JSON
        device: cpu or cuda; cuda if there is one
    """
    from chopgrad_ns.errors import Incomplete, UserError
    from chopgrad_ns.evaluate.clips import METRICS, usable
    from chopgrad_ns.evaluate.report import Results
    from chopgrad_ns.evaluate.sources import find_sources
    from chopgrad_ns.files import refuse_file, write_json

    if output is not None:
        refuse_file(output.absolute().parent)
        if output.is_dir():
            raise UserError(f"{output} is a folder; give the name of a JSON file.")
    sources = find_sources(predicted, truth, masks, actors)
    where = _device(device)
    names, skipped = usable(metrics or METRICS)
    if not names:
        raise UserError(f"None of the metrics can be computed here: {' '.join(skipped.values())}")
    results = Results({}, skipped=skipped)
    dropped = _compare(sources, names, where, results)
    total = len(results.clips) + len(results.left_out)
    if not results.clips:
        raise UserError(f"None of the {total} clips in {predicted} and {truth} can be compared; see the reasons above.")
    results.print(str(name or predicted))
    if output is not None:
        write_json(output, results.to_json({
            "name": name, "predicted": str(predicted), "truth": str(truth), "masks": masks and str(masks),
            "actors": actors and str(actors), "metrics": names, "device": where,
            "frames_left_out": dropped}))
    if results.left_out:
        raise Incomplete(f"{len(results.left_out)} of {total} clips were left out.")


def _compare(sources, names: list[str], device: str, results) -> int:
    """Fill the results clip by clip, and name on standard error what is left out; the number of frames that are."""
    import sys

    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.evaluate.clips import add_features, evaluate_clip
    from chopgrad_ns.evaluate.report import ClipValues
    from chopgrad_ns.evaluate.sources import read_pair

    def leave_out(clip: str, reason: str) -> None:
        results.left_out[clip] = reason
        print(f"chopgrad evaluate: clip {clip} is left out: {reason}", file=sys.stderr)

    for clip, reason in sources.left_out.items():
        leave_out(clip, f"{reason}.")
    if sources.unasked:
        print(f"chopgrad evaluate: {len(sources.unasked)} pairs that nothing was predicted for are not compared, "
              f"{sources.unasked[0]} among them.", file=sys.stderr)
    sets, dropped = {}, 0
    with bar("evaluate") as report:
        for done, (clip, paths) in enumerate(sources.clips.items()):
            report(done, len(sources.clips))
            try:
                pair = read_pair(paths).to(device)
                values = evaluate_clip(pair.prediction, pair.truth, names, pair.mask, pair.actor_ids)
                add_features(sets, names, pair.prediction, pair.truth, pair.mask, pair.actor_ids)
                results.clips[clip] = ClipValues.of(pair.names, values)
                dropped += pair.dropped
            except UserError as error:
                if not sources.many:
                    raise
                leave_out(clip, str(error))
    if dropped:
        print(f"chopgrad evaluate: {dropped} frames that splats were fitted to are left out.", file=sys.stderr)
    results.distances = {region: known.distances() for region, known in sets.items() if known.names}
    return dropped


def _device(name: Optional[str]) -> str:
    import torch

    from chopgrad_ns.errors import UserError

    known = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if name is not None and name not in known:
        raise UserError(f"--device does not know {name!r}; choose from {', '.join(known)}.")
    return name or known[-1]
