"""Many sample worlds in one go, by several processes; taken up again where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from chopgrad_ns.data.parallel import run_side_by_side
from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.sample import check_size, make_world, write_scene
from chopgrad_ns.sim.world import KINDS, RECIPE, Kind


@dataclass(frozen=True)
class Order:
    """One scene to make."""

    kind: Kind
    seed: int
    frames: int = 40
    width: int = 192
    height: int = 128
    exposure_change: float | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}"

    def made(self, folder: Path) -> bool:
        """Whether the scene is finished. Raises UserError where something else has its name."""
        if not folder.exists():
            return False
        try:
            found = json.loads((folder / "world.json").read_text())
            exposure = found["exposure"]
            there = [found[key] for key in ("kind", "seed", "frames", "width", "height", "recipe")]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder} is in the way and is no sample world; move it, or name another "
                            "folder.") from error
        same = there == [self.kind, self.seed, self.frames, self.width, self.height, RECIPE]
        wanted = None if self.exposure_change is None else {"kind": "scatter" if self.exposure_change else "constant",
                                                            "stops": self.exposure_change}
        if wanted is None:
            same &= exposure["kind"] != "scatter"
        else:
            same &= all(exposure[key] == value for key, value in wanted.items())
        if not same:
            raise UserError(f"{folder} was made with other settings ({there[2]} frames of {there[3]}×{there[4]} px, "
                            f"exposure {exposure['kind']}, recipe {there[5]}); name another folder.")
        return True


def orders(kind: Kind | Literal["all"], scenes: int, first_seed: int = 0, **settings) -> list[Order]:
    """`scenes` scenes with seeds from `first_seed` on; "all" takes the kinds in turn."""
    return [Order(KINDS[index % len(KINDS)] if kind == "all" else kind, first_seed + index, **settings)
            for index in range(scenes)]


def make_worlds(folder: Path, wanted: Sequence[Order], workers: int = 1,
                report: Callable[..., None] | None = None) -> int:
    """Write each scene into `folder`/KIND-SEED unless it is there, and return how many were made now.

    `workers` processes make a scene each at a time (with 1, this one does). A scene's folder appears when it is complete; killed
    at any moment, the same call makes those that are missing. `report(done, all, note)` is called after each. Raises
    UserError where other things have the scenes' names or sizes are too small, before anything is made, or where a
    scene cannot be written.
    """
    for order in wanted:
        check_size(folder / order.name, order.frames, order.width, order.height)
    missing = [order for order in wanted if not order.made(folder / order.name)]
    done = len(wanted) - len(missing)
    if not missing:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    for index, failure in run_side_by_side(partial(_make, folder), missing, workers):
        if failure is not None:
            raise failure
        done += 1
        if report is not None:
            report(done, len(wanted), lambda name=missing[index].name: name)
    return len(missing)


def _make(folder: Path, order: Order) -> None:
    world = make_world(order.kind, order.seed, order.exposure_change)
    try:
        write_scene(folder / order.name, world, order.frames, order.width, order.height)
    except OSError as error:
        raise UserError(f"A scene in {folder} cannot be written ({error}); make room, and give the command again.") from error
