"""Sample worlds dressed in photographs: true geometry with the colours and textures of real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from chopgrad_ns.data.video import frame_files, read_frame
from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.textures import SIZE, Picture
from chopgrad_ns.sim.world import World

SHARE = 0.7
"""Of the surfaces that photographs may go on."""
SMALLEST = 64
"""Pixels of a photograph's shorter side."""
PLAIN = ("chrome", "glass", "coat", "water", "rubber", "dark", "clouds")
"""Materials of the palette that stay as they are: they are known by how they shine, or as the sky."""


def dress(world: World, folder: Path, seed: int) -> None:
    """Put crops of the pictures in a folder on most surfaces of a world, in place; the same for the same seed.

    A crop is mirrored in both directions, so that it goes on without a seam where a surface repeats it.

    Raises:
        UserError: for a folder without pictures, and for pictures that are drawn and cannot be read or are too small.
    """
    files = sorted(frame_files(folder)) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder} holds no pictures to dress sample worlds in; give a folder of PNG or JPEG files.")
    rng = np.random.default_rng([seed, 2])
    plain = {getattr(world.palette, name) for name in PLAIN}
    for material in range(len(world.atlas.period)):
        if material not in plain and rng.random() < SHARE:
            world.atlas.dress(material, _crop(files[rng.integers(len(files))], rng))


def _crop(file: Path, rng: np.random.Generator) -> Picture:
    """A square of a third to all of a picture, mirrored."""
    height, width, _ = (pixels := read_frame(file)).shape
    if min(height, width) < SMALLEST:
        raise UserError(f"{file} has {width}×{height} pixels; give pictures of {SMALLEST} or more on either side.")
    side = int(rng.integers(max(SMALLEST, min(height, width) // 3), min(height, width) + 1))
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    part = Image.fromarray(pixels).resize((SIZE // 2, SIZE // 2), box=(left, top, left + side, top + side))
    return _mirrored(np.asarray(part, np.float32) / 255)


def _mirrored(quarter: Float[np.ndarray, "half half 3"]) -> Picture:
    """Four copies, each turned over, that tile the plane."""
    row = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    return np.concatenate([row, row[::-1]])
