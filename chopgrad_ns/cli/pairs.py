"""Make pairs of degraded and clean clips, for fine-tuning, from captures, sample worlds and plain videos.

What is there already is kept; the same command given again after an interruption goes on. manifest.json in the output lists
every pair with what it was made from.

Example: chopgrad pairs --output pairs --data captures/fox captures/door --sample-worlds 6 --workers 2
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Optional, Tuple

import tyro

from chopgrad_ns.cli.pair_options import Scenes, Splats, Videos, Worlds

Flat = tyro.conf.OmitArgPrefixes


def run(output: Path, data: Tuple[Path, ...] = (), sample_worlds: int = 0, videos: Tuple[Path, ...] = (),
        scenes: Annotated[Scenes, Flat] = Scenes(), worlds: Annotated[Worlds, Flat] = Worlds(),
        splats: Annotated[Splats, Flat] = Splats(), clips: Annotated[Videos, Flat] = Videos(), licence: Optional[str] = None,
        workers: int = 1, ray: Optional[str] = None) -> None:
    """Make pairs.

    Args:
        output: folder to write the pairs into, one sub-folder each
        data: scenes (nerfstudio or COLMAP), and drives that chopgrad sample street made
        sample_worlds: number of sample worlds
        videos: video files, folders of frames, or folders of these
        licence: of scenes and videos; by default what a licence file beside them begins with
        workers: processes side by side; 0 for one a core
        ray: address of a Ray cluster to work on instead ("auto": this machine's); output and sources must be on a file
            system that all nodes see
    """
    from chopgrad_ns.errors import check_least

    for options, least in ((splats, {"folds": 2, "steps": 1, "underfit_steps": 1, "underfit_gaussians": 1, "references": 0}),
                           (scenes, {"every": 2, "longest_side": 16}), (worlds, {"frames": 2, "width": 16, "height": 16}),
                           (clips, {"clip_frames": 1, "video_side": 16, "mask_margin": 0})):
        check_least(**{name: (getattr(options, name), smallest) for name, smallest in least.items()})
    given = {"clip_stride": clips.clip_stride, "sparse_every": splats.sparse_every}
    check_least(workers=(workers, 0), sample_worlds=(sample_worlds, 0), first_seed=(worlds.first_seed, 0),
                seed=(clips.seed, 0), **{name: (value, 1) for name, value in given.items() if value is not None})
    jobs = (_jobs_of_scenes(data, scenes, splats, licence) + _jobs_of_worlds(sample_worlds, worlds, splats)
            + _jobs_of_videos(videos, clips, licence))
    _check_names([job.source for job in jobs])
    make_all(jobs, output, workers, ray)


def _ways(splats: Splats, usual: str, sparse_every: int, source: str):
    from chopgrad_ns.cli.pair_jobs import SplatWays
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.splat.fit import FitSettings

    ways = splats.ways or (usual,)
    if usual == "edits" and ways != ("edits",):
        raise UserError(f"{source} is a drive that chopgrad sample street made, whose pairs are edits; leave out --ways.")
    if usual != "edits" and "edits" in ways:
        raise UserError(f"{source} has no truth to make edits of; give another of --ways, or drives that chopgrad sample "
                        "street made.")
    return SplatWays(ways, splats.sparse_every or sparse_every, splats.folds, splats.underfit_steps,
                     splats.underfit_gaussians, FitSettings(steps=splats.steps), splats.references, splats.keep_photos)


def _jobs_of_scenes(paths: Sequence[Path], scenes: Scenes, splats: Splats, licence: Optional[str]) -> list:
    from chopgrad_ns.cli.pair_jobs import CaptureJob, licence_of
    from chopgrad_ns.cli.street_jobs import StreetJob, is_street
    from chopgrad_ns.data.scene import check_scene

    streets = [path for path in paths if is_street(path)]
    paths = [path for path in paths if path not in streets]
    for path in paths:
        check_scene(path)
    jobs = [StreetJob(path.resolve(), _name(path), licence, _ways(splats, "edits", 8, str(path))) for path in streets]
    return jobs + [CaptureJob(path.resolve(), _name(path), licence or licence_of(path), scenes.every, scenes.views == "training",
                              scenes.longest_side, _ways(splats, "folds", 8, str(path))) for path in paths]


def _jobs_of_worlds(count: int, worlds: Worlds, splats: Splats) -> list:
    from chopgrad_ns.cli.pair_jobs import WorldJob
    from chopgrad_ns.sim.pairs import sparsity_of

    return [WorldJob(worlds.kinds[index % len(worlds.kinds)], worlds.first_seed + index, worlds.frames, worlds.width,
                     worlds.height, worlds.exposure_change,
                     _ways(splats, "sparse", sparsity_of(index), "A sample world"), flaws=worlds.flaws) for index in range(count)]


def _jobs_of_videos(paths: Sequence[Path], clips: Videos, licence: Optional[str]) -> list:
    from chopgrad_ns.cli.pair_jobs import VideoJob, licence_of
    from chopgrad_ns.data.degradations import Degradation
    from chopgrad_ns.data.masks import MaskSettings
    from chopgrad_ns.data.plain_videos import find_videos

    found = find_videos(paths)
    degradations = tuple(Degradation(kind, clips.scale) for kind in clips.degradation)
    masks = tuple(MaskSettings(kind) for kind in clips.masks)
    return [VideoJob(path.resolve(), source, licence or licence_of(path),
                     degradations if "super-resolution" in clips.tasks else (), masks if "inpainting" in clips.tasks else (),
                     _masks_of(source, clips), clips.mask_margin, clips.clip_frames, clips.clip_stride or clips.clip_frames,
                     clips.video_side, clips.seed) for path, source in zip(found, map(_name, found))]


def _masks_of(source: str, clips: Videos) -> Optional[Path]:
    from chopgrad_ns.errors import UserError

    if clips.object_masks is None or "inpainting" not in clips.tasks:
        return None
    folder = clips.object_masks / source
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} with the masks of {source}; name it like the video.")
    return folder.resolve()


def make_all(jobs: list, output: Path, workers: int, ray: Optional[str]) -> None:
    """Do the jobs that are not done yet, side by side; sources that nothing can be made of are named and left out.

    Several jobs may be of one source, if their pairs have different names.
    """
    import os
    import sys

    from chopgrad_ns.cli.pair_jobs import make_pairs, piece_of
    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.data.manifest import Manifest
    from chopgrad_ns.data.parallel import run_side_by_side
    from chopgrad_ns.errors import Incomplete, UserError

    if not jobs:
        raise UserError("There is nothing to make pairs from; give --data, --sample-worlds or --videos.")
    pieces = [piece_of(job) for job in jobs]
    failed: list[str] = []
    with Manifest(output.resolve()) as manifest, bar("pairs") as report:
        left = [index for index, piece in enumerate(pieces) if not manifest.is_done(piece)]
        alone = workers == 1 and ray is None
        progress = _Jobs(report, len(left), 1000 if alone else 1)
        work = partial(make_pairs, output=manifest.folder, report=progress.within if alone else None)
        outcomes = run_side_by_side(work, [jobs[index] for index in left], workers or os.cpu_count(), ray)
        for index, result in ((left[position], result) for position, result in outcomes):
            made, wrong = ([], str(result)) if isinstance(result, UserError) else result
            source = jobs[index].source
            for pair in (pair for pair in made if pair["made"].get("skipped")):
                print(f"{pair['name']}: {len(pair['made']['skipped'])} actors were not cut out and put back; its pair.json says "
                      "why.", file=sys.stderr)
            if wrong is None:
                manifest.done(pieces[index], made)
            else:
                manifest.failed(pieces[index], wrong, made)
                failed.append(f"{source}: {wrong}")
                if len(jobs) > 1:
                    print(f"Left out {failed[-1]}", file=sys.stderr)
            progress.next(source)
    if len(failed) == len(jobs):
        raise UserError(wrong if len(jobs) == 1 else f"All {len(jobs)} sources were left out; the first, {failed[0]}")
    if failed:
        raise Incomplete(f"{len(failed)} of {len(jobs)} sources were left out; put right what is named above and give the "
                         "same command again.")
    print(f"{len(manifest)} pairs in {output}; next: chopgrad finetune --pairs {output} --output REFINER")


class _Jobs:
    """Progress of jobs, done side by side, or one after the other and each in many steps."""

    def __init__(self, report: Callable[..., None], count: int, parts: int):
        self.report, self.count, self.parts, self.done = report, count, parts, 0

    def within(self, step: int, steps: int, note: Callable[[], str]) -> None:
        """How far the job at hand is."""
        self.report(self.parts * self.done + self.parts * step // steps, self.parts * self.count, note)

    def next(self, source: str) -> None:
        """Another job is done."""
        self.done += 1
        self.report(self.parts * self.done, self.parts * self.count, lambda: f"{source} done")


def _name(path: Path) -> str:
    """A source is called like its folder or file."""
    return path.resolve().stem if path.is_file() else path.resolve().name


def _check_names(names: Sequence[str]) -> None:
    from chopgrad_ns.errors import UserError

    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Two sources are called {twice[0]}, and pairs have the names of their sources; rename one.")
