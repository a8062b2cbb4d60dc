"""Many sample worlds in one go, by several processes; taken up again where it was interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from chopgrad_ns.data.parallel import run_side_by_side
from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.drive_files import TrueName, write_drive
from chopgrad_ns.sim.sample import WayEnds, check_size, make_world, write_scene
from chopgrad_ns.sim.world import KINDS, RECIPE, Kind, exposure_of

Layout = Literal["nerfstudio", "waymo"]
"""Scenes of one camera, with known depth; or recordings of a drive, of streets only."""


@dataclass(frozen=True)
class Order:
    """One scene to make."""

    kind: Kind
    seed: int
    frames: int = 40
    width: int = 192
    height: int = 128
    exposure_change: float | None = None
    layout: Layout = "nerfstudio"
    truth: tuple[TrueName, ...] = ()
    """of drives, which are of the layout waymo"""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}"

    def made(self, folder: Path) -> bool:
        """Whether the scene is finished. Raises UserError where something else has its name."""
        if not os.path.exists(folder):  # where Path.exists raises, writing tells why
            return False
        try:
            inside = folder / "truth" if self.layout == "waymo" else folder
            found = json.loads((inside / "world.json").read_text())
            exposure, kind_of_exposure = found["exposure"], found["exposure"]["kind"]
            there = [found[key] for key in ("kind", "seed", "frames", "width", "height", "recipe")]
            truth = {*found["videos"], *(["recorded"] if found["recorded"] else [])} if self.layout == "waymo" else set()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder} is in the way and is no sample world; move it, or name another "
                            "folder.") from error
        if truth != set(self.truth):
            raise UserError(f"{folder} was made with other truth ({', '.join(sorted(truth)) or 'none'}); name another folder.")
        same = there == [self.kind, self.seed, self.frames, self.width, self.height, RECIPE]
        if not same or exposure != asdict(exposure_of(self.kind, self.seed, self.exposure_change)):
            raise UserError(f"{folder} was made with other settings ({there[2]} frames of {there[3]}×{there[4]} px, "
                            f"exposure {kind_of_exposure}, recipe {there[5]}); name another folder.")
        return True


def orders(kind: Kind | Literal["all"], scenes: int, first_seed: int = 0, **settings) -> list[Order]:
    """`scenes` scenes with seeds from `first_seed` on; "all" takes the kinds in turn."""
    return [Order(KINDS[index % len(KINDS)] if kind == "all" else kind, first_seed + index, **settings)
            for index in range(scenes)]


def make_worlds(folder: Path, wanted: Sequence[Order], workers: int = 1, report: Callable[..., None] | None = None,
                skipped: Callable[[Order, WayEnds], None] | None = None) -> int:
    """Write each scene into `folder`/KIND-SEED unless it is there, and return how many were made now.

    `workers` processes make a scene each at a time (with 1, this one does). A scene's folder appears when it is complete; killed
    at any moment, the same call makes those that are missing. `report(done, all, note)` is called after each, and
    `skipped(order, why)` for streets that end before so many frames.

    Raises:
        UserError: where other things have the scenes' names or sizes are too small, before anything is made, or where a
            scene cannot be written.
        WayEnds: where a street ends too soon and `skipped` is not given.
    """
    for order in wanted:
        check_size(folder / order.name, order.frames, order.width, order.height)
    missing = [order for order in wanted if not order.made(folder / order.name)]
    done = len(wanted) - len(missing)
    if not missing:
        return 0
    made = 0
    for index, failure in run_side_by_side(partial(_make, folder), missing, workers):
        if failure is None:
            made += 1
        elif isinstance(failure, WayEnds) and skipped is not None:
            skipped(missing[index], failure)
        else:
            raise failure
        done += 1
        if report is not None:
            report(done, len(wanted), lambda name=missing[index].name: name)
    return made


def _make(folder: Path, order: Order) -> None:
    world = make_world(order.kind, order.seed, order.exposure_change)
    if order.layout == "waymo":
        write_drive(folder / order.name, world, order.frames, order.width, order.height, order.truth)
    else:
        write_scene(folder / order.name, world, order.frames, order.width, order.height)
