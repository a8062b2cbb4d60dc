"""Make sample worlds: nerfstudio scenes with known depth, and drives through streets in Waymo's layout with their truth.

Example: chopgrad sample room worlds/room-3 --seed 3
Example: chopgrad sample street drives/street-1 --seed 1
Example: chopgrad sample all worlds --scenes 100 --workers 2
"""

from pathlib import Path
from typing import Annotated, Literal, Optional, Tuple

import tyro

MOST_STOPS = 10
"""Of exposure; all is black or white beyond."""


def run(kind: Annotated[Literal["room", "courtyard", "objects", "street", "closeup", "all"], tyro.conf.Positional],
        output: Annotated[Path, tyro.conf.Positional], seed: int = 0, frames: int = 40, width: Optional[int] = None,
        height: Optional[int] = None, exposure_change: Optional[float] = None, scenes: Optional[int] = None,
        workers: int = 1, layout: Optional[Literal["nerfstudio", "waymo"]] = None,
        truth: Tuple[Literal["all", "none", "recorded", "lane_0", "lane_1", "lane_2", "lane_3", "inserted", "removed",
                             "moved"], ...] = ("all",)) -> None:
    """Make a sample world, or many.

    Args:
        kind: what to build; all takes the kinds in turn and needs --scenes
        output: folder to write; must not exist or be empty; with --scenes, folder of scenes, and finished ones are kept
        seed: each seed differs in layout, materials, light and exposure; the first one with --scenes
        frames: photos along the trajectory; a street has room for 83 to 200, by the speed that its seed draws, and with
            --scenes those that end too soon are named and left out
        width: pixels; 192, and 240 in Waymo's layout
        height: pixels; 128, and 160 in Waymo's layout
        exposure_change: stops by which single photos differ (standard deviation), 0 for none; by default the seed draws
            a drift, jumps or none, and in Waymo's layout there is none
        scenes: write so many scenes into OUTPUT/KIND-SEED, as far as they are not there
        workers: processes side by side, that make scenes, with --scenes, or a drive's true videos
        layout: of streets, waymo (the default): parquet files of three cameras with rolling shutter and two lidars, as
            recorded; or nerfstudio: one camera, with known depth, as all other kinds are
        truth: of drives: what else is written into OUTPUT/truth. Recorded: actors and depth in the photos; lane_N: video
            from N metres to the left; inserted, removed, moved: video with a vehicle changed
    """
    from chopgrad_ns.errors import UserError

    if kind == "all" and scenes is None:
        raise UserError(f"With the kind all, say how many scenes to make in {output}: --scenes N.")
    if min(1 if scenes is None else scenes, workers) < 1:
        raise UserError(f"--scenes is {scenes} and --workers {workers}; give 1 or more of each.")
    if seed < 0:
        raise UserError(f"--seed is {seed}; give 0 or more.")
    if exposure_change is not None and not 0 <= exposure_change <= MOST_STOPS:
        raise UserError(f"--exposure-change is {exposure_change}; give 0 to {MOST_STOPS} stops.")
    if layout == "waymo" and kind != "street":
        raise UserError(f"The layout waymo is one of drives, and {kind} is none; give the kind street.")
    drive = kind == "street" and layout != "nerfstudio"
    usual = (240, 160) if drive else (192, 128)
    settings = {"frames": frames, "width": usual[0] if width is None else width,
                "height": usual[1] if height is None else height}
    if drive:
        exposure_change = exposure_change or 0.0
    if scenes is not None:
        made_as = {"layout": "waymo", "truth": _truth(truth)} if drive else {}
        _many(output, kind, scenes, workers, seed, exposure_change=exposure_change, **settings, **made_as)
    elif drive:
        _drive(output, seed, exposure_change, settings, truth=_truth(truth), workers=workers)
    else:
        from chopgrad_ns.sim.sample import check_free, make_world, write_scene

        check_free(output)  # before the world is built, which takes a while
        write_scene(output, make_world(kind, seed, exposure_change), **settings)
        size = f"{settings['width']}×{settings['height']}"
        print(f"{frames} photos of {size} px in {output}; next: ns-train chopgrad-refine --data {output}")


def _truth(asked: Tuple[str, ...]) -> Tuple[str, ...]:
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.sim.drive_files import TRUTH

    if asked in (("all",), ("none",)):
        return TRUTH if asked == ("all",) else ()
    wrong = [name for name in asked if name not in TRUTH]
    if wrong or not asked:
        raise UserError(f"--truth {' '.join(asked)} is not to be had; give all, none, or some of {', '.join(TRUTH)}.")
    return tuple(name for name in TRUTH if name in asked)


def _drive(output: Path, seed: int, exposure_change: float, settings: dict, **made_as) -> None:
    from chopgrad_ns.cli.progress import bar
    from chopgrad_ns.sim.drive_files import write_drive
    from chopgrad_ns.sim.sample import check_free, make_world

    check_free(output)
    with bar("pictures") as report:
        write_drive(output, make_world("street", seed, exposure_change), report=report, **settings, **made_as)
    print(f"{settings['frames']} frames of 3 cameras, {settings['width']}×{settings['height']} px, and 2 lidars in {output}; "
          f"next: ns-train chopgrad-refine --data {output} waymo-v2")


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
    as_drive = " waymo-v2" if settings.get("layout") == "waymo" else ""
    print(f"{len(there)} scenes in {output}, {made} of them made now; "
          f"next: ns-train chopgrad-refine --data {output / there[0]}{as_drive}")
    if reasons:
        raise Incomplete(f"{len(reasons)} of {scenes} scenes were left out, since their streets end too soon; ask for fewer "
                         "--frames.")
