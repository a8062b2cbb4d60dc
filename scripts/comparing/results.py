"""A comparison with the command that makes it, and the tables that are told at its end, as Markdown."""

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from chopgrad_ns.evaluate.comparison import Comparison
from chopgrad_ns.files import write_whole


def begin(work: Path, title: str) -> Comparison:
    return Comparison(work / "comparison", title, "python scripts/compare.py " + shlex.join(sys.argv[1:]))


def tell(comparison: Comparison, work: Path, began: float, *tables: str) -> None:
    """Finish, write the comparison's own table and others into `table.md`, and print them; `began` by the monotonic clock."""
    comparison.finish()
    text = "\n".join([comparison.table(), *tables])
    write_whole(work / "table.md", text.encode())
    print(f"{text}\nAfter {(time.monotonic() - began) / 60:.1f} minutes; the comparison is in {comparison.folder}, the tables "
          f"are in {work / 'table.md'}")


def training_table(trainings: Mapping[str, Mapping]) -> str:
    """A row a method: `steps`, `seconds` and `pixels` of each."""
    lines = ["| trained | steps | pixels a step | seconds | seconds a step |", "| --- | --- | --- | --- | --- |"]
    for label, found in trainings.items():
        lines.append(f"| {label} | {found['steps']} | {found['pixels']} | {found['seconds']:.0f} "
                     f"| {found['seconds'] / found['steps']:.2f} |")
    return "\n".join(lines) + "\n"


def gradient_table(rows: Mapping[str, tuple[float, float, float, int]]) -> str:
    """A row a variant: cosine and length against the exact gradient, seconds and bytes of a step."""
    lines = ["| gradient | cosine to Exact | length, of Exact's | seconds a step | peak memory, MB |",
             "| --- | --- | --- | --- | --- |"]
    for label, (cosine, ratio, seconds, peak) in rows.items():
        lines.append(f"| {label} | {cosine:.4f} | {ratio:.3f} | {seconds:.2f} | {peak / 1e6:.0f} |")
    return "\n".join(lines) + "\n"
