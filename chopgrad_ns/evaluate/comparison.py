"""Methods compared on clips: a folder with their frames, the metrics of each frame, and the table of all of it.

    folder/comparison.json            what was compared, and how it went
    folder/clips/CLIP/truth/00000.png …
    folder/clips/CLIP/mask/00000.png …      where the clip has a mask
    folder/clips/CLIP/METHOD/00000.png …
"""

import json
import math
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Optional

from jaxtyping import Bool, Float
from torch import Tensor

from chopgrad_ns.data.video import read_frames, write_frames
from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.clips import METRICS, OF_TRUTH, TEMPORAL_METRICS, evaluate_clip, usable
from chopgrad_ns.evaluate.metrics import check_frames
from chopgrad_ns.evaluate.report import ClipValues, Results
from chopgrad_ns.evaluate.table import SECONDS, Column, Row, markdown
from chopgrad_ns.evaluate.temporal import SMALLEST
from chopgrad_ns.files import refuse_file, whole_folder, write_json
from chopgrad_ns.losses import perceptual

FILE = "comparison.json"
CLIPS, TRUTH, MASK = "clips", "truth", "mask"
IN_TABLE = ("psnr", "ssim", "lpips", "st_lpips", "flicker")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
Mask = Bool[Tensor, "t 1 h w"]


@dataclass(frozen=True)
class Method:
    """`name` is that of its folders, `label` what is shown, `about` a sentence or two on what it does."""

    name: str
    label: str
    about: str

    def __post_init__(self):
        _check_name("method", self.name)
        _check_texts(self.label, self.about)


@dataclass(frozen=True)
class Curve:
    """Lines in a plot: `series` are their points by label."""

    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float, float]]]

    def __post_init__(self):
        _check_texts(self.title, self.x, self.y, *self.series)
        points = [point for points in self.series.values() for point in points]
        _check_numbers(f"the curve {self.title!r}", [value for x, y in points for value in (x, y)])


@dataclass
class ComparedClip:
    """A clip of `names` frames of `size` (width, height): where they are seen from, and how each method did.

    `distance`: of each frame's camera to the nearest training view. `values` and `seconds` (for the whole clip) are by method.
    """

    name: str
    fps: float
    names: list[str]
    size: tuple[int, int]
    distance: Optional[list[float]] = None
    mask: bool = False
    values: dict[str, ClipValues] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        _check_name("clip", self.name)
        _check_texts(*self.names)
        _check_numbers(f"clip {self.name}", [self.fps, *(self.distance or []), *self.seconds.values()])
        if self.fps <= 0 or not self.names or (self.distance is not None and len(self.distance) != len(self.names)):
            raise ValueError(f"clip {self.name} has {len(self.names)} frames, {self.fps:g} a second, and "
                             f"{len(self.distance or [])} distances; give frames, a rate, and a distance for each or none")


class Comparison:
    """A folder in which methods are compared on clips.

    `methods`, `clips` (by name) and `curves` are what has been added. All is measured of frames as they are written, in 8
    bit, so that whoever reads the folder finds the same numbers.
    """

    def __init__(self, folder: Path, title: str, command: str):
        """Begin anew, in place of a comparison that was there. `command` is what made it; of absolute paths in it only the
        last part is kept.

        Raises:
            UserError: for a folder that holds something else.
        """
        _check_texts(title, command)
        self.folder, self.title = Path(folder), title
        self.command = shortened(command)
        self.date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.methods: list[Method] = []
        self.clips: dict[str, ComparedClip] = {}
        self.curves: list[Curve] = []
        self.metrics: list[str] = []
        refuse_file(self.folder)
        strange = [path.name for path in self.folder.glob("*")]
        if strange and not (self.folder / FILE).is_file():
            raise UserError(f"{self.folder} holds {strange[0]}, which no comparison wrote; give another folder.")
        self.finish()  # from now on the folder is known for a comparison, with nothing in it yet
        shutil.rmtree(self.folder / CLIPS, ignore_errors=True)

    def add_method(self, name: str, label: str, about: str) -> None:
        """Add a method; they are shown in this order. One of the same name is replaced in its place."""
        if name in (TRUTH, MASK):
            raise UserError(f"A method cannot be called {name}; choose another name.")
        method, known = Method(name, label, about), [each.name for each in self.methods]
        if name in known:
            self.methods[known.index(name)] = method
        else:
            self.methods.append(method)

    def add_clip(self, name: str, truth: Float[Tensor, "t 3 h w"], fps: float = 12, distance: Sequence[float] | None = None,
                 mask: Mask | None = None, names: Sequence[str] | None = None) -> None:
        """Add a clip whose frames should be `truth`, in 0…1; in place of one of the same name, and what was measured on it.

        Args:
            distance: of each frame's camera to the nearest training view, for the plot of quality over it
            mask: where metrics are taken as well, under "inside"
            names: of the frames; numbers by default
        """
        check_frames(truth, truth)
        if mask is not None and mask.shape != truth[:, :1].shape:
            raise ValueError(f"a mask of shape {tuple(mask.shape)} does not fit frames of {tuple(truth.shape)}")
        names = [f"{number:05d}" for number in range(len(truth))] if names is None else [str(each) for each in names]
        if len(names) != len(truth):
            raise ValueError(f"{len(names)} names are given for {len(truth)} frames")
        far = None if distance is None else [float(value) for value in distance]
        clip = ComparedClip(name, float(fps), names, (truth.shape[-1], truth.shape[-2]), far, mask is not None)
        with whole_folder(self.folder / CLIPS / name) as folder:
            write_frames(folder / TRUTH, truth)
            if mask is not None:
                write_frames(folder / MASK, mask.float().expand(-1, 3, -1, -1))
        self.clips[name] = clip

    def add_frames(self, clip: str, method: str, frames: Float[Tensor, "t 3 h w"], seconds: float | None = None) -> None:
        """Write and measure what a method made of a clip, in 0…1; `seconds` is how long it took for all of it.

        Raises:
            ValueError: for frames of another number or size than the truth's.
        """
        if method not in [each.name for each in self.methods]:
            raise ValueError(f"there is no method {method!r} yet; add it first")
        shown, truth = self.clips[clip], self.truth(clip)
        frames = frames.to(truth)  # whatever device and precision a method works with
        check_frames(frames, truth)
        with whole_folder(self.frames(clip, method)) as folder:
            write_frames(folder, frames)
        if not self.metrics:
            self.metrics = ["psnr", "ssim", perceptual().name, "warp_error", "flicker"]
        shown.values[method] = measured(frames, truth, self.mask(clip), shown.names, self.metrics)
        shown.seconds.pop(method, None)
        if seconds is not None:
            shown.seconds[method] = float(seconds)

    def add_curve(self, title: str, x: str, y: str, series: dict[str, list[tuple[float, float]]]) -> None:
        """Add a plot; `x` and `y` name its axes, `series` are the points of each line. One of the same title is replaced."""
        points = {label: [(float(a), float(b)) for a, b in line] for label, line in series.items()}
        self.curves = [curve for curve in self.curves if curve.title != title] + [Curve(title, x, y, points)]

    def frames(self, clip: str, method: str) -> Path:
        """The folder of a method's frames (`truth` and `mask` too)."""
        return self.folder / CLIPS / clip / method

    def truth(self, clip: str) -> Float[Tensor, "t 3 h w"]:
        """What the frames of a clip should be. Raises UserError where the files are not those that were written."""
        return self._written(clip, TRUTH)

    def mask(self, clip: str) -> Mask | None:
        """Where metrics of a clip are taken as well; None for everywhere alone. Errors as `truth`."""
        return self._written(clip, MASK)[:, :1] > 0.5 if self.clips[clip].mask else None

    def _written(self, clip: str, name: str) -> Float[Tensor, "t 3 h w"]:
        shown, frames = self.clips[clip], read_frames(self.frames(clip, name))[1]
        if len(frames) != len(shown.names) or (frames.shape[-1], frames.shape[-2]) != shown.size:
            raise UserError(f"{self.frames(clip, name)} does not hold the {len(shown.names)} frames that {FILE} tells of; "
                            "make the comparison again.")
        return frames

    def results(self, method: str) -> Results:
        """What was measured of a method on all clips that it was given."""
        return Results({name: clip.values[method] for name, clip in self.clips.items() if method in clip.values})

    def columns(self) -> list[Column]:
        """Of the table: metrics of whole frames, those inside masks where there are any, seconds."""
        names = [name for name in self.metrics if name in IN_TABLE]
        regions = ["whole", *(["inside"] if any(clip.mask for clip in self.clips.values()) else [])]
        timed = any(clip.seconds for clip in self.clips.values())
        return [Column(name, region) for region in regions for name in names] + ([Column(SECONDS)] if timed else [])

    def rows(self, columns: Sequence[Column], clips: Sequence[str] | None = None) -> list[Row]:
        """A row for each method that was given any of the clips, by default of all: means over these."""
        asked, rows = [self.clips[name] for name in (self.clips if clips is None else clips)], []
        for method in self.methods:
            mine = [clip for clip in asked if method.name in clip.values]
            if mine:
                whole = len(mine) == len(asked)
                label = method.label + ("" if whole else f" ({len(mine)} of {len(asked)} clips)")
                rows.append(Row(label, _row_values(columns, mine, method.name), whole))
        return rows

    def table(self) -> str:
        """The table as Markdown: means over clips, the best of each column bold."""
        columns = self.columns()
        return markdown(columns, self.rows(columns))

    def finish(self) -> None:
        """Write `comparison.json`, whole. It may be called after every method; what was added later is only in files."""
        clips = [{name: value for name, value in vars(clip).items() if name != "values"}
                 | {"results": {method: values.to_json() for method, values in clip.values.items()}}
                 for clip in self.clips.values()]
        write_json(self.folder / FILE, {
            "title": self.title, "command": self.command, "date": self.date, "metrics": self.metrics,
            "methods": [asdict(method) for method in self.methods], "clips": clips,
            "curves": [asdict(curve) for curve in self.curves],
            "summary": {method.name: self.results(method.name).summary() for method in self.methods}})

    @classmethod
    def read(cls, folder: Path) -> "Comparison":
        """A comparison that was finished, to be shown or added to.

        Raises:
            UserError: for a folder without one, or with another file than this class writes.
        """
        self, path = cls.__new__(cls), Path(folder) / FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self.folder, self.title = Path(folder), content["title"]
            self.command, self.date = content["command"], content["date"]
            _check_texts(self.title, self.command, self.date)
            self.metrics = list(content["metrics"])
            self.methods = [Method(**method) for method in content["methods"]]
            self.clips = {clip["name"]: _clip_of(clip) for clip in content["clips"]}
            self.curves = [Curve(**curve) for curve in content["curves"]]
            _check_known(self)
        except OSError as error:
            raise UserError(f"{path} cannot be read; give a folder in which methods were compared.") from error
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(f"{path} is not what a comparison wrote ({reason}); make it again.") from error
        return self


def measured(frames: Float[Tensor, "t 3 h w"], truth: Float[Tensor, "t 3 h w"], mask: Mask | None, names: list[str],
             metrics: Sequence[str]) -> ClipValues:
    """Values of frames in 0…1, rounded to 8 bit. Metrics that cannot be had here or for so small frames are left out."""
    small = min(truth.shape[-2:]) < SMALLEST
    found, skipped = usable([name for name in metrics if not (small and name in TEMPORAL_METRICS)])
    for reason in skipped.values():
        print(reason, file=sys.stderr)
    return ClipValues.of(names, evaluate_clip((frames.clamp(0, 1) * 255).round() / 255, truth, found, mask))


def shortened(command: str) -> str:
    """A command of whose absolute paths only the last part is left: they tell of a machine, and of who works there."""
    within = r"[\w.~}*/-]"  # before a slash these make it one of a relative path, and a colon before two one of an address
    return re.sub(rf"""(?<!{within})(?!(?<=:)//)/+(?:[^\s/'"]+/+)*([^\s/'"]+)/*""", r"\1", command)


def _row_values(columns: Sequence[Column], clips: Sequence[ComparedClip], method: str) -> list[Optional[float]]:
    results = Results({clip.name: clip.values[method] for clip in clips})
    timed = [clip for clip in clips if method in clip.seconds]
    seconds = sum(clip.seconds[method] for clip in timed) / sum(len(clip.names) for clip in timed) if timed else None
    return [seconds if column.metric == SECONDS else results.mean(column.region, column.metric) for column in columns]


def _clip_of(content: dict) -> ComparedClip:
    content = dict(content)
    values = {method: ClipValues.from_json(found) for method, found in content.pop("results").items()}
    clip = ComparedClip(**content, values=values)
    clip.size = (int(clip.size[0]), int(clip.size[1]))
    if any(found.names != clip.names for found in values.values()):
        raise ValueError(f"results of clip {clip.name} are of other frames")
    return clip


def _check_known(comparison: Comparison) -> None:
    names = [method.name for method in comparison.methods]
    measured_of = {method for clip in comparison.clips.values() for method in (*clip.values, *clip.seconds)}
    values = [found for clip in comparison.clips.values() for found in clip.values.values()]
    metrics = {metric for found in values for region in found.values.values() for metric in region} | set(comparison.metrics)
    if len(set(names)) < len(names) or not measured_of <= set(names) or not metrics <= {*METRICS, OF_TRUTH}:
        raise ValueError("it names a method twice, or tells of methods or metrics that are not known")


def _check_name(what: str, name: str) -> None:
    if not NAME.fullmatch(name) or name.endswith(".part"):
        raise UserError(f"A {what} cannot be called {name!r}; give up to 100 letters, digits, points, lines and underscores.")


def _check_texts(*texts: str) -> None:
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise TypeError(f"{wrong[0]!r} is no text")


def _check_numbers(what: str, values: Sequence[float]) -> None:
    wrong = [value for value in values if not math.isfinite(value)]
    if wrong:
        raise ValueError(f"{what} has {wrong[0]}, which is not finite")
