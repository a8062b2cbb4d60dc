"""Frames as video files and as folders of pictures."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from chopgrad_ns.errors import UserError


def _bytes(frames: Float[Tensor, "t 3 h w"]) -> np.ndarray:
    return (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@contextlib.contextmanager
def video_writer(path: Path, fps: float) -> Iterator[Callable[[Float[Tensor, "3 h w"]], None]]:
    """Yield a function that adds a frame in 0…1 to an H.264 file that every player knows.

    Odd sizes gain a repeated edge. The file is there when all is written, not before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part.mp4")

    def add(frame: Float[Tensor, "3 h w"]) -> None:
        height, width = frame.shape[-2:]
        padded = torch.nn.functional.pad(frame[None], (0, width % 2, 0, height % 2), mode="replicate")
        writer.append_data(_bytes(padded)[0])

    try:
        with imageio.get_writer(temporary, fps=fps, codec="libx264", quality=8, macro_block_size=2) as writer:
            yield add
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_video(path: Path, frames: Float[Tensor, "t 3 h w"], fps: float) -> None:
    """Write frames in 0…1 with `video_writer`."""
    with video_writer(path, fps) as add:
        for frame in frames:
            add(frame)


def side_by_side(*clips: Float[Tensor, "t 3 h w"], gap: int = 4) -> Float[Tensor, "t 3 h w_all"]:
    """Clips of one length and height next to each other, with a white line between them."""
    line = clips[0].new_ones(len(clips[0]), 3, clips[0].shape[-2], gap)
    parts = [part for clip in clips for part in (line, clip)][1:]
    return torch.cat(parts, dim=-1)


def frame_writer(folder: Path) -> Callable[[Float[Tensor, "3 h w"]], None]:
    """A function that writes the frames it is given, in 0…1, as `00000.png`, `00001.png`, …"""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = itertools.count()

    def add(frame: Float[Tensor, "3 h w"]) -> None:
        Image.fromarray(_bytes(frame[None])[0]).save(folder / f"{next(numbers):05d}.png")

    return add


def write_frames(folder: Path, frames: Float[Tensor, "t 3 h w"]) -> None:
    """Write frames in 0…1 with `frame_writer`."""
    add = frame_writer(folder)
    for frame in frames:
        add(frame)


def read_frames(folder: Path) -> tuple[list[str], Float[Tensor, "t 3 h w"]]:
    """Names (without suffix) and frames of a folder, by name. Raises UserError where they cannot be one
    clip.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not files:
        raise UserError(f"There are no PNG or JPEG frames in {folder}; give a folder of frames.")
    pictures = []
    for path in files:
        try:
            with Image.open(path) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
        except OSError as error:
            raise UserError(f"The frame {path} cannot be read; write it again as PNG or JPEG.") from error
        if pictures[-1].shape != pictures[0].shape:
            (h, w), (h0, w0) = pictures[-1].shape[:2], pictures[0].shape[:2]
            raise UserError(f"The frame {path} is {w}×{h} px, the first one {w0}×{h0}; make all frames of "
                            "one size.")
    frames = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return [path.stem for path in files], frames
