"""What can be put on the page, found in folders: comparisons, training runs, refined clips, profiles."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np
from jaxtyping import UInt8

from chopgrad_ns.data.plain_videos import Video, open_video
from chopgrad_ns.data.video import frame_files, read_frames
from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.comparison import FILE, TRUTH, Comparison, measured, shortened
from chopgrad_ns.evaluate.page import plots
from chopgrad_ns.evaluate.page.plots import Plot
from chopgrad_ns.evaluate.report import ClipValues
from chopgrad_ns.evaluate.table import Column, Row

Pictures = Callable[[], Iterator[UInt8[np.ndarray, "h w 3"]]]
STAGES = {"splat": "splat", "ensemble": "an ensemble of splats", "refined": "mended renders",
          "distilled": "distilled splat"}
"""Of a training run: how `metrics.json` and the videos call them, and how the page does. Not every run has an ensemble."""
STAGES_ABOUT = {"splat": "The splat, fitted to the training views.",
                "ensemble": "What this and other splats of the same views show together, as it is.",
                "refined": "Renders of the splat, or of the ensemble, mended by the refiner in one step.",
                "distilled": "The splat after it was trained on mended renders, too."}
GAP = 4
"""Pixels between the halves of before_after.mp4."""
COMPRESSED = "Frames were taken from compressed videos (H.264)"


@dataclass
class ShownClip:
    """A clip of `names` frames of `size` (width, height): by method (its number in `Run.methods`) its frames and values."""

    name: str
    fps: float
    names: list[str]
    size: tuple[int, int]
    sides: dict[int, Pictures]
    values: dict[int, ClipValues] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    note: str = ""


@dataclass
class Run:
    """A section of the page. `methods` are labels and what they mean, `truth` is the number of the one that is right.

    `rows` are of all clips, or of what `measured_on` tells. `comparison` is there if more methods can be measured.
    """

    title: str
    about: list[str]
    methods: list[tuple[str, str]] = field(default_factory=list)
    truth: Optional[int] = None
    columns: list[Column] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    measured_on: str = ""
    clips: list[ShownClip] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    comparison: Optional[Comparison] = None


def open_run(folder: Path) -> Run:
    """What a folder has for the page.

    Raises:
        UserError: for a folder that nothing is known about, or in which files are damaged.
    """
    folder = Path(folder)
    if (folder / FILE).is_file():
        return _of_comparison(Comparison.read(folder))
    if (folder / "profile.json").is_file():
        return _of_profile(folder)
    if (folder / "videos").is_dir() and (folder / "metrics.json").is_file():
        return _of_training(folder)
    videos = [folder / "before_after.mp4", *sorted(folder.glob("*/before_after.mp4"))]
    refined = [path.parent for path in videos if path.is_file() and (path.parent / "frames").is_dir()]
    if refined:
        return _of_refined(folder, refined)
    raise UserError(f"{folder} has nothing for a report; give folders of comparisons, of finished runs of ns-train "
                    "chopgrad-refine, or what chopgrad refine or chopgrad profile wrote.")


def add_method(run: Run, label: str, folder: Path) -> None:
    """Add what another program made of the run's clips, measured as the others were.

    `folder` holds the frames, for each clip in a folder of its name (or in `frames/` therein); of one clip also directly.

    Raises:
        UserError: for a name that a method has, a folder in which a clip is missing, or frames of another number or size.
    """
    if label in [known for known, _ in run.methods]:
        raise UserError(f"{run.title} has a method called {label!r}; add the frames by another name.")
    number, found = len(run.methods), {}
    for clip in run.clips:
        source = _frames_below(folder, clip.name, len(run.clips) == 1)
        video = open_video(source)
        if video.frames != len(clip.names) or (video.width, video.height) != clip.size:
            raise UserError(f"{source} has {video.frames} frames of {video.width}×{video.height} px and clip {clip.name} of "
                            f"{run.title} has {len(clip.names)} of {clip.size[0]}×{clip.size[1]}; make them agree.")
        found[clip.name] = source, video
    run.methods.append((label, f"Frames of {folder.resolve().name}, made by another program."))
    if run.comparison is not None:
        name = f"added-{number}"
        run.comparison.add_method(name, label, "")
        for clip in run.clips:
            frames = read_frames(found[clip.name][0])[1]
            run.comparison.clips[clip.name].values[name] = measured(
                frames, run.comparison.truth(clip.name), run.comparison.mask(clip.name), clip.names, run.comparison.metrics)
            clip.values[number] = run.comparison.clips[clip.name].values[name]
        _measure(run)
    for clip in run.clips:
        clip.sides[number] = found[clip.name][1].pictures


def _frames_below(folder: Path, clip: str, only: bool) -> Path:
    for path in (folder / clip / "frames", folder / clip, *((folder / "frames", folder) if only else ())):
        if path.is_dir() and frame_files(path):
            return path
    raise UserError(f"There are no PNG or JPEG frames of clip {clip} in {folder}; put them into {folder / clip}.")


def _of_comparison(comparison: Comparison) -> Run:
    if not comparison.clips and not comparison.curves:
        raise UserError(f"Nothing has been compared in {comparison.folder} yet; let what compares there finish.")
    methods = [(method.label, method.about) for method in comparison.methods]
    run = Run(comparison.title, [f"Made by: {comparison.command}", f"Made on: {comparison.date}"],
              [*methods, ("truth", "What it should look like.")], truth=len(methods), comparison=comparison)
    for clip in comparison.clips.values():
        numbers = {number: method.name for number, method in enumerate(comparison.methods) if method.name in clip.values}
        sides = {}
        for number, name in {**numbers, run.truth: TRUTH}.items():
            video = open_video(comparison.frames(clip.name, name))
            if video.frames != len(clip.names) or (video.width, video.height) != clip.size:
                raise UserError(f"{video.path} does not hold the {len(clip.names)} frames that {FILE} tells of; make the "
                                "comparison again.")
            sides[number] = video.pictures
        run.clips.append(ShownClip(clip.name, clip.fps, clip.names, clip.size, sides,
                                   {number: clip.values[name] for number, name in numbers.items()}))
    _measure(run)
    return run


def _measure(run: Run) -> None:
    """Tables and plots of a comparison."""
    comparison = run.comparison
    run.columns = comparison.columns()
    run.rows = comparison.rows(run.columns)
    masked = sum(clip.mask for clip in comparison.clips.values())
    run.measured_on = f"Means over {_count(len(run.clips), 'clip')}"
    if 0 < masked < len(run.clips):
        run.measured_on += f", those inside over the {masked} with masks"
    for clip in run.clips:
        clip.rows = comparison.rows(run.columns, [clip.name])
    metrics = [name for name in comparison.metrics if name in ("psnr", "lpips", "st_lpips")]
    over_distance = [plots.of_distance(comparison, metric) for metric in metrics]
    run.plots = [plot for plot in over_distance if plot] + [plots.of_curve(curve) for curve in comparison.curves]


def _of_training(folder: Path) -> Run:
    path = folder.resolve()
    title = f"{path.parent.parent.name}, {path.name}" if path.parent.name == "chopgrad-refine" else path.name
    content = _read_json(folder / "metrics.json")
    try:
        held_out, moving = content["held_out"], content.get("moving", {})
        stages = {stage: label for stage, label in STAGES.items() if stage != "ensemble" or stage in held_out}
        run = Run(title, ["Made by: ns-train chopgrad-refine"], [(label, STAGES_ABOUT[stage]) for stage, label in stages.items()])
        run.columns = [Column(name) for name in held_out["splat"]] + ([Column("psnr", "moving")] if moving else [])
        for stage, label in stages.items():
            values = [held_out[stage][column.metric] if column.region == "whole" else moving[stage][column.metric]
                      for column in run.columns]
            run.rows.append(Row(label, [None if value is None else _number(value) for value in values]))
        run.measured_on = f"Means over {_count(int(content['views']['held_out']), 'held-out view')}"
        run.plots = [plots.of_lanes(content["lane_shift"], stages)] if content.get("lane_shift") else []
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{folder / 'metrics.json'} is not what a run of ns-train chopgrad-refine wrote; let it run "
                        "again.") from error
    for first in sorted((folder / "videos").glob("splat*.mp4")):
        name = first.stem.removeprefix("splat")
        videos = [open_video(folder / "videos" / f"{stage}{name}.mp4") for stage in stages]
        run.clips.append(_clip_of_videos(name.lstrip("-") or "through the training views", videos))
    if not run.clips:
        raise UserError(f"There is no splat.mp4 in {folder / 'videos'}; let the run write its videos again.")
    return run


def _clip_of_videos(name: str, videos: list[Video]) -> ShownClip:
    first = videos[0]
    for video in videos:
        if (video.frames, video.width, video.height) != (first.frames, first.width, first.height):
            raise UserError(f"{video.path} and {first.path} are not of one length and size; let the run write them again.")
    return ShownClip(name, first.fps or 12.0, first.frame_names, (first.width, first.height),
                     {number: video.pictures for number, video in enumerate(videos)}, note=COMPRESSED + ".")


def _of_refined(folder: Path, refined: list[Path]) -> Run:
    given = "splat" if (refined[0] / "splat.mp4").is_file() else "input"
    run = Run(folder.resolve().name, ["Made by: chopgrad refine"], [
        (given, "What was given."), ("refined", "What the refiner made of it in one step.")])
    for path in refined:
        after, both = open_video(path / "frames"), open_video(path / "before_after.mp4")
        if both.frames != after.frames or both.width < 2 * after.width + GAP or both.height < after.height:
            raise UserError(f"{both.path} does not show the frames in {after.path} beside what they were; refine the clip "
                            "again.")
        sides = {0: _left_half(both, after), 1: after.pictures}
        run.clips.append(ShownClip(path.resolve().name, both.fps or 12.0, after.frame_names, (after.width, after.height),
                                   sides, note=f"{COMPRESSED} on the side of the {given}."))
    return run


def _left_half(both: Video, one: Video) -> Pictures:
    return lambda: (picture[: one.height, : one.width] for picture in both.pictures())


def _of_profile(folder: Path) -> Run:
    content = _read_json(folder / "profile.json")
    try:
        commands = content["command"] if isinstance(content["command"], list) else [content["command"]]
        about = [f"Made by: {shortened(command)}" for command in commands] + [f"Machine: {content['machine']}"]
        return Run(f"Gradients through {Path(str(content['decoder'])).name}: {folder.resolve().name}", about,
                   plots=plots.of_profile(content))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{folder / 'profile.json'} is not what chopgrad profile wrote; measure it again.") from error


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read; make it again.") from error


def _number(value: float) -> float:
    if isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value} is no number")
    return float(value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
