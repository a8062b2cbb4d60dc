"""What a profile leaves in its folder: profile.json, profile.md and plots."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from chopgrad_ns.files import write_json

GIB = 2**30
PARTS = ("cost", "error", "influence")


class Report:
    """Rows as they are measured, on screen and in profile.json, which is whole after each of them."""

    def __init__(self, folder: Path, about: dict):
        self.folder = Path(folder)
        self.content = {**about, **{part: [] for part in PARTS}}
        self.write()

    def add(self, part: str, row: dict) -> None:
        self.content[part].append(row)
        print(_line(row), flush=True)
        self.write()

    def note(self, name: str, value) -> None:
        self.content[name] = value
        self.write()

    def write(self) -> None:
        write_json(self.folder / "profile.json", self.content)

    def publish(self) -> None:
        """Tables and plots of what there is by now."""
        _replace(self.folder / "profile.md", lambda path: path.write_text(tables(self.content)))
        for name, draw in PLOTS.items():
            figure = draw(self.content)
            if figure is not None:
                _replace(self.folder / f"{name}.png", lambda path: figure.savefig(path, format="png", dpi=120))  # noqa: B023


def _replace(path: Path, write) -> None:
    beside = path.with_name(path.name + ".part")
    write(beside)
    os.replace(beside, path)


def _line(row: dict) -> str:
    return "  ".join(f"{key} {_shown(key, value)}" for key, value in row.items() if value is not None)


def _shown(key: str, value) -> str:
    if value is None:
        return "–"
    if key == "peak_bytes":
        return f"{value / GIB:.3f} GiB"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tables(content: dict) -> str:
    """The whole profile as Markdown."""
    skipped = {*PARTS, "decay"}
    lines = ["# Profile", "", *(f"- {key}: {value}" for key, value in content.items() if key not in skipped), ""]
    if content["cost"]:
        titles = {"peak_bytes": "Peak memory beyond decoder, latents and target", "seconds": "Seconds, forward and backward"}
        for key, title in titles.items():
            lines += [f"## {title}", "", *_by_frames(content["cost"], key), ""]
    if content["error"]:
        columns = ("method", "of", "relative_l2", "cosine", "magnitude_bias", "status")
        lines += [f"## Gradients against the exact ones, {content['error'][0]['frames']} frames", "",
                  *_table(columns, [[_shown(c, row.get(c)) for c in columns] for row in content["error"]]), ""]
    if content["influence"]:
        lines += ["## Influence of latents on later groups' losses", "", *_by_distance(content["influence"]), ""]
        lines += [f"Fitted: I = C·exp(−α·distance), α = {_shown('', content['decay']['alpha'])} per group, "
                  f"C = {_shown('', content['decay']['C'])}.", ""]
    return "\n".join(lines)


def _by_frames(rows: Sequence[dict], key: str) -> list[str]:
    frames = sorted({row["frames"] for row in rows})
    cells = {(row["method"], row["frames"]): row["status"] if row[key] is None else _shown(key, row[key]) for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    return _table(["frames", *map(str, frames)], [[name, *(cells.get((name, n), "") for n in frames)] for name in methods])


def _by_distance(rows: Sequence[dict]) -> list[str]:
    body = []
    for distance in sorted({row["distance"] for row in rows}):
        values = [row["influence"] for row in rows if row["distance"] == distance]
        body.append([str(distance), *(f"{value:.3g}" for value in (min(values), sum(values) / len(values), max(values)))])
    return _table(["distance in groups", "least", "mean", "most"], body)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(head)
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]


def _figure(columns: int):
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # needs no display
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * columns, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def plot_cost(content: dict):
    rows = [row for row in content["cost"] if row["peak_bytes"] is not None]
    if not rows:
        return None
    figure, (memory, seconds) = _figure(2)
    styles = ("o-", "s--", "^:")
    for index, name in enumerate(dict.fromkeys(row["method"] for row in rows)):
        mine = [row for row in rows if row["method"] == name]
        frames, style = [row["frames"] for row in mine], styles[index // 10 % len(styles)]
        memory.plot(frames, [row["peak_bytes"] / GIB for row in mine], style, label=name)
        seconds.plot(frames, [row["seconds"] for row in mine], style, label=name)
    for axes, label in ((memory, "peak memory, GiB"), (seconds, "seconds, forward and backward")):
        axes.set(xlabel="frames", ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.legend(*memory.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def plot_error(content: dict):
    rows = [row for row in content["error"] if row["status"] == "ok"]
    if not rows:
        return None
    figure, all_axes = _figure(3)
    labels = {"relative_l2": "relative L2 difference", "cosine": "cosine", "magnitude_bias": "magnitude bias"}
    for axes, (key, label) in zip(all_axes, labels.items()):
        for of, colour in (("latents", "tab:blue"), ("parameters", "tab:orange")):
            mine = [row for row in rows if row["of"] == of]
            truncated = [row for row in mine if row["distance"] is not None]
            axes.plot([row["distance"] for row in truncated], [row[key] for row in truncated], "o-", color=colour, label=of)
            for row, style in zip((row for row in mine if row["distance"] is None), ("--", ":")):
                axes.axhline(row[key], color=colour, linestyle=style, label=f"{of}, {row['method']}")
        axes.set(xlabel="truncation distance, groups", ylabel=f"{label}, against the exact gradient")
        axes.grid(alpha=0.3)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def plot_influence(content: dict):
    rows = [row for row in content["influence"] if row["influence"] > 0]
    if not rows:
        return None
    figure, (axes,) = _figure(1)
    axes.semilogy([row["distance"] for row in rows], [row["influence"] for row in rows], "o", alpha=0.5, label="I(i, j)")
    decay = content["decay"]
    if decay["alpha"] is not None:
        ends = [0, max(row["distance"] for row in rows)]
        fitted = [decay["C"] * math.exp(-decay["alpha"] * distance) for distance in ends]
        axes.semilogy(ends, fitted, "-", label=f"α = {decay['alpha']:.3g}")
    axes.set(xlabel="distance i − j, groups", ylabel="gradient norm")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


PLOTS = {"cost": plot_cost, "error": plot_error, "influence": plot_influence}
