"""Masks for inpainting: 1 (white) is to be filled, 0 is kept.

Drawn ones (`draw_masks`) are rectangles and free-form strokes (after Yu et al. 2019, "Free-Form Image Inpainting with
Gated Convolution") that move with time; object masks come from files as DAVIS stores them, or from actor
ids.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from chopgrad_ns.data.pictures import open_picture
from chopgrad_ns.data.plain_videos import Video, framed
from chopgrad_ns.data.video import frame_files
from chopgrad_ns.errors import UserError

Shape = Callable[[ImageDraw.ImageDraw, float, float], None]
"""Draws itself at a time of 0…1 (start to end of the clip) and a size, in a picture of any resolution."""

_TRIES = 50
_SMALL = 128  # longest side at which sizes are searched for


@dataclass(frozen=True)
class MaskSettings:
    """What `draw_masks` draws.

    `kind`: `central` (the middle half by half, as in the paper), `box` (rectangles that stand still), `moving-box`
    (rectangles that move smoothly and may leave the frame), `brush` (strokes that sway a little). `area`: the mean
    share of the frame over the clip is at least the first, and the share in every frame at most the second. `count`:
    how many rectangles or strokes, from and to. `central` has neither.
    """

    kind: Literal["central", "box", "moving-box", "brush"] = "brush"
    area: tuple[float, float] = (0.05, 0.3)
    count: tuple[int, int] = (1, 4)

    def __post_init__(self) -> None:
        if self.kind not in ("central", "box", "moving-box", "brush"):
            raise UserError(f"There are no masks of kind {self.kind!r}; choose central, box, moving-box or brush.")
        if not 0 < self.area[0] < self.area[1] <= 1:
            raise UserError(f"The share of the frame to fill is {self.area[0]:g} … {self.area[1]:g}; give two numbers "
                            "between 0 and 1, the lower first.")
        if not 1 <= self.count[0] <= self.count[1]:
            raise UserError(f"The number of shapes is {self.count[0]} … {self.count[1]}; give two numbers from 1 on, "
                            "the lower first.")


def draw_masks(settings: MaskSettings, frames: int, height: int, width: int,
               seed: int) -> tuple[Float[Tensor, "t 1 h w"], dict]:
    """Masks of 0 and 1, and what was drawn (fit for JSON; `area` is the mean share, `most` the largest of a frame).

    Raises UserError where shapes of such shares do not fit the frame.
    """
    rng = np.random.default_rng(seed)
    if settings.kind == "central":
        masks = np.zeros((frames, height, width), bool)
        masks[:, height // 4:height // 4 + height // 2, width // 4:width // 4 + width // 2] = True
        count = 1
    else:
        masks, count = _draw_within(rng, settings, frames, height, width)
    shares = masks.mean(axis=(1, 2))
    drawn = {"kind": settings.kind, "seed": seed, "count": count, "area": float(shares.mean()),
             "most": float(shares.max())}
    return torch.from_numpy(masks)[:, None].float(), drawn


def _draw_within(rng: np.random.Generator, settings: MaskSettings, frames: int, height: int,
                 width: int) -> tuple[Bool[np.ndarray, "t h w"], int]:
    """Draw shapes, make them as large as a share drawn from the range, and start over where that does not work out."""
    draw = {"box": _still_box, "moving-box": _moving_box, "brush": _stroke}[settings.kind]
    small = [max(1, round(side * min(1, _SMALL / max(height, width)))) for side in (height, width)]
    for _ in range(_TRIES):
        count = int(rng.integers(settings.count[0], settings.count[1] + 1))
        shapes = [draw(rng, count, frames) for _ in range(count)]
        wanted, low, high = rng.uniform(*settings.area), 0.0, 4.0
        for _ in range(10):
            middle = (low + high) / 2
            most = _raster(shapes, middle, min(frames, 12), *small).mean(axis=(1, 2)).max()
            low, high = (middle, high) if most < wanted else (low, middle)
        masks = _raster(shapes, low, frames, height, width)
        shares = masks.mean(axis=(1, 2))
        if shares.mean() >= settings.area[0] and shares.max() <= settings.area[1]:
            return masks, count
    raise UserError(f"No {settings.kind} masks cover {settings.area[0]:g} … {settings.area[1]:g} of {width}×{height} "
                    "px; widen the range or change the number of shapes.")


def _raster(shapes: list[Shape], size: float, frames: int, height: int, width: int) -> Bool[np.ndarray, "t h w"]:
    masks = np.empty((frames, height, width), bool)
    for number, time in enumerate(np.linspace(0, 1, frames) if frames > 1 else [0.5]):
        picture = Image.new("1", (width, height))
        pen = ImageDraw.Draw(picture)
        for shape in shapes:
            shape(pen, float(time), size)
        masks[number] = np.asarray(picture)
    return masks


def _rectangle(pen: ImageDraw.ImageDraw, x: float, y: float, wide: float, high: float) -> None:
    """A box by its centre and sides in parts of the frame, if any of it is inside."""
    width, height = pen.im.size
    left, top = round((x - wide / 2) * width), round((y - high / 2) * height)
    right, bottom = max(left + 1, round((x + wide / 2) * width)), max(top + 1, round((y + high / 2) * height))
    pen.rectangle((left, top, right - 1, bottom - 1), fill=1)


def _box_sides(rng: np.random.Generator, count: int) -> Callable[[float], tuple[float, float]]:
    """Sides in parts of the frame as a function of the size, which is the area of all boxes together."""
    share, stretch = rng.uniform(0.5, 1.5) / count, math.exp(rng.uniform(-math.log(2), math.log(2)))

    def sides(size: float) -> tuple[float, float]:
        area = min(1.0, share * size)
        wide = min(1.0, max(area, math.sqrt(area * stretch)))
        return wide, area / wide if area else 0.0

    return sides


def _still_box(rng: np.random.Generator, count: int, frames: int) -> Shape:
    u, v = rng.random(2)
    sides = _box_sides(rng, count)

    def box(pen: ImageDraw.ImageDraw, time: float, size: float) -> None:
        wide, high = sides(size)
        _rectangle(pen, wide / 2 + u * (1 - wide), high / 2 + v * (1 - high), wide, high)

    return box


def _sway(rng: np.random.Generator, reach: float) -> Callable[[float], float]:
    """A smooth course about 0: a drift and a slow wave, at most `reach` away."""
    drift, wave, phase = rng.uniform(-1, 1), rng.uniform(0, 0.3), rng.uniform(0, 2 * math.pi)
    drift *= 1 - wave
    return lambda time: reach * (drift * (2 * time - 1) + wave * math.sin(2 * math.pi * time + phase))


def _moving_box(rng: np.random.Generator, count: int, frames: int) -> Shape:
    x, y = rng.uniform(0.1, 0.9, 2)  # in the middle of the clip
    reach = min(0.7, 0.02 * frames)  # of the frame, to either side: short clips shall not see it jump
    across, down, grow = _sway(rng, reach), _sway(rng, reach), _sway(rng, 0.2)
    sides = _box_sides(rng, count)

    def box(pen: ImageDraw.ImageDraw, time: float, size: float) -> None:
        wide, high = sides(size * (1 + grow(time)))
        _rectangle(pen, x + across(time), y + down(time), wide, high)

    return box


def _stroke(rng: np.random.Generator, count: int, frames: int) -> Shape:
    """A chain of thick segments that turns back and forth, all lengths in parts of the shorter side."""
    corners = int(rng.integers(4, 13))
    turns = rng.uniform(0, 2 * math.pi / 5, corners) * np.where(np.arange(corners) % 2, 1, -1)
    headings = rng.uniform(0, 2 * math.pi) + np.cumsum(turns + rng.normal(0, 0.4, corners))
    steps = rng.uniform(0.08, 0.35, corners)[:, None] * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    chain = np.cumsum(np.concatenate([np.zeros((1, 2)), steps]), axis=0)
    chain -= chain.mean(axis=0)
    place = rng.uniform(0.15, 0.85, 2)
    thick = rng.uniform(0.5, 1.5)
    across, down, turn = _sway(rng, min(0.08, 0.008 * frames)), _sway(rng, min(0.08, 0.008 * frames)), _sway(rng, 0.15)

    def stroke(pen: ImageDraw.ImageDraw, time: float, size: float) -> None:
        width, height = pen.im.size
        side, angle = min(width, height), turn(time)
        turned = chain @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        points = turned * side + (place + [across(time), down(time)]) * [width, height]
        line = max(1, round(0.25 * thick * size * side))
        pen.line([tuple(point) for point in points], fill=1, width=line)
        for x, y in points:
            pen.ellipse((x - line / 2, y - line / 2, x + line / 2, y + line / 2), fill=1)

    return stroke


class ObjectMasks:
    """Masks of a video's objects from a folder of PNG files, one a frame, in which 0 is the background.

    8-bit grey or palette files hold object numbers, as DAVIS stores them; in colour files whatever is not black is the
    object. Files go with frames by name, else by the number their name ends with, else, if they are numbered in a row,
    by order. `ids` picks objects, none for all. Masks are grown by `dilation` px (a disc), because objects have soft
    edges and shadows. Raises UserError where files are missing, left over, or of another size.
    """

    def __init__(self, folder: Path, video: Video, ids: Sequence[int] = (), dilation: int = 0) -> None:
        self.folder, self.ids, self.dilation = Path(folder), tuple(ids), dilation
        self._files = _match(self.folder, video)
        for file in self._files:
            self._check(file, video)

    def _check(self, file: Path, video: Video) -> None:
        with open_picture(file, f"mask {file}", "write it again as PNG") as picture:
            size, colored = picture.size, len(picture.getbands()) > 1
        if size != (video.width, video.height):
            raise UserError(f"The mask {file} is {size[0]}×{size[1]} px and the frames of {video.path} are "
                            f"{video.width}×{video.height}; make masks of the frames' size.")
        if colored and self.ids:
            raise UserError(f"The mask {file} is in colour and has no object numbers; give 8-bit masks or choose no "
                            "objects.")

    def read(self, first: int = 0, count: int | None = None, longest_side: int | None = None,
             multiple: int = 1) -> Float[Tensor, "t 1 h w"]:
        """Masks of 0 and 1 for the frames that `Video.read` gives for the same arguments.

        A pixel made from several is to be filled if any of them is.
        """
        count = len(self._files) - first if count is None else count
        masks = []
        for file in self._files[first:first + count]:
            chosen = Image.fromarray(self._chosen(file).astype(np.float32))
            masks.append(np.asarray(framed(chosen, longest_side, multiple, Image.Resampling.BOX)) > 0)
        return dilated(torch.from_numpy(np.stack(masks))[:, None].float(), self.dilation)

    def _chosen(self, file: Path) -> Bool[np.ndarray, "h w"]:
        with open_picture(file, f"mask {file}", "write it again as PNG") as picture:
            if len(picture.getbands()) > 1:
                return np.asarray(picture.convert("RGB")).any(axis=2)
            values = np.asarray(picture)  # of palette files the numbers, not the colours
        return np.isin(values, self.ids) if self.ids else values != 0


def _match(folder: Path, video: Video) -> list[Path]:
    files = [path for path in frame_files(folder) if path.suffix.lower() == ".png"]
    if not files:
        raise UserError(f"There are no PNG masks in {folder}; give a folder with one for each frame of {video.path}.")
    if len(files) != video.frames:
        raise UserError(f"There are {len(files)} masks in {folder} for the {video.frames} frames of {video.path}; give "
                        "one for each frame.")
    by_name = {file.stem: file for file in files}
    if all(name in by_name for name in video.frame_names):
        return [by_name[name] for name in video.frame_names]
    numbers, wanted = [_number(file.stem) for file in files], [_number(name) for name in video.frame_names]
    by_number = dict(zip(numbers, files, strict=True))
    if len(by_number) == len(files) and None not in by_number:
        if all(number in by_number for number in wanted):
            return [by_number[number] for number in wanted]
        if max(numbers) - min(numbers) == len(files) - 1:
            return [by_number[number] for number in sorted(numbers)]
    missing = next(name for name in video.frame_names if name not in by_name)
    raise UserError(f"No mask in {folder} goes with frame {missing} of {video.path}; name masks like their frames.")


def _number(name: str) -> int | None:
    found = re.findall(r"\d+", name)
    return int(found[-1]) if found else None


def actor_masks(actor_ids: UInt8[Tensor, "t 1 h w"], ids: Sequence[int] = (),
                dilation: int = 0) -> Float[Tensor, "t 1 h w"]:
    """Masks of 0 and 1 where actors are: those in `ids`, none for all; grown by `dilation` px."""
    chosen = torch.isin(actor_ids, torch.tensor(ids, dtype=actor_ids.dtype, device=actor_ids.device)) if len(ids) else (
        actor_ids != 0)
    return dilated(chosen.float(), dilation)


def dilated(masks: Float[Tensor, "t 1 h w"], radius: int) -> Float[Tensor, "t 1 h w"]:
    """Masks grown by a disc: 1 wherever a pixel of the mask is at most `radius` px away."""
    if radius <= 0:
        return masks
    grown = [distance_transform_edt(frame == 0) <= radius if frame.any() else frame > 0
             for frame in masks[:, 0].cpu().numpy()]
    return torch.from_numpy(np.stack(grown))[:, None].to(masks)
