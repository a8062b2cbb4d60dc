"""Make pairs of degraded and clean clips, for fine-tuning, from captures and sample worlds.

What is there already is kept; the same command given again after an interruption goes on. manifest.json in the output lists
every pair with what it was made from.

Example: chopgrad pairs --output pairs --data captures/fox captures/door --sample-worlds 6 --workers 2
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, Optional, Tuple

Kind = Literal["room", "courtyard", "objects", "street"]


def run(output: Path, data: Tuple[Path, ...] = (), sample_worlds: int = 0, kinds: Tuple[Kind, ...] = (
            "room", "courtyard", "objects", "street"), first_seed: int = 1000, frames: int = 40, width: int = 192,
        height: int = 128, ways: Optional[Tuple[Literal["sparse", "folds", "underfit", "cameras"], ...]] = None,
        views: Literal["training", "all"] = "training", every: int = 8, longest_side: int = 240,
        sparse_every: Optional[int] = None, folds: int = 3, underfit_steps: int = 100, underfit_gaussians: int = 2000,
        steps: int = 400, references: int = 2, keep_photos: bool = False, licence: Optional[str] = None, workers: int = 1,
        ray: Optional[str] = None) -> None:
    """Make pairs.

    Args:
        output: folder to write the pairs into, one sub-folder each
        data: scenes (nerfstudio or COLMAP)
        sample_worlds: number of sample worlds
        kinds: kinds of sample worlds, taken in turn
        first_seed: of the first sample world; the next has the next
        frames: of each sample world
        width: of sample worlds, pixels
        height: of sample worlds, pixels
        ways: what splats are fitted to: sparse (some views only), folds (k times all but a fold), underfit (all views, but
            stopped early and with few Gaussians), cameras (of a rig, all but one; photos lie in a folder a camera); by
            default folds for scenes and sparse for sample worlds
        views: which views of a scene are used; beside those used for training (--every) there are those that a refiner
            is judged by later, which it must never have seen
        every: every N-th view of a scene is a training view
        longest_side: of scenes, pixels
        sparse_every: every N-th view that is used is fitted to; by default 8 for scenes, and 8, 5 and 4 in turn for
            sample worlds
        folds: k
        underfit_steps: training steps of underfitted splats
        underfit_gaussians: their Gaussians at most
        steps: training steps of the others
        references: training photos warped into each frame
        keep_photos: store photos and their depth, and warp them when a pair is read: smaller, and slower to read
        licence: of the scenes; by default what a licence file beside them begins with
        workers: processes side by side; 0 for one a core
        ray: address of a Ray cluster to work on instead ("auto": this machine's); output and scenes must be on a file
            system that all nodes see
    """
    from chopgrad_ns.cli.pair_jobs import CaptureJob, SplatWays, WorldJob, licence_of
    from chopgrad_ns.sim.pairs import sparsity_of
    from chopgrad_ns.splat.fit import FitSettings

    _check(dict(steps=(steps, 1), folds=(folds, 2), underfit_steps=(underfit_steps, 1), references=(references, 0),
                underfit_gaussians=(underfit_gaussians, 1), every=(every, 2), workers=(workers, 0), sample_worlds=(sample_worlds, 0),
                longest_side=(longest_side, 16), frames=(frames, 2), width=(width, 16), height=(height, 16)))
    chosen = SplatWays(tuple(ways or ()), 0, folds, underfit_steps, underfit_gaussians, FitSettings(steps=steps), references,
                       keep_photos)
    jobs = []
    for path, source in zip(data, _names(data)):
        how = replace(chosen, ways=tuple(ways or ("folds",)), sparse_every=sparse_every or 8)
        jobs.append(CaptureJob(path.resolve(), source, licence or licence_of(path), every, views == "training", longest_side, how))
    for index in range(sample_worlds):
        how = replace(chosen, ways=tuple(ways or ("sparse",)), sparse_every=sparse_every or sparsity_of(index))
        jobs.append(WorldJob(kinds[index % len(kinds)], first_seed + index, frames, width, height, how))
    make_all(jobs, output, workers, ray)


def make_all(jobs: list, output: Path, workers: int, ray: Optional[str]) -> None:
    """Do the jobs that are not done yet, side by side; sources that nothing can be made of are named and left out."""
    import os
    import sys

    from chopgrad_ns.cli.pair_jobs import make_pairs, piece_of
    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.data.manifest import Manifest
    from chopgrad_ns.data.parallel import run_side_by_side
    from chopgrad_ns.errors import Incomplete, UserError

    if not jobs:
        raise UserError("There is nothing to make pairs from; give --data SCENE or --sample-worlds.")
    pieces = [piece_of(job) for job in jobs]  # looks at every source: what is not there is refused before any work
    manifest = Manifest(output.resolve())
    left = [index for index, piece in enumerate(pieces) if not manifest.is_done(piece)]
    alone = workers == 1 and ray is None
    failed: list[str] = []
    with bar("pairs") as report:
        progress = _Jobs(report, len(left))
        work = partial(make_pairs, output=manifest.folder, report=progress.within if alone else None)
        outcomes = run_side_by_side(work, [jobs[index] for index in left], workers or os.cpu_count(), ray)
        for index, result in ((left[position], result) for position, result in outcomes):
            if isinstance(result, UserError):
                manifest.failed(pieces[index], str(result))
                failed.append(f"{jobs[index].source}: {result}")
                print(f"Left out {failed[-1]}", file=sys.stderr)
            else:
                manifest.done(pieces[index], result)
            progress.next(jobs[index].source)
    if len(failed) == len(jobs):
        raise UserError(f"No pairs could be made: {failed[0]}")
    if failed:
        raise Incomplete(f"{len(failed)} of {len(jobs)} sources were left out; put right what is named above and give the "
                         "same command again.")
    print(f"{len(manifest)} pairs in {output}; next: chopgrad finetune --pairs {output} --output REFINER")


class _Jobs:
    """Progress of jobs done one after the other, each in a thousand steps, or side by side."""

    def __init__(self, report: Callable[..., None], count: int):
        self.report, self.count, self.done = report, count, 0

    def within(self, step: int, steps: int, note: Callable[[], str]) -> None:
        """How far the job at hand is."""
        self.report(1000 * self.done + 1000 * step // steps, 1000 * self.count, note)

    def next(self, source: str) -> None:
        """Another job is done."""
        self.done += 1
        self.report(1000 * self.done, 1000 * self.count, lambda: f"{source} done")


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each scene: that of its folder. Raises UserError where two have the same."""
    from chopgrad_ns.errors import UserError

    names = [path.resolve().name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Two scenes are called {twice[0]}, and pairs have the names of their scenes; rename a folder.")
    return names


def _check(least: dict[str, tuple[int, int]]) -> None:
    from chopgrad_ns.errors import UserError

    for name, (value, smallest) in least.items():
        if value < smallest:
            raise UserError(f"--{name.replace('_', '-')} is {value}; give {smallest} or more.")
