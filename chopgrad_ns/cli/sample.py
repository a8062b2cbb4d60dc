"""Make sample worlds and write them as nerfstudio scenes with known depth.

Example: chopgrad sample room worlds/room-3 --seed 3
Example: chopgrad sample all worlds --scenes 100 --workers 2
"""

from pathlib import Path
from typing import Annotated, Literal, Optional

import tyro

MOST_STOPS = 10
"""Of exposure; all is black or white beyond."""


def run(kind: Annotated[Literal["room", "courtyard", "objects", "street", "all"], tyro.conf.Positional],
        output: Annotated[Path, tyro.conf.Positional], seed: int = 0, frames: int = 40, width: int = 192,
        height: int = 128, exposure_change: Optional[float] = None, scenes: Optional[int] = None,
        workers: int = 1) -> None:
    """Make a sample world, or many.

    Args:
        kind: what to build; all takes the kinds in turn and needs --scenes
        output: folder to write; must not exist or be empty; with --scenes, folder of scenes, and finished ones are kept
        seed: each seed differs in layout, materials, light and exposure; the first one with --scenes
        frames: photos along the trajectory; a street has room for 83 to 200, by the speed that its seed draws, and with
            --scenes those that end too soon are named and left out
        width: pixels
        height: pixels
        exposure_change: stops by which single photos differ (standard deviation), 0 for none; by default the seed draws
            a drift, jumps or none
        scenes: write so many scenes into OUTPUT/KIND-SEED, as far as they are not there
        workers: processes that make scenes side by side, with --scenes
    """
    from chopgrad_ns.errors import UserError

    if kind == "all" and scenes is None:
        raise UserError(f"With the kind all, say how many scenes to make in {output}: --scenes N.")
    if scenes is not None and min(scenes, workers) < 1:
        raise UserError(f"--scenes is {scenes} and --workers {workers}; give 1 or more of each.")
    if seed < 0:
        raise UserError(f"--seed is {seed}; give 0 or more.")
    if exposure_change is not None and not 0 <= exposure_change <= MOST_STOPS:
        raise UserError(f"--exposure-change is {exposure_change}; give 0 to {MOST_STOPS} stops.")
    if scenes is not None:
        _many(output, kind, scenes, workers, seed, frames=frames, width=width, height=height,
              exposure_change=exposure_change)
        return
    from chopgrad_ns.sim.sample import check_free, make_world, write_scene

    check_free(output)  # before the world is built, which takes a while
    write_scene(output, make_world(kind, seed, exposure_change), frames=frames, width=width, height=height)
    print(f"{frames} photos of {width}×{height} px in {output}; next: ns-train chopgrad-refine --data {output}")


def _many(output: Path, kind: str, scenes: int, workers: int, seed: int, **settings) -> None:
    import sys

    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.errors import Incomplete
    from chopgrad_ns.sim.worlds import make_worlds, orders

    wanted, reasons = orders(kind, scenes, seed, **settings), {}

    def skip(order, reason) -> None:
        reasons[order.name] = reason
        if scenes > 1:
            print(f"chopgrad sample: {order.name} is left out: {reason}", file=sys.stderr)

    with bar("worlds") as report:
        made = make_worlds(output, wanted, workers, report, skip)
    there = [order.name for order in wanted if order.name not in reasons]
    if not there:
        raise next(iter(reasons.values()))
    print(f"{len(there)} scenes in {output}, {made} of them made now; "
          f"next: ns-train chopgrad-refine --data {output / there[0]}")
    if reasons:
        raise Incomplete(f"{len(reasons)} of {scenes} scenes were left out, since their streets end too soon; ask for fewer "
                         "--frames.")
