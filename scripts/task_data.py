"""What `train_tasks.py` trains on and judges by: sample worlds, as videos or as drives, and clips of videos."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chopgrad_ns.cli.pair_jobs import Job, SplatWays, VideoJob, licence_of
from chopgrad_ns.cli.pairs import make_all
from chopgrad_ns.cli.street_jobs import StreetJob
from chopgrad_ns.data.degradations import Degradation
from chopgrad_ns.data.masks import MaskSettings
from chopgrad_ns.data.pair_set import PairSet
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.sample import LICENCE
from chopgrad_ns.sim.world import KINDS
from chopgrad_ns.sim.worlds import Order, make_worlds
from chopgrad_ns.splat.fit import FitSettings

TaskName = Literal["super-resolution", "inpainting", "driving"]
DEGRADATIONS = (Degradation("bicubic"), Degradation("second-order"))
"""Of each clip: smaller and nothing else, and as video from anywhere is. Both by 4 in each direction."""
HOLES = ("brush", "moving-box", "central")
LEAST_SHARE = 0.005
"""Of a frame that an inserted vehicle covers: cameras that look elsewhere see less of it."""


@dataclass(frozen=True)
class Sources:
    """What pairs are made from; the same sources give the same pairs."""

    worlds: int
    """sample worlds, all kinds in turn; for driving, drives"""
    first_seed: int
    """of the first world; the next has the next"""
    videos: tuple[Path, ...] = ()
    side: int = 384
    """longest side of videos, pixels"""
    stride: int = 21
    """frames from one clip of a video, or of a world, to the next"""
    size: tuple[int, int] = (192, 128)
    """width and height of worlds, pixels"""
    clip_frames: int = 21
    """frames of a clip"""
    drive_frames: int = 13
    """of a drive, all in one clip: the inserted vehicle keeps its distance, and more frames show little more of it"""
    draws: int = 1
    """how often a drive's vehicle is fitted and put in, each time under another light"""
    fit_steps: int = 600
    """training steps of a vehicle's splat"""


def make_task_pairs(task: TaskName, sources: Sources, worlds: Path, output: Path) -> list[StoredPair]:
    """Make what is missing of a task's pairs in `output`, and give those of these sources; worlds are kept in `worlds`.

    Raises:
        UserError: where videos are given for driving.
    """
    jobs = _drive_jobs(sources, worlds) if task == "driving" else _video_jobs(task, sources, worlds)
    make_all(jobs, output, workers=1, ray=None)
    asked = {job.source for job in jobs}
    pairs = [pair for pair in PairSet(output) if pair.about["scene"]["name"] in asked]
    return [pair for pair in pairs if _inserted_share(pair) >= LEAST_SHARE] if task == "driving" else pairs


def _video_jobs(task: TaskName, sources: Sources, worlds: Path) -> list[Job]:
    """Worlds are walked through in two clips' time: faster, little would be seen twice."""
    width, height = sources.size
    orders = [Order(KINDS[number % len(KINDS)], sources.first_seed + number, 2 * sources.clip_frames, width, height,
                    exposure_change=0.0) for number in range(sources.worlds)]
    make_worlds(worlds, orders, report=_tell)
    found = [(worlds / order.name / "images", order.name, LICENCE) for order in orders]
    found += [(path, path.stem, licence_of(path)) for path in sources.videos]
    degradations = DEGRADATIONS if task == "super-resolution" else ()
    masks = tuple(map(MaskSettings, HOLES)) if task == "inpainting" else ()
    return [VideoJob(path.resolve(), name, licence, degradations, masks, object_masks=None, dilation=0,
                     frames=sources.clip_frames, stride=sources.stride, longest_side=sources.side, seed=0)
            for path, name, licence in found]


def _drive_jobs(sources: Sources, worlds: Path) -> list[Job]:
    if sources.videos:
        raise UserError(f"{sources.videos[0]} does not say how it looked before something was inserted; leave videos out for "
                        "driving.")
    orders = [Order("street", sources.first_seed + number, sources.drive_frames, *sources.size, exposure_change=0.0,
                    layout="waymo", truth=("lane_0", "inserted")) for number in range(sources.worlds)]
    make_worlds(worlds, orders, report=_tell)
    return [StreetJob((worlds / order.name).resolve(), f"{order.name}-{draw}", None, _insertion(sources.fit_steps, draw))
            for order in orders for draw in range(sources.draws)]


def _insertion(steps: int, draw: int) -> SplatWays:
    return SplatWays(("edits",), sparse_every=1, folds=1, underfit_steps=1, underfit_gaussians=1,
                     settings=FitSettings(steps=steps, seed=100 * draw), references=0, keep_photos=False)


def _inserted_share(pair: StoredPair) -> float:
    return float(pair.read(slice(0, 1)).degraded.mask.mean())


def _tell(done: int, total: int, note) -> None:
    print(f"world {done} of {total}: {note()}", flush=True)
