"""How methods were trained, as Markdown."""

from collections.abc import Mapping


def training_table(trainings: Mapping[str, Mapping]) -> str:
    """A row a method: `steps`, `seconds` and `pixels` of each."""
    lines = ["| trained | steps | pixels a step | seconds | seconds a step |", "| --- | --- | --- | --- | --- |"]
    for label, found in trainings.items():
        lines.append(f"| {label} | {found['steps']} | {found['pixels']} | {found['seconds']:.0f} "
                     f"| {found['seconds'] / found['steps']:.2f} |")
    return "\n".join(lines) + "\n"


def gradient_table(rows: Mapping[str, tuple[float, float, float, int]]) -> str:
    """A row a variant: cosine and length against the exact gradient, seconds and bytes of a step."""
    lines = ["| gradient | cosine to Exact | length, of Exact's | seconds a step | peak memory, MB |", "| --- | --- | --- | --- | --- |"]
    for label, (cosine, ratio, seconds, peak) in rows.items():
        lines.append(f"| {label} | {cosine:.4f} | {ratio:.3f} | {seconds:.2f} | {peak / 1e6:.0f} |")
    return "\n".join(lines) + "\n"
