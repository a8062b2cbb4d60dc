"""Clips of any length and size: windows in time and tiles in space, which fade into one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.errors import UserError

OnePass = Callable[[Clip], Float[Tensor, "t 3 h w"]]
"""Refines a clip that fits into memory; the frames have the clip's size and type, and may be its own."""


@dataclass(frozen=True)
class Windows:
    """How a clip is cut. Raises UserError for windows and tiles of which no more than half would be their own.

    `frames` is the length of a window at most, `overlap` what neighbours share at least. `tile` is height and width in
    pixels at most, None for whole frames, and `tile_overlap` what neighbours share at least, None for a quarter.
    """

    frames: int = 49
    overlap: int = 8
    tile: tuple[int, int] | None = None
    tile_overlap: int | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or not 0 <= 2 * self.overlap <= self.frames:
            raise UserError(f"Windows of {self.frames} frames cannot overlap by {self.overlap}; give windows of 1 frame or "
                            "more and an overlap of 0 to half of that.")
        if self.tile is None:
            return
        if min(self.tile) < 1 or not 0 <= 2 * (self.tile_overlap or 0) <= min(self.tile):
            overlap = "" if self.tile_overlap is None else f" cannot overlap by {self.tile_overlap} px"
            raise UserError(f"Tiles of {self.tile[0]}×{self.tile[1]} px (height×width){overlap or ' are too small'}; give "
                            "sides of 1 px or more and an overlap of 0 to half of the shorter one.")

    def in_time(self, length: int, frame_step: int) -> list[slice]:
        """The windows of a clip of `length` frames for a backbone that takes `frame_step`·k + 1 of them."""
        return runs(length, self.frames, self.overlap, frame_step, 1, "frames")

    def in_space(self, height: int, width: int, spatial_factor: int) -> tuple[list[slice], list[slice]]:
        """Rows and columns of tiles for a backbone that takes multiples of `spatial_factor` pixels."""
        if self.tile is None:
            return [slice(0, height)], [slice(0, width)]
        rows, columns = (
            runs(length, side, side // 4 if self.tile_overlap is None else self.tile_overlap, spatial_factor, 0, "px")
            for length, side in zip((height, width), self.tile))
        return rows, columns


def runs(length: int, longest: int, overlap: int, unit: int, extra: int, of_what: str) -> list[slice]:
    """Cover 0 … length − 1 by as few runs as will do, as short as that number allows, and evenly spread.

    A run starts at a multiple of `unit` and has a multiple of it, and `extra`, places; the last one ends where all ends.
    So whatever a pass over everything joins to a latent or a token, a pass over a run joins too. Neighbours share
    `overlap` places or a few more.

    >>> runs(69, 49, 8, 4, 1, "frames")
    [slice(0, 41, None), slice(28, 69, None)]

    Raises:
        UserError: where `longest` is too short for that; `of_what` names the places.
    """
    units, most, shared = -(-(length - extra) // unit), (longest - extra) // unit, max(0, -(-(overlap - extra) // unit))
    if units <= most:
        return [slice(0, length)]
    if most <= shared:
        raise UserError(f"{longest} {of_what} at a time with an overlap of {overlap} are too few, because {unit} go together "
                        f"here; give {(shared + 1) * unit + extra} or more.")
    count = -(-(units - shared) // (most - shared))
    each = -(-(units + (count - 1) * shared) // count)
    starts = [number * (units - each) // (count - 1) for number in range(count)]
    return [slice(start * unit, min((start + each) * unit + extra, length)) for start in starts]


def fade(parts: Sequence[slice], index: int) -> Float[Tensor, "n"]:
    """Weights of the places of a run: they rise where the run before ends and fall where the next one begins.

    At each place the weights of all runs sum to one. Two neighbours fade linearly over what they share, but never where
    the one after them has begun, so that no place has more than two weights.
    """
    weight = torch.ones(parts[index].stop - parts[index].start)
    if index > 0:
        count = _shared(parts, index - 1)
        weight[:count] = _ramp(count)
    if index + 1 < len(parts):
        first, count = parts[index + 1].start - parts[index].start, _shared(parts, index)
        weight[first:first + count] = 1 - _ramp(count)
        weight[first + count:] = 0
    return weight


def _shared(parts: Sequence[slice], index: int) -> int:
    """Over how many places a run fades into the next."""
    stop = parts[index].stop
    if index + 2 < len(parts):
        stop = min(stop, parts[index + 2].start)
    return max(0, stop - parts[index + 1].start)


def _ramp(count: int) -> Float[Tensor, "n"]:
    # Linear: of all that rise from 0 to 1, the one whose largest step is smallest.
    return torch.arange(1, count + 1) / (count + 1)


def crop(clip: Clip, rows: slice, columns: slice) -> Clip:
    """A part of every frame, and of all that goes with it; cameras see that part only, and photos stay whole."""
    cut = {name: getattr(clip, name)[..., rows, columns] for name in clip.carries - {"cameras", "photos"}}
    cameras = clip.cameras
    if cameras is not None:
        K = cameras.K.clone()
        K[:, :2, 2] -= K.new_tensor([columns.start, rows.start])
        width, height = cut["frames"].shape[:1:-1]
        cameras = replace(cameras, K=K, width=width, height=height)
    return replace(clip, cameras=cameras, **cut)


def refine_stream(one_pass: OnePass, read: Callable[[slice], Clip], length: int, windows: Windows, frame_step: int,
                  spatial_factor: int, progress: Callable[[int, int], None] | None = None
                  ) -> Iterator[Float[Tensor, "3 h w"]]:
    """Refined frames in order, each as soon as no later window touches it.

    Memory does not grow with `length`: beside what a pass takes there are a window's clip, the same refined, and what the
    window before shares with it.

    Args:
        read: gives a run of the clip's frames, at the size that is wanted of refined ones; called once a window, in order.
        frame_step, spatial_factor: the backbone's; a window has a multiple of the one, and one, frames, and a tile a multiple
            of the other, pixels.
        progress: called with the passes that are done and those that there are.

    Raises:
        UserError: at the first frame with values that are not finite, and for windows too small for the model.
    """
    parts, tail = windows.in_time(length, frame_step), None
    for index, part in enumerate(parts):
        report = None if progress is None else _counted(progress, index, len(parts))
        frames = _pass_in_tiles(one_pass, read, part, windows, spatial_factor, report)
        weight = fade(parts, index).to(frames).view(-1, 1, 1, 1)
        done = (parts[index + 1].start if index + 1 < len(parts) else part.stop) - part.start
        for number in range(done):
            begun = tail is not None and number < len(tail)
            # A copy: who keeps a frame shall not keep the window that it is part of.
            yield tail[number] + weight[number] * frames[number] if begun else frames[number].clone()
        count = _shared(parts, index) if index + 1 < len(parts) else 0
        tail = frames[done:done + count] * weight[done:done + count]
        del frames  # before the next window is read


def _counted(progress: Callable[[int, int], None], index: int, count: int) -> Callable[[int, int], None]:
    return lambda tile, tiles: progress(index * tiles + tile, count * tiles)


@torch.no_grad()
def _pass_in_tiles(one_pass: OnePass, read: Callable[[slice], Clip], part: slice, windows: Windows, spatial_factor: int,
                   report: Callable[[int, int], None] | None) -> Float[Tensor, "t 3 h w"]:
    """A window, refined; tile by tile, where there are any."""
    clip = read(part)
    _check_finite(clip, part.start)
    rows, columns = windows.in_space(*clip.frames.shape[-2:], spatial_factor)
    tiles = [(row, column) for row in range(len(rows)) for column in range(len(columns))]
    if report is not None and part.start == 0:
        report(0, len(tiles))
    refined = None if len(tiles) == 1 else torch.zeros_like(clip.frames)
    for number, (row, column) in enumerate(tiles, 1):
        if refined is None:
            refined = one_pass(clip)
        else:
            weight = fade(rows, row)[:, None] * fade(columns, column)
            refined[..., rows[row], columns[column]] += one_pass(crop(clip, rows[row], columns[column])) * weight.to(refined)
        if report is not None:
            report(number, len(tiles))
    return refined


def _check_finite(clip: Clip, first: int) -> None:
    for name in sorted(clip.carries - {"cameras"}):
        what, start = ("Photo", 0) if name == "photos" else ("Frame", first)
        for number, frame in enumerate(getattr(clip, name), start):  # one at a time, because `isfinite` makes copies
            if not frame.isfinite().all():
                raise UserError(f"{what} {number} of the clip has values in its {name} that are no finite numbers; leave it "
                                "out or make it again.")
