"""Make a sample world and write it as a nerfstudio scene with known depth.

Example: chopgrad sample room worlds/room-3 --seed 3
"""

from pathlib import Path
from typing import Annotated, Literal

import tyro


def run(kind: Annotated[Literal["room", "courtyard", "objects"], tyro.conf.Positional],
        output: Annotated[Path, tyro.conf.Positional], seed: int = 0, frames: int = 40, width: int = 192,
        height: int = 128) -> None:
    """Make a sample world.

    Args:
        kind: what to build
        output: folder to write; must not exist or be empty
        seed: each seed differs in layout, materials and light
        frames: photos along the trajectory
        width: pixels
        height: pixels
    """
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.sim.sample import make_world, write_scene

    if output.exists() and any(output.iterdir()):
        raise UserError(f"The folder {output} is not empty; name a new one.")
    write_scene(output, make_world(kind, seed), frames=frames, width=width, height=height)
    print(f"{frames} photos of {width}×{height} px in {output}; next: ns-train chopgrad-refine --data {output}")
