"""The options of `chopgrad refine`, in groups."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional, Tuple

from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.windows import Windows


@dataclass
class Given:
    """What a plain video comes with."""

    scale: Optional[float] = None
    """for super-resolution: how much larger the output is, 1 or more; may be a fraction"""
    size: Optional[str] = None
    """for super-resolution, instead: HEIGHTxWIDTH of the output, pixels"""
    masks: Optional[Path] = None
    """for inpainting, what is to be filled, and for driving, what was inserted: folder of PNG masks, one a frame, black
    outside (or object numbers), or a video of masks, white inside"""
    box: Optional[str] = None
    """instead: X,Y,WIDTH,HEIGHT of a box that is the same in all frames, pixels from the upper left corner"""
    photos: Optional[Path] = None
    """for artifact-removal: folder of photos of the same place, of one size"""


@dataclass
class Trajectory:
    """How a splat is looked at."""

    splat: Optional[Path] = None
    """PLY, compressed PLY or SPZ in the scene's coordinates"""
    ensemble: Tuple[Path, ...] = ()
    """more splats of the same photos, from other seeds (chopgrad reconstruct --seed): what is mended is what all of them
    show together, without most of what single ones got wrong"""
    every: int = 8
    """every N-th view is a training view, and may serve as a reference"""
    longest_side: int = 240
    """pixels"""
    frames: int = 48
    """length of the trajectory, any number: they are not held in memory"""
    beside: float = 0.0
    """how far it runs beside the training cameras, in spacings between neighbouring ones"""
    references: int = 4
    """training photos warped into each frame"""


@dataclass
class Passes:
    """How much is refined at once, where, and how exactly."""

    window: int = 49
    """frames; longer clips go through in windows that fade into one another"""
    overlap: int = 8
    """frames that neighbouring windows share at least"""
    tile: Optional[str] = None
    """HEIGHTxWIDTH of tiles that larger frames are cut into, pixels; whole frames if left out"""
    tile_overlap: Optional[int] = None
    """pixels that neighbouring tiles share at least; a quarter of a tile if left out"""
    device: Optional[Literal["cpu", "cuda"]] = None
    """cuda if there is one"""
    precision: Optional[Literal["bf16", "fp32"]] = None
    """of the computation; bf16 on cuda and fp32 on the CPU if left out"""

    def windows(self) -> Windows:
        tile = None if self.tile is None else parse_size(self.tile, "--tile")
        return Windows(self.window, self.overlap, tile, self.tile_overlap)


def parse_size(text: str, option: str) -> tuple[int, int]:
    """Height and width of "480x832". Raises UserError for anything else."""
    found = re.fullmatch(r"\s*(\d+)\s*[x×]\s*(\d+)\s*", text)
    if not found or min(map(int, found.groups())) < 1:
        raise UserError(f"{option} is {text!r}; give HEIGHTxWIDTH in pixels, such as 480x832.")
    return int(found[1]), int(found[2])


def parse_box(text: str) -> tuple[int, int, int, int]:
    """x, y, width and height of "10,20,64,48". Raises UserError for anything else."""
    if not re.fullmatch(r"\s*\d+(\s*,\s*\d+){3}\s*", text):
        raise UserError(f"--box is {text!r}; give X,Y,WIDTH,HEIGHT in pixels, such as 10,20,64,48.")
    x, y, width, height = map(int, text.split(","))
    return x, y, width, height
