"""Held-out numbers and before/after videos. The only place of a run that looks at held-out photos."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from chopgrad_ns.data.paths import shifted, through
from chopgrad_ns.data.render_clip import render_clip
from chopgrad_ns.data.video import side_by_side, write_video
from chopgrad_ns.data.views import Rig, Views
from chopgrad_ns.evaluate.metrics import evaluate_frames, measured, psnr
from chopgrad_ns.files import write_json
from chopgrad_ns.losses import perceptual
from chopgrad_ns.plugin.drive_scene import in_metres, placed
from chopgrad_ns.plugin.runs import METRICS_FILE
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.render import render

FPS = 12
LANE = "lane_"
"""How the names of true videos beside the lane begin; the rest is the shift in metres."""


def write_report(folder: Path, pipeline, views: Views, others: Sequence[Gaussians], refine, settings, clock) -> dict:
    """Write `metrics.json` and `videos/` into `folder` and return what `metrics.json` holds.

    Three things are measured on the held-out photos: the plain `splat`, renders `refined` in one step (of what the splat and
    `others`, the rest of an ensemble, show together), and the `distilled` splat's renders; with `others`, what is refined as it
    is too, as `ensemble`. For a drive, `moving` has them inside masks of what may move, and where it comes with true
    pictures beside the lane (`chopgrad sample street`), `lane_shift` has them there, by metres.
    """
    model, held = pipeline.model, pipeline.datamanager.held_out()
    scenes = [model.scene_before(), *others], model.scene()
    _write_videos(folder / "videos", *scenes, views, refine, settings)
    metric = perceptual()
    order = trajectories(len(held.photos), held.rig)
    seen = _stages(*scenes, [held.cameras[part] for part in order], views, refine, settings.references)
    truth = held.photos[sum(order, [])]
    results = {stage: evaluate_frames(frames, truth, metric) for stage, frames in seen.items()}
    report = {"held_out": results}
    if held.rig is not None and held.masks is not None:
        moving = ~held.masks[sum(order, [])]
        report["moving"] = {stage: {"psnr": _inside(frames, truth, moving)} for stage, frames in seen.items()}
    lanes = beside_the_lane(*scenes, pipeline.datamanager, views, refine, settings, metric)
    if lanes:
        report["lane_shift"] = lanes
    clock.enter("")
    report |= {
        "views": {"train": len(views), "held_out": len(truth)},
        "seconds": clock.seconds,
        "perceptual_metric": metric.name,
        "gaussians": {"splat": len(model.before()), "distilled": len(model.gaussians())},
        "size": [held.cameras.width, held.cameras.height],
    }
    write_json(folder / METRICS_FILE, report)
    _print(report, folder)
    return report


def trajectories(count: int, rig: Rig | None) -> list[list[int]]:
    """Indices of the views that are one trajectory each: all of them, or those of each of a rig's cameras."""
    return [list(range(count))] if rig is None else [rig.of_camera(name) for name in rig.cameras()]


def _stages(before, after, paths: list[Cameras], views: Views, refine, references: int) -> dict[str, Tensor]:
    """What each stage shows along some trajectories, one after the other; `before` is the splat and the rest of an ensemble."""
    shown = defaultdict(list)
    for path in paths:
        clip = render_clip(before, path, views, count=references)
        plain = {"splat": clip.frames} if len(before) == 1 else {"splat": render(before[0], path).rgb, "ensemble": clip.frames}
        for stage, frames in (plain | {"refined": refine(clip), "distilled": render(after, path).rgb}).items():
            shown[stage].append(frames)
    return {stage: torch.cat(frames) for stage, frames in shown.items()}


def beside_the_lane(before, after, datamanager, views: Views, refine, settings, metric) -> dict[str, dict]:
    """For each shift of the lane in metres that a drive's truth has, what each stage is worth there; empty without truth.

    Frames in which the shifted camera would be inside a vehicle do not count. The pictures of lane 0 were recorded (with lens
    distortion and rolling shutter), those of every other lane nobody has seen.
    """
    from chopgrad_ns.sim.truth import Truth

    if datamanager.drive is None or datamanager.drive.truth is None:
        return {}
    truth, metadata, table = Truth.of(datamanager.drive), datamanager.train_dataset.metadata, {}
    cameras = [name for name in views.rig.cameras() if name in truth.cameras]
    for lane in (name for name in truth.videos if name.startswith(LANE)):
        videos = [truth.video(lane, camera) for camera in cameras]
        if not any(video.clear.any() for video in videos):
            continue
        paths = [placed(video.cameras, *in_metres(metadata)) for video in videos]
        seen, clear = _stages(before, after, paths, views, refine, settings.references), torch.cat([v.clear for v in videos])
        shown = torch.cat([video.frames for video in videos])[clear]
        table[lane.removeprefix(LANE)] = {stage: evaluate_frames(frames[clear], shown, metric)
                                          for stage, frames in seen.items()}
    return table


def _inside(frames: Tensor, truth: Tensor, mask: Tensor) -> float | None:
    """Mean PSNR of the frames that have something inside the mask; None where none has."""
    value = float(measured(psnr, frames.clamp(0, 1), truth, mask).nanmean())
    return None if math.isnan(value) else round(value, 5)


def _write_videos(folder: Path, before, after, views: Views, refine, settings) -> None:
    """`splat.mp4`, `refined.mp4`, `distilled.mp4` and `before_after.mp4` along the training cameras; of a drive for each of
    the rig's cameras, in the recorded lane and in the one farthest from it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in _video_paths(views, settings).items():
        seen = _stages(before, after, [path], views, refine, settings.references)
        for stage, frames in seen.items():
            write_video(folder / f"{stage}{name}.mp4", frames, FPS)
        write_video(folder / f"before_after{name}.mp4", side_by_side(seen["splat"], seen["distilled"]), FPS)


def _video_paths(views: Views, settings) -> dict[str, Cameras]:
    if views.rig is None:
        return {"": through(views.cameras, settings.round_frames)}
    paths = {}
    for name in views.rig.cameras():
        own = views.rig.of_camera(name)
        path = views.cameras[own]
        safe = re.sub(r"[^\w-]", "_", name)
        for shift in dict.fromkeys([0.0, max(settings.lane_shifts, default=0.0)]):
            lane = shifted(path, views.rig.left[own], shift * views.rig.metre)
            paths[f"-{safe}" + (f"-lane-{shift:g}" if shift else "")] = lane
    return paths


def _print(report: dict, folder: Path) -> None:
    from rich.table import Table

    from nerfstudio.utils.rich_utils import CONSOLE

    names = list(report["held_out"]["splat"])
    table = Table("held-out views", *names, title=f"{report['views']['held_out']} views, {torch.get_num_threads()} threads")
    for stage, values in report["held_out"].items():
        table.add_row(stage, *(f"{values[name]:.4f}" for name in names))
    CONSOLE.print(table)
    if "lane_shift" in report:
        lanes = Table("lane shift, m", *report["held_out"], title="PSNR beside the recorded lane, against true pictures")
        for shift, stages in report["lane_shift"].items():
            lanes.add_row(shift, *(f"{stages[stage]['psnr']:.2f}" for stage in report["held_out"]))
        CONSOLE.print(lanes)
    CONSOLE.print(f"Numbers: {folder / METRICS_FILE}  Videos: {folder / 'videos'}")
    CONSOLE.print(f"To compare them on a page: chopgrad report {folder} --output report", soft_wrap=True, highlight=False)
