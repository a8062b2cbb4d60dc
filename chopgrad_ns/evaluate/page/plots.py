"""What the page plots: quality over the distance of views, what gradients cost and how they err, quality beside the lane."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from chopgrad_ns.evaluate.comparison import Comparison, Curve
from chopgrad_ns.evaluate.table import Column

Points = Sequence[tuple[float, float]]
GIB = 2**30
BINS, FEWEST_IN_BIN = 8, 4


@dataclass(frozen=True)
class Series:
    """A line through points, or points alone."""

    label: str
    points: Points
    line: bool = True


@dataclass(frozen=True)
class Plot:
    """`zero`: the y axis begins there; `log`: it is logarithmic, and all y are positive."""

    title: str
    x: str
    y: str
    series: list[Series] = field(default_factory=list)
    zero: bool = False
    log: bool = False

    def __post_init__(self):
        points = [point for series in self.series for point in series.points]
        if not all(math.isfinite(value) for point in points for value in point):
            raise ValueError(f"a value of {self.title!r} is not finite")
        if self.log and not all(y > 0 for _, y in points):
            raise ValueError(f"{self.title!r} is logarithmic and has a value that is not positive")


def of_curve(curve: Curve) -> Plot:
    return Plot(curve.title, curve.x, curve.y, [Series(label, points) for label, points in curve.series.items()])


def of_distance(comparison: Comparison, metric: str) -> Optional[Plot]:
    """A metric of all frames whose distance is known, by method: means of neighbours in distance; None where there are none.

    There are up to 8 groups of equally many frames, at least 4 each; a method is shown if it was given all of these clips.
    """
    clips = [clip for clip in comparison.clips.values() if clip.distance is not None]
    series = []
    for method in comparison.methods:
        values = [clip.values[method.name].values["whole"][metric] for clip in clips
                  if metric in getattr(clip.values.get(method.name), "values", {}).get("whole", {})]
        if clips and len(values) == len(clips):
            distance = np.concatenate([clip.distance for clip in clips])
            series.append(Series(method.label, _binned(distance, np.concatenate(values))))
    column = Column(metric)
    return Plot(f"{column.title} over view distance", "distance to the nearest training view",
                f"{column.title}, mean of neighbouring views", series) if series else None


def _binned(x: np.ndarray, y: np.ndarray) -> Points:
    """Means of x and y in groups of neighbours in x; values that are not finite are left out."""
    order = np.argsort(x[np.isfinite(y)], kind="stable")
    x, y = x[np.isfinite(y)][order], y[np.isfinite(y)][order]
    groups = np.array_split(np.arange(len(x)), min(max(len(x) // FEWEST_IN_BIN, 1), BINS))
    return [(float(x[group].mean()), float(y[group].mean())) for group in groups if len(group)]


def of_lanes(lanes: dict[str, dict[str, dict[str, float]]], labels: dict[str, str]) -> Plot:
    """PSNR of each stage over the shift of the lane, as `metrics.json` of a drive has it."""
    shifts = sorted(lanes, key=float)
    return Plot("PSNR beside the recorded lane", "shift of the lane, m", "PSNR, against true pictures",
                [Series(label, [(float(shift), float(lanes[shift][stage]["psnr"])) for shift in shifts])
                 for stage, label in labels.items()])


def of_profile(content: dict) -> list[Plot]:
    """Memory and time of gradients, their errors by the window that is backpropagated through, and influence over distance.

    `content` is what `profile.json` holds. Raises KeyError, TypeError or ValueError for anything else.
    """
    plots = [*_of_cost(content["cost"]), *_of_error(content["error"]),
             *_of_influence(content["influence"], content.get("decay"))]
    return [plot for plot in plots if plot.series]


def _of_cost(rows: list[dict]) -> list[Plot]:
    rows = [row for row in rows if row["peak_bytes"] is not None]
    methods = dict.fromkeys(str(row["method"]) for row in rows)
    kinds = {"Memory of gradients": ("peak memory, GiB", "peak_bytes", GIB),
             "Time of gradients": ("seconds, forward and backward", "seconds", 1)}
    return [Plot(title, "frames of the clip", y, [
        Series(method, [(float(row["frames"]), row[key] / unit) for row in rows if row["method"] == method])
        for method in methods], zero=True) for title, (y, key, unit) in kinds.items()]


def _of_error(rows: list[dict]) -> list[Plot]:
    rows = [row for row in rows if row["status"] == "ok"]
    farthest = max((row["distance"] for row in rows if row["distance"] is not None), default=0)
    plots = []
    for key, title in {"relative_l2": "Error of truncated gradients", "cosine": "Direction of truncated gradients"}.items():
        series = []
        for of in ("latents", "parameters"):
            mine = [row for row in rows if row["of"] == of]
            window = [(float(row["distance"]), float(row[key])) for row in mine if row["distance"] is not None]
            series += [Series(f"{of}, truncated", sorted(window))] if window else []
            series += [Series(f"{of}, {row['method']}", [(0.0, float(row[key])), (float(farthest), float(row[key]))])
                       for row in mine if row["distance"] is None]
        y = {"relative_l2": "relative L2 error", "cosine": "cosine with the exact gradient"}[key]
        plots.append(Plot(title, "groups before that gradients reach", y, series))
    return plots


def _of_influence(rows: list[dict], decay: Optional[dict]) -> list[Plot]:
    points = [(float(row["distance"]), float(row["influence"])) for row in rows if row["influence"] > 0]
    series = [Series("measured", points, line=False)] if points else []
    if points and decay and decay["alpha"] is not None:
        ends = [0.0, max(x for x, _ in points)]
        series.append(Series(f"C·exp(−α·distance), α = {decay['alpha']:.3g}",
                             [(x, decay["C"] * math.exp(-decay["alpha"] * x)) for x in ends]))
    return [Plot("Influence of latents on later groups", "distance, groups", "gradient norm", series, log=True)]
