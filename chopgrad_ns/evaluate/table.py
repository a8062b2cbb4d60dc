"""Methods side by side: a row a method, a column a metric, the best of each column."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from chopgrad_ns.evaluate.clips import LARGER_IS_BETTER, NEITHER_IS_BETTER

TITLES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "st_lpips": "ST-LPIPS", "dists": "DISTS", "flicker": "flicker",
          "warp_error": "warping error", "warp_error_of_truth": "warping error of the truth"}
DIGITS = {"psnr": 2, "warp_error": 5, "warp_error_of_truth": 5}
"""After the point; four for others."""
SECONDS = "seconds"
"""The column of how long a method takes for a frame."""


@dataclass(frozen=True)
class Column:
    """A metric in a region (see `evaluate_clip`), or `SECONDS`."""

    metric: str
    region: str = "whole"

    @property
    def title(self) -> str:
        if self.metric == SECONDS:
            return "seconds a frame"
        title = TITLES.get(self.metric, self.metric)
        return title if self.region == "whole" else f"{title}, {self.region}"

    @property
    def better(self) -> int:
        """1 where larger values are better, −1 where smaller ones are, 0 where neither is."""
        if self.metric == SECONDS or self.metric in NEITHER_IS_BETTER:
            return 0
        return 1 if self.metric in LARGER_IS_BETTER else -1

    @property
    def digits(self) -> int:
        """How many to show after the point."""
        return 3 if self.metric == SECONDS else DIGITS.get(self.metric, 4)

    def shown(self, value: Optional[float]) -> str:
        return "–" if value is None else f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Row:
    """Of a method, its label and a value a column, None where it has none; `whole` unless some clips are missing."""

    label: str
    values: Sequence[Optional[float]]
    whole: bool = True


def best(columns: Sequence[Column], rows: Sequence[Row]) -> list[list[int]]:
    """Of each column the indices of the rows whose value is the best of it, as shown; none where it is not about that.

    Rows that are not of all clips take no part: their clips may be the easier ones.
    """
    found = []
    for index, column in enumerate(columns):
        values = {number: round(row.values[index], column.digits) * column.better for number, row in enumerate(rows)
                  if row.whole and row.values[index] is not None}
        most = max(values.values(), default=None) if column.better else None
        found.append([number for number, value in values.items() if value == most])
    return found


def markdown(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """The table, with the best values bold and arrows where they point; ends with a line break."""
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    bold = best(columns, rows)
    lines = [["method", *(column.title + arrows[column.better] for column in columns)], ["---"] * (len(columns) + 1)]
    for number, row in enumerate(rows):
        cells = [column.shown(value) for column, value in zip(columns, row.values)]
        cells = [f"**{cell}**" if number in bold[index] else cell for index, cell in enumerate(cells)]
        lines.append([_plain(row.label), *cells])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _plain(text: str) -> str:
    """A label that is only text in Markdown's tables."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
