"""Held-out numbers and before/after videos. The only place of a run that looks at held-out photos."""

from pathlib import Path

import torch

from chopgrad_ns.data.paths import through
from chopgrad_ns.data.render_clip import render_clip
from chopgrad_ns.data.video import side_by_side, write_video
from chopgrad_ns.data.views import Views
from chopgrad_ns.evaluate.metrics import evaluate_frames
from chopgrad_ns.files import write_json
from chopgrad_ns.losses import perceptual
from chopgrad_ns.plugin.runs import METRICS_FILE
from chopgrad_ns.splat.render import render

FPS = 12


def write_report(folder: Path, pipeline, views: Views, refine, settings, clock) -> dict:
    """Write `metrics.json` and `videos/` into `folder` and return what `metrics.json` holds.

    Three things are measured on the held-out photos: the plain `splat`, its renders `refined` in one step, and the
    `distilled` splat's renders.
    """
    before, after = pipeline.model.before(), pipeline.model.gaussians()
    _write_videos(folder / "videos", before, after, views, refine, settings)
    photos, cameras = pipeline.datamanager.held_out()
    metric = perceptual()
    clip = render_clip(before, cameras, views, count=settings.references)
    results = {
        "splat": evaluate_frames(clip.frames, photos, metric),
        "refined": evaluate_frames(refine(clip), photos, metric),
        "distilled": evaluate_frames(render(after, cameras).rgb, photos, metric),
    }
    clock.enter("")
    report = {
        "held_out": results,
        "views": {"train": len(views), "held_out": len(photos)},
        "seconds": clock.seconds,
        "perceptual_metric": metric.name,
        "gaussians": {"splat": len(before), "distilled": len(after)},
        "size": [cameras.width, cameras.height],
    }
    write_json(folder / METRICS_FILE, report)
    _print(report, folder)
    return report


def _write_videos(folder: Path, before, after, views: Views, refine, settings) -> None:
    path = through(views.cameras, settings.round_frames)
    clip = render_clip(before, path, views, count=settings.references)
    refined, distilled = refine(clip), render(after, path).rgb
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "splat.mp4", clip.frames, FPS)
    write_video(folder / "refined.mp4", refined, FPS)
    write_video(folder / "distilled.mp4", distilled, FPS)
    write_video(folder / "before_after.mp4", side_by_side(clip.frames, distilled), FPS)


def _print(report: dict, folder: Path) -> None:
    from rich.table import Table

    from nerfstudio.utils.rich_utils import CONSOLE

    names = list(report["held_out"]["splat"])
    table = Table("held-out views", *names, title=f"{report['views']['held_out']} views, {torch.get_num_threads()} threads")
    for stage, values in report["held_out"].items():
        table.add_row(stage, *(f"{values[name]:.4f}" for name in names))
    CONSOLE.print(table)
    CONSOLE.print(f"Numbers: {folder / METRICS_FILE}  Videos: {folder / 'videos'}")
