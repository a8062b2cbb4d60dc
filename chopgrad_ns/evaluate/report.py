"""The results of many clips: means with confidence intervals, as JSON and as a table."""

import importlib.metadata
import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chopgrad_ns.evaluate.bootstrap import RESAMPLES, SEED, block_count, interval_of_mean, interval_of_series
from chopgrad_ns.evaluate.clips import LARGER_IS_BETTER, NEITHER_IS_BETTER
from chopgrad_ns.evaluate.distributions import DISTRIBUTION_METRICS, ENOUGH
from chopgrad_ns.evaluate.metrics import HIGHEST_PSNR, Values
from chopgrad_ns.evaluate.regions import PADDING, SMALLEST

COMPUTED_BY = ("chopgrad-ns", "torch", "torchvision", "torchmetrics", "pytorch-msssim", "lpips", "stlpips-pytorch",
               "piq", "torch-fidelity", "cd-fvd", "opencv-python-headless", "scipy")
BLOCKS = "blocks of neighbouring frames"
FEW_UNITS = 15
"""Of fewer clips or blocks the table says that intervals are too narrow."""


@dataclass
class ClipValues:
    """A clip's frames by name, and a value a frame by region and metric, NaN where there is none."""

    names: list[str]
    values: dict[str, dict[str, Float[np.ndarray, "t"]]]

    @staticmethod
    def of(names: list[str], values: dict[str, dict[str, Values]]) -> "ClipValues":
        return ClipValues(names, {region: {metric: found.cpu().double().numpy() for metric, found in metrics.items()}
                                  for region, metrics in values.items()})

    @staticmethod
    def from_json(content: dict) -> "ClipValues":
        """What `to_json` made. Raises KeyError, TypeError or ValueError for anything else."""
        names, regions = [str(name) for name in content["names"]], content["regions"]
        read = lambda told: np.array([math.nan if value is None else value for value in told], dtype=np.float64)  # noqa: E731
        values = {region: {metric: read(found["per_frame"]) for metric, found in metrics.items()}
                  for region, metrics in regions.items()}
        wrong = [metric for metrics in values.values() for metric, found in metrics.items()
                 if found.shape != (len(names),) or np.isinf(found).any()]
        if wrong:
            raise ValueError(f"{wrong[0]} is not one number for each of {len(names)} frames")
        return ClipValues(names, values)

    def to_json(self) -> dict:
        """Of each metric in each region the mean, its 95 % interval, and the values, None where there is none."""
        told = lambda values: [round(float(value), 6) if math.isfinite(value) else None for value in values]  # noqa: E731
        return {"names": self.names,
                "regions": {region: {metric: _over_frames(values) | {"per_frame": told(values)}
                                     for metric, values in metrics.items()} for region, metrics in self.values.items()}}


@dataclass
class Results:
    """What was measured: of clips by name, and of their features together (`FeatureSets.distances`) by region.

    `skipped` are metrics that could not be computed, `left_out` clips, each with the reason.
    """

    clips: dict[str, ClipValues]
    distances: dict[str, dict[str, dict]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, dict[str, dict]]:
        """By region and metric `mean`, `ci95` (None where there is too little to resample), and how many `clips` and
        `frames` have a value; for distances between sets what `FeatureSets.distances` gives.

        The mean is that of the clips' means. With several clips these are resampled, with one clip blocks of its
        frames.
        """
        regions = dict.fromkeys(region for clip in self.clips.values() for region in clip.values)
        return {region: {metric: self._over_clips(region, metric) for metric in self._metrics(region)}
                | self.distances.get(region, {}) for region in dict.fromkeys([*regions, *self.distances])}

    def mean(self, region: str, metric: str) -> float | None:
        """The mean of the clips' means; None where no frame has a value."""
        means = [values.mean() for values in self._known(region, metric)]
        return float(np.mean(means)) if means else None

    def _metrics(self, region: str) -> dict[str, None]:
        return dict.fromkeys(metric for clip in self.clips.values() for metric in clip.values.get(region, {}))

    def _known(self, region: str, metric: str) -> list[Float[np.ndarray, "t"]]:
        """The finite values of each clip that has any."""
        series = [clip.values[region][metric] for clip in self.clips.values()
                  if metric in clip.values.get(region, {})]
        return [found for found in (values[np.isfinite(values)] for values in series) if len(found)]

    def _over_clips(self, region: str, metric: str) -> dict:
        known = self._known(region, metric)
        if len(self.clips) == 1:
            interval = interval_of_series(known[0]) if known else None
        else:
            interval = interval_of_mean(np.array([values.mean() for values in known]))
        return {"mean": self.mean(region, metric), "ci95": interval, "clips": len(known), "frames": sum(map(len, known))}

    def _frames(self) -> int:
        return sum(len(clip.names) for clip in self.clips.values())

    def _identical(self) -> int:
        """Frames whose PSNR is the highest there is."""
        return sum(int((clip.values["whole"]["psnr"] >= HIGHEST_PSNR).sum()) for clip in self.clips.values()
                   if "psnr" in clip.values.get("whole", {}))

    def _resampled(self) -> str:
        return "clips" if len(self.clips) > 1 else BLOCKS

    def to_json(self, about: dict) -> dict:
        """All of it for `json.dumps`; `about` says what was compared, and how."""
        return about | {
            "clips": len(self.clips), "frames": self._frames(), "frames_that_equal_the_truth": self._identical(),
            "regions": self.summary(), "skipped": self.skipped, "left_out": self.left_out,
            "per_clip": {name: clip.to_json() for name, clip in self.clips.items()},
            "bootstrap": {"resampled": self._resampled(), "resampled_per_clip": BLOCKS, "method": "percentile",
                          "resamples": RESAMPLES, "seed": SEED},
            "actor_crops": {"smallest_side": SMALLEST, "padding": PADDING},
            "versions": {name: version for name in COMPUTED_BY if (version := _version(name))},
        }

    def print(self, title: str) -> None:
        """Print a table of means and 95 % intervals by metric and region, and what is to be known about them."""
        title += f": {_count(len(self.clips), 'clip')}, {_count(self._frames(), 'frame')}"
        console = Console()
        if not console.is_terminal:
            console = Console(width=250)
        summary = self.summary()
        table = Table("metric", *summary, pad_edge=False, box=SIMPLE if console.is_terminal else None)
        for metric in dict.fromkeys(metric for metrics in summary.values() for metric in metrics):
            arrow = "↑" if metric in LARGER_IS_BETTER else "" if metric in NEITHER_IS_BETTER else "↓"
            between = "\n" if console.is_terminal else " "
            cells = (_cell(metric, metrics.get(metric), between) for metrics in summary.values())
            table.add_row(f"{metric} {arrow}", *cells)
        console.print(Text(title))  # not the table's, which is wrapped to its width
        console.print(table)
        for line in self._remarks(summary):
            console.print(Text(line))

    def _remarks(self, summary: dict[str, dict[str, dict]]) -> list[str]:
        without = "; fid, kid and fvd have none" if self.distances else ""
        lines = [f"Means [95 % intervals, {self._resampled()} resampled]{without}."]
        few = {}
        for region, metrics in summary.items():
            for name, found in ((name, metrics[name]) for name in DISTRIBUTION_METRICS if name in metrics):
                if "reason" in found:
                    lines.append(f"{region}: no {name}, which {found['reason']}.")
                elif found["count"] < ENOUGH:
                    few[f"{region} {found['count']} {found['unit']}"] = None
        if few:
            lines.append(f"Of fewer than {ENOUGH} samples fid, kid and fvd say little; compare them only with those of "
                         f"as many: {'; '.join(few)}.")
        units = len(self.clips) if len(self.clips) > 1 else block_count(self._frames())
        if units < FEW_UNITS:
            lines.append(f"Intervals from {units} {self._resampled()} are too narrow (of 3 clips they held the truth in 76 % of "
                         "trials, of 10 in 88 %).")
        same = self._identical()
        if same:
            lines.append(f"{_count(same, 'frame')} equal the truth, and count {HIGHEST_PSNR:.0f} dB each in the mean of psnr.")
        if "inside" in summary and "dists" in summary["inside"]:
            lines.append("dists inside and outside of masks is of whole pictures that equal the truth elsewhere: it shrinks with "
                         "the region.")
        return lines + [f"Skipped {name}: {reason}" for name, reason in self.skipped.items()]


def _over_frames(values: Float[np.ndarray, "t"]) -> dict:
    known = values[np.isfinite(values)]
    return {"mean": float(known.mean()) if len(known) else None, "ci95": interval_of_series(known)}


def _cell(metric: str, found: dict | None, between: str) -> Text:
    """A mean or distance, and its interval where there is one, with `between` between them."""
    value = None if found is None else found.get("mean", found.get("value"))
    if value is None:
        return Text("" if found is None else "–")
    form = {"psnr": ".2f", "fid": ".2f", "fvd": ".2f", "warp_error": ".3g", "warp_error_of_truth": ".3g"}.get(metric, ".4f")
    interval = found.get("ci95")
    return Text(f"{value:{form}}" + (f"{between}[{interval[0]:{form}}, {interval[1]:{form}}]" if interval else ""))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
