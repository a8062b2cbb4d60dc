"""The page's folder: index.html with its script and style, data.js, and frames as WebP."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Optional

from PIL import Image

from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.page.runs import Run, ShownClip
from chopgrad_ns.evaluate.report import ClipValues
from chopgrad_ns.evaluate.table import SECONDS, Column, Row, best
from chopgrad_ns.files import refuse_file, whole_folder

PAGE, DATA, FRAMES = "index.html", "data.js", "frames"
LONGEST = 16383
"""Pixels of a side that WebP can hold."""


def check_output(folder: Path, sources: Sequence[Path]) -> None:
    """Raise UserError for a folder that holds anything but a page, or that holds what is to be read."""
    refuse_file(folder.absolute())
    lost = [path for path in sources if path.resolve().is_relative_to(folder.resolve())]
    if lost:
        raise UserError(f"{folder} is to be written and holds {lost[0]}, which is to be read; give another folder.")
    inside = {path.name for path in folder.glob("*")}
    strange = sorted(inside - {DATA, FRAMES, *(file.name for file in _static())})
    if not strange and inside and not {PAGE, DATA} <= inside:
        strange = sorted(inside)
    if strange:
        raise UserError(f"{folder} holds {strange[0]}, which no report wrote; give a folder that may be replaced.")


def write_page(runs: Sequence[Run], output: Path, quality: Optional[int] = None,
               progress: Callable[[int, int], None] = lambda done, all: None) -> None:
    """Write the page, whole or not at all, in place of one that was there.

    Args:
        quality: of lossy WebP, 1…100; None for frames without loss
        progress: told how many sides of clips are done, and how many there are

    Raises:
        UserError: for frames that cannot be read or are too large.
    """
    total, done = sum(len(clip.sides) for run in runs for clip in run.clips), 0
    with whole_folder(output.resolve()) as folder:
        for number, run in enumerate(runs):
            for index, clip in enumerate(run.clips):
                for method in clip.sides:
                    progress(done, total)
                    _write_frames(clip, method, folder / _folder(number, index, method), quality)
                    done += 1
        progress(total, total)
        for file in _static():
            (folder / file.name).write_bytes(file.read_bytes())
        content = {"made": datetime.now(timezone.utc).isoformat(timespec="minutes"), "quality": quality,
                   "runs": [_run_json(run, number) for number, run in enumerate(runs)]}
        # Names of strangers must not end a script or begin a tag, wherever this text is put.
        text = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
        (folder / DATA).write_text(f"window.REPORT = {text};\n", encoding="utf-8")


def _static() -> list:
    return [file for file in files("chopgrad_ns.evaluate.page").joinpath("static").iterdir() if not file.name.startswith(".")]


def _folder(run: int, clip: int, method: int) -> str:
    """Numbers, since names may be anything."""
    return f"{FRAMES}/{run}/{clip}/{method}"


def _write_frames(clip: ShownClip, method: int, folder: Path, quality: Optional[int]) -> None:
    if max(clip.size) > LONGEST:
        raise UserError(f"Frames of clip {clip.name} are {clip.size[0]}×{clip.size[1]} px, and the page's pictures (WebP) hold "
                        f"{LONGEST} px a side; make them smaller.")
    options = {"lossless": True, "quality": 20, "method": 0} if quality is None else {"quality": quality, "method": 4}
    folder.mkdir(parents=True)
    for number, picture in enumerate(clip.sides[method]()):
        Image.fromarray(picture).save(folder / f"{number:05d}.webp", "WEBP", **options)


def _run_json(run: Run, number: int) -> dict:
    shown = [column for column in run.columns if column.metric != SECONDS]
    return {
        "title": run.title, "about": run.about, "truth": run.truth,
        "methods": [{"label": label, "about": about} for label, about in run.methods],
        "columns": [{"title": column.title, "better": column.better} for column in run.columns],
        "frameColumns": [{"title": Column(column.metric).title, "region": column.region} for column in shown],
        "rows": _rows_json(run.columns, run.rows), "measuredOn": run.measured_on,
        "clips": [{"name": clip.name, "fps": clip.fps, "names": clip.names, "width": clip.size[0], "height": clip.size[1],
                   "note": clip.note, "rows": _rows_json(run.columns, clip.rows),
                   "sides": {method: _folder(number, index, method) for method in clip.sides},
                   "values": {method: _values_json(shown, values) for method, values in clip.values.items()}}
                  for index, clip in enumerate(run.clips)],
        "plots": [asdict(plot) for plot in run.plots],
    }


def _rows_json(columns: Sequence[Column], rows: Sequence[Row]) -> list[dict]:
    """Cells as they are shown, each with whether it is the best of its column."""
    bold = best(columns, rows)
    return [{"label": row.label, "cells": [{"text": column.shown(value), "best": number in bold[index]}
                                           for index, (column, value) in enumerate(zip(columns, row.values))]}
            for number, row in enumerate(rows)]


def _values_json(columns: Sequence[Column], values: ClipValues) -> list[list[str]]:
    """Of each column the value of each frame as it is shown."""
    series = [values.values.get(column.region, {}).get(column.metric) for column in columns]
    return [[column.shown(float(value) if math.isfinite(value) else None) for value in
             (found if found is not None else [math.nan] * len(values.names))] for column, found in zip(columns, series)]
