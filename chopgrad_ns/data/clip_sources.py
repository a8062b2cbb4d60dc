"""Clips that are longer than memory: a run of their frames is read, or drawn, when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.data.masks import ObjectMasks
from chopgrad_ns.data.plain_videos import Video, open_video
from chopgrad_ns.data.render_clip import reference_photos, with_references
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.data.video import frame_files
from chopgrad_ns.data.views import Views
from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.render import render

ReadMasks = Callable[[slice], Float[Tensor, "t 1 h w"]]


@dataclass(frozen=True)
class LazyClip:
    """`length` frames; `read` gives a run of them. `fps` is None where unknown."""

    length: int
    fps: float | None
    read: Callable[[slice], Clip]


def video_clip(video: Video, masks: ReadMasks | None = None, photos: Float[Tensor, "p 3 h w"] | None = None) -> LazyClip:
    """A plain video, with masks of its size and photos of the same place, if any."""
    def read(frames: slice) -> Clip:
        shown = video.read(frames.start, frames.stop - frames.start)
        return Clip(shown, mask=None if masks is None else masks(frames), photos=photos)

    return LazyClip(video.frames, video.fps, read)


def splat_clip(splat: Gaussians | Sequence[Gaussians], cameras: Cameras, views: Views, references: int) -> LazyClip:
    """What `render_clip` gives, whose renders are drawn when they are read. Depth of photos is drawn here, once."""
    photos = reference_photos(splat, cameras, views, references) if references else None

    def read(frames: slice) -> Clip:
        part = cameras[frames]
        return with_references(render(splat, part), part, None if photos is None else photos[frames])

    return LazyClip(len(cameras), None, read)


def pair_clip(pair: StoredPair) -> LazyClip:
    """The degraded clip of a pair on disk."""
    return LazyClip(len(pair), None, lambda frames: pair.read(frames).degraded)


def read_masks(path: Path, video: Video) -> ReadMasks:
    """Masks for the frames of `video`: a folder of PNG files as `ObjectMasks` takes them, or a video or a folder of JPEG
    files, whose pixels over half brightness in any colour are inside.

    Raises UserError where they are not as many, or of another size.
    """
    path = Path(path)
    if path.is_dir() and any(file.suffix.lower() == ".png" for file in frame_files(path)):
        objects = ObjectMasks(path, video)
        return lambda frames: objects.read(frames.start, frames.stop - frames.start)
    if not path.exists():
        raise UserError(f"There are no masks at {path}; give a folder of PNG masks or a video of masks.")
    masks = open_video(path)
    if masks.frames != video.frames:
        raise UserError(f"There are {masks.frames} masks in {path} for the {video.frames} frames of {video.path}; give one for "
                        "each frame.")
    if (masks.height, masks.width) != (video.height, video.width):
        raise UserError(f"The masks in {path} are {masks.width}×{masks.height} px and the frames of {video.path} are "
                        f"{video.width}×{video.height}; make masks of the frames' size.")
    return lambda frames: (masks.read(frames.start, frames.stop - frames.start) > 0.5).any(dim=1, keepdim=True).float()


def box_mask(box: tuple[int, int, int, int], video: Video) -> ReadMasks:
    """The same box in every frame: x and y of its upper left corner, width and height in pixels.

    Raises UserError where it is empty or not within the frames.
    """
    x, y, width, height = box
    if min(x, y) < 0 or min(width, height) < 1 or x + width > video.width or y + height > video.height:
        raise UserError(f"The box of {width}×{height} px at ({x}, {y}) is not within the frames of {video.path}, which are "
                        f"{video.width}×{video.height} px; give x, y, width and height of one that is.")
    mask = torch.zeros(1, 1, video.height, video.width)
    mask[..., y:y + height, x:x + width] = 1
    return lambda frames: mask.expand(frames.stop - frames.start, -1, -1, -1)
