"""Write a page that shows what runs made: clips side by side, metrics, plots. It opens from disk, without a server.

A RUN is a folder in which methods were compared, a finished run of ns-train chopgrad-refine, or what chopgrad refine or
chopgrad profile wrote.

Example: chopgrad report outputs/fox/chopgrad-refine/2026-11-28_120000 --output report

Example: chopgrad report comparison --add Difix=difix-frames DOVE=dove-frames --output report
"""

from pathlib import Path
from typing import Annotated, Optional

import tyro


def run(runs: Annotated[tuple[Path, ...], tyro.conf.Positional], output: Annotated[Path, tyro.conf.arg(aliases=("-o",))],
        add: tuple[str, ...] = (), quality: Optional[int] = None) -> None:
    """Write the page.

    Args:
        runs: folders to show
        output: folder to write; index.html in it is the page
        add: NAME=FOLDER, what another program made of the clips of the one RUN that has any: a folder of PNG or JPEG frames for
            each clip, or, for one clip, of its frames. They are measured as the others were
        quality: of the page's pictures, 1 to 100, where they shall be small; without it nothing is lost
    """
    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.evaluate.page import add_method, check_output, open_run, write_page

    if not runs:
        raise UserError("There is nothing to report; name one folder or more.")
    if quality is not None and not 1 <= quality <= 100:
        raise UserError(f"--quality is {quality}; give 1 to 100, or leave it out.")
    added = [_named(text) for text in add]
    check_output(output, [*runs, *(folder for _, folder in added)])
    opened = [open_run(folder) for folder in runs]
    with_clips = [each for each in opened if each.clips]
    if added and len(with_clips) != 1:
        raise UserError(f"--add needs one RUN with clips, and {len(with_clips)} of those given have any; make a report of one.")
    for label, folder in added:
        add_method(with_clips[0], label, folder)
    with bar("writing frames") as report:
        write_page(opened, output, quality, report)
    print(f"The report is {output / 'index.html'}; it opens from disk.")


def _named(text: str) -> tuple[str, Path]:
    from chopgrad_ns.errors import UserError

    label, _, folder = text.partition("=")
    if not label or not folder or not Path(folder).is_dir():
        raise UserError(f"--add does not understand {text!r}; give NAME=FOLDER with a folder that is there.")
    return label, Path(folder)
