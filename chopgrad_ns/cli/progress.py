"""One progress bar with an estimate of the time left; plain lines now and then where there is no terminal."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chopgrad_ns.progress import ProgressLines

NOTE_EVERY = 20
"""The bar asks how it goes at every so many steps only: the answer makes a GPU wait."""


@contextlib.contextmanager
def bar(label: str, seconds: float = 10.0) -> Iterator[Callable[..., None]]:
    """Yield `report(step, steps, note)`; `note`, a function that says how it goes, may be left out.

    `seconds` lie between the lines that are printed where there is no terminal.
    """
    console = Console()
    if not console.is_terminal:
        yield ProgressLines(label, lambda line: print(line, flush=True), seconds)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
               TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=None, note="")

        def report(step: int, steps: int, note: Callable[[], str] | None = None) -> None:
            progress.update(task, completed=step, total=steps)
            if note and step % NOTE_EVERY == 0:
                progress.update(task, note=note())

        yield report
