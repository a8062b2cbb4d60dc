"""Frames as video files and as folders of pictures."""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from chopgrad_ns.data.pictures import open_picture
from chopgrad_ns.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg")
"""How the files of frames end, in small letters."""


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

    writer = imageio.get_writer(temporary, fps=fps, codec="libx264", quality=8, macro_block_size=2)
    try:
        try:
            yield add
        finally:
            writer.close()  # which `with` leaves out after an error; ffmpeg would go on, and bring the file back
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


def frame_files(folder: Path) -> list[Path]:
    """The PNG and JPEG files of a folder, by name; numbers in names count as numbers (frame 9 comes before frame 10).

    Names that start with a dot are left out: macOS writes `._00000.png` beside `00000.png` on foreign disks.
    """
    return sorted((path for path in Path(folder).glob("*")
                   if path.suffix.lower() in PICTURES and not path.name.startswith(".")), key=_natural)


def _natural(path: Path) -> tuple:
    # Every second part is digits, in every name, so that like is compared with like.
    parts = re.split(r"([0-9]+)", path.stem)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), path.name


def read_frame(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as RGB. Raises UserError where it cannot be read."""
    with open_picture(path, f"frame {path}", "write it again as PNG or JPEG") as picture:
        return np.asarray(picture.convert("RGB"))


def read_frames(folder: Path) -> tuple[list[str], Float[Tensor, "t 3 h w"]]:
    """Names (without suffix) and frames of a folder, by name. Raises UserError where they cannot be one
    clip.
    """
    files = frame_files(folder)
    if not files:
        raise UserError(f"There are no PNG or JPEG frames in {folder}; give a folder of frames.")
    pictures = []
    for path in files:
        pictures.append(read_frame(path))
        check_size(path, pictures[-1].shape[:2], pictures[0].shape[:2])
    frames = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return [path.stem for path in files], frames


def check_size(path: Path, size: tuple[int, int], first: tuple[int, int]) -> None:
    """Raise UserError where a frame's height and width are not those of the first frame."""
    if size != first:
        (h, w), (h0, w0) = size, first
        raise UserError(f"The frame {path} is {w}×{h} px, the first one {w0}×{h0}; make all frames of one size.")
