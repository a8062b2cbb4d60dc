"""Refine a video, a splat seen along a trajectory, or a folder of pairs, in one step.

Any length and size: windows in time and tiles in space fade into one another, and frames are written as they are done.

Example: chopgrad refine captures/fox --splat fox.ply --output fox-refined

Example: chopgrad refine small.mp4 --task super-resolution --scale 2.5 --refiner my-refiner --output large

Example: chopgrad refine street.mp4 --task inpainting --masks street-masks --refiner my-refiner --output empty-street
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import tyro

from chopgrad_ns.cli.refine_options import Given, Passes, Trajectory, parse_box, parse_size

if TYPE_CHECKING:
    from chopgrad_ns.cli.refine_jobs import Job
    from chopgrad_ns.data.pair_set import PairSet

LONGEST = 2**15
"""Pixels of a side of the output, at most."""
Flat = tyro.conf.OmitArgPrefixes
WITH_MASKS = ("inpainting", "driving")


def run(source: Annotated[Path, tyro.conf.Positional], output: Path, task: str = "artifact-removal", refiner: str = "tiny",
        prompt: Optional[str] = None, parts: Optional[str] = None, fps: Optional[float] = None,
        given: Annotated[Given, Flat] = Given(), trajectory: Annotated[Trajectory, Flat] = Trajectory(),
        passes: Annotated[Passes, Flat] = Passes()) -> None:
    """Refine.

    Args:
        source: video file or folder of frames; or the scene that --splat was fitted to; or a folder of pairs, of which the
            degraded clips are refined
        output: folder for `frames/*.png`, `refined.mp4` and `before_after.mp4`, for a splat `splat.mp4` too, and for pairs a
            folder with these for each; it is there when all is written
        task: artifact-removal, super-resolution, inpainting or driving
        refiner: "tiny", a folder with a refiner or a video model, or the name of one; with --splat also "blend", which has
            learnt nothing: it moves each pixel half way to the photos warped there, as far as these can be believed
        prompt: text in place of the task's, where the refiner is a video model with a text encoder
        parts: video model, folder or name, that parts which the refiner lacks are taken from
        fps: frames per second of the videos; by default the source's, and 12 where it has none
    """
    _check(trajectory, refiner, task, given, fps)
    windows = passes.windows()
    _check_kept(output, (source, given.masks, given.photos, trajectory.splat, *trajectory.ensemble))

    import time

    from chopgrad_ns.cli.refine_jobs import check_folder, load_model, peak_memory, refine_all

    jobs, pairs = _jobs(source, output, task, given, trajectory)
    for job in jobs:
        check_folder(job.folder)
    model = load_model(refiner, task, prompt, parts, passes.device, passes.precision)
    begun = time.perf_counter()
    refine_all(jobs, model, windows, fps)
    seconds, frames = time.perf_counter() - begun, sum(job.clip.length for job in jobs)
    sizes = {f"{job.size[1]}×{job.size[0]} px" for job in jobs}
    print(f"{frames} frames of {min(sizes) if len(sizes) == 1 else f'{len(sizes)} sizes'} in {seconds:.1f} s "
          f"({frames / seconds:.2f} frames/s with reading and writing), {peak_memory(model.device)}; they are in {output}")
    if pairs is not None:
        pairs.complain()


def _check(trajectory: Trajectory, refiner: str, task: str, given: Given, fps: Optional[float]) -> None:
    """Raise UserError for options that do not go together."""
    from chopgrad_ns.errors import UserError

    if refiner == "blend" and trajectory.splat is None:
        raise UserError("--refiner blend needs photos that are warped into the frames; give a scene and its --splat.")
    if trajectory.splat is not None and task != "artifact-removal":
        raise UserError(f"--splat goes with --task artifact-removal, not {task}; leave one of them out.")
    idle = [name for name, value in vars(given).items() if value is not None and trajectory.splat is not None]
    if idle:
        raise UserError(f"--{idle[0]} is for plain videos, not for a splat; leave it out.")
    idle = [name for name, value in vars(trajectory).items() if value != getattr(Trajectory, name) and trajectory.splat is None]
    if idle:
        raise UserError(f"--{idle[0].replace('_', '-')} is for a splat that is looked at; leave it out or give a scene and its "
                        "--splat.")
    if min(trajectory.frames, trajectory.longest_side) < 1 or trajectory.references < 0 or not (fps is None or fps > 0):
        raise UserError(f"--frames is {trajectory.frames}, --longest-side {trajectory.longest_side}, --references "
                        f"{trajectory.references} and --fps {fps}; give numbers of 1 or more (references from 0 on).")
    if given.scale is not None and not 1 <= given.scale < math.inf:
        raise UserError(f"--scale is {given.scale:g}; give 1 or more.")
    for names, tasks in ((("scale", "size"), ("super-resolution",)), (("masks", "box"), WITH_MASKS),
                         (("photos",), ("artifact-removal",))):
        named = [f"--{name}" for name in names if getattr(given, name) is not None]
        if len(named) > 1:
            raise UserError(f"{' and '.join(named)} say the same thing; give one of them.")
        if named and task not in tasks:
            raise UserError(f"{named[0]} is for --task {' and '.join(tasks)}, not {task}; leave it out.")


def _check_kept(output: Path, sources: "tuple[Optional[Path], ...]") -> None:
    """Raise UserError where what is read would be replaced by what is written."""
    from chopgrad_ns.errors import UserError

    lost = [path for path in sources if path is not None and path.resolve().is_relative_to(output.resolve())]
    if lost:
        raise UserError(f"{output} is to be written and holds {lost[0]}, which is to be read; give another folder.")


def _jobs(source: Path, output: Path, task: str, given: Given,
          trajectory: Trajectory) -> "tuple[list[Job], Optional[PairSet]]":
    """The clips to refine, and the set that they are of, if it is one of pairs."""
    from chopgrad_ns.data.manifest import FILE
    from chopgrad_ns.errors import UserError

    if (source / "pair.json").is_file():
        raise UserError(f"{source} is a single pair; give the folder of pairs that it is in.")
    if trajectory.splat is not None:
        return [_splat_job(source, output, trajectory)], None
    if not ((source / FILE).exists() or any(source.glob("*/pair.json"))):
        return [_video_job(source, output, task, given)], None
    extra = [name for name, value in vars(given).items() if value is not None]
    if extra:
        raise UserError(f"--{extra[0]} is for plain videos, and {source} is a folder of pairs, which bring all along; leave it "
                        "out.")
    return _pair_jobs(source, output, task)


def _video_job(source: Path, output: Path, task: str, given: Given) -> "Job":
    from chopgrad_ns.cli.refine_jobs import Job
    from chopgrad_ns.data.clip_sources import box_mask, read_masks, video_clip
    from chopgrad_ns.data.plain_videos import open_video
    from chopgrad_ns.data.video import read_frames
    from chopgrad_ns.errors import UserError

    video, masks, size = open_video(source), None, None
    if given.masks is not None:
        masks = read_masks(given.masks, video)
    elif given.box is not None:
        masks = box_mask(parse_box(given.box), video)
    elif task in WITH_MASKS:
        raise UserError(f"--task {task} needs to know where; give --masks or --box.")
    if given.size is not None:
        size = parse_size(given.size, "--size")
    elif given.scale is not None:
        size = round(video.height * given.scale), round(video.width * given.scale)
    elif task == "super-resolution":
        raise UserError("--task super-resolution needs to know how large the output shall be; give --scale or --size.")
    size = size or (video.height, video.width)
    if size[0] < video.height or size[1] < video.width:
        raise UserError(f"The output would have {size[1]}×{size[0]} px and {source} has {video.width}×{video.height}; give a "
                        "scale of 1 or more.")
    if max(size) > LONGEST:
        raise UserError(f"The output would have {size[1]}×{size[0]} px; give a scale or size of {LONGEST} px a side at most.")
    photos = None if given.photos is None else read_frames(given.photos)[1]
    return Job(video_clip(video, masks, photos), size, output)


def _splat_job(source: Path, output: Path, trajectory: Trajectory) -> "Job":
    from chopgrad_ns.cli.refine_jobs import Job
    from chopgrad_ns.cli.scenes import open_scene
    from chopgrad_ns.data import paths
    from chopgrad_ns.data.clip_sources import splat_clip
    from chopgrad_ns.splat.gaussians import Gaussians

    splats = [Gaussians.load(path) for path in (trajectory.splat, *trajectory.ensemble)]
    views = open_scene(source, trajectory.every, trajectory.longest_side).training_views()
    cameras = paths.beside(views.cameras, trajectory.frames, trajectory.beside)
    clip = splat_clip(splats, cameras, views, trajectory.references)
    return Job(clip, (cameras.height, cameras.width), output, "splat")


def _pair_jobs(source: Path, output: Path, task: str) -> "tuple[list[Job], PairSet]":
    import sys

    from chopgrad_ns.cli.refine_jobs import Job
    from chopgrad_ns.data.clip_sources import pair_clip
    from chopgrad_ns.data.pair_set import PairSet
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.refiner.tasks import task_named

    wanted = task_named(task)
    pairs = PairSet(source)
    fitting = [pair for pair in pairs if wanted.fits(pair)]
    if not fitting:
        raise UserError(f"None of the {len(pairs)} pairs in {source} is for {task}; give pairs or a --task that go "
                        "together.")
    if len(fitting) < len(pairs):
        print(f"{len(pairs) - len(fitting)} of {len(pairs)} pairs are not for {task} and are left alone.", file=sys.stderr)
    return [Job(pair_clip(pair), pair.size, output / pair.folder.name) for pair in fitting], pairs
