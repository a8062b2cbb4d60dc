"""Plain videos: a file or a folder of frames, with random access that is exact to the frame.

Files are read with PyAV (FFmpeg). When a file is opened its packets are listed, which reads it once but decodes only
the first frame; the sorted presentation times are the frame numbers, so variable frame rates and B-frames need no
special care. A read then seeks to the key frame before and decodes from there.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from chopgrad_ns.data.pictures import open_picture
from chopgrad_ns.data.pixel_formats import converter
from chopgrad_ns.data.video import check_size, frame_files, read_frame
from chopgrad_ns.errors import UserError

SUFFIXES = frozenset((".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
                      ".ogv", ".ts", ".webm", ".wmv", ".y4m"))
"""What `find_videos` takes for a video file in a folder; `open_video` tries any file."""

Picture = UInt8[np.ndarray, "h w 3"]


class Video(ABC):
    """A video with random access. Nothing stays open between reads, so it may be pickled and shared by threads.

    `frames` is their number, `height` and `width` the size in px as shown (rotation applied, pixels taken as square),
    `fps` the mean frame rate, None where unknown (folders), `name` the file's name without suffix or the folder's,
    and `frame_names` one name a frame: those of the pictures, or numbers from `00000` on.
    """

    path: Path
    name: str
    frames: int
    height: int
    width: int
    fps: float | None
    frame_names: list[str]

    def pictures(self, first: int = 0, count: int | None = None) -> Iterator[Picture]:
        """Frames first … first + count − 1 (by default to the end) as RGB, one at a time.

        Raises IndexError outside the video and UserError, naming file and frame, where it is damaged.
        """
        count = self.frames - first if count is None else count
        if first < 0 or count < 1 or first + count > self.frames:
            raise IndexError(f"frames {first}…{first + count - 1} are not in {self.path}, which has {self.frames}")
        return self._pictures(first, count)

    def read(self, first: int = 0, count: int | None = None, longest_side: int | None = None,
             multiple: int = 1) -> Float[Tensor, "t 3 h w"]:
        """Frames in 0…1, exact in 8 bit, made smaller as `framed` does. Errors as `pictures`."""
        pictures = [np.asarray(framed(Image.fromarray(picture), longest_side, multiple))
                    for picture in self.pictures(first, count)]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255

    @abstractmethod
    def _pictures(self, first: int, count: int) -> Iterator[Picture]:
        ...


def open_video(path: Path) -> Video:
    """Open a video file or a folder of PNG or JPEG frames, ordered by name.

    Raises UserError where it is neither, has no frames, or ends before it should.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"There is no video at {path}; give a video file or a folder of PNG or JPEG frames.")
    return _FolderVideo(path) if path.is_dir() else _FileVideo(path)


def find_videos(paths: Iterable[Path]) -> list[Path]:
    """Files and folders of frames that are one video each, in order: folders of videos are looked through.

    A folder with video files holds videos, and pictures in it are covers or previews; a folder without them that has
    PNG or JPEG files is one video. Names that start with a dot are left out. Raises UserError for a path that gives
    none.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        here = _videos_below(path) if path.is_dir() else [path]
        if not here or not path.exists():
            raise UserError(f"There is no video at {path}; give video files, folders of PNG or JPEG frames, or folders "
                            "of these.")
        found |= dict.fromkeys(here)
    return list(found)


def _videos_below(folder: Path) -> list[Path]:
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = [Path(here, name) for name in sorted(files) if not name.startswith(".")]
        videos = [path for path in shown if path.suffix.lower() in SUFFIXES]
        found += videos or ([Path(here)] if frame_files(Path(here)) else [])
    return found


def framed_size(height: int, width: int, longest_side: int | None = None, multiple: int = 1) -> tuple[int, int]:
    """Height and width that `framed` gives."""
    height, width = _resized(height, width, longest_side)
    if min(height, width) < multiple:
        raise UserError(f"Frames of {width}×{height} px cannot be cut to multiples of {multiple}; ask for a larger "
                        "longest side.")
    return height - height % multiple, width - width % multiple


def framed(picture: Image.Image, longest_side: int | None = None, multiple: int = 1,
           resample: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """Make the longest side at most `longest_side` px, by antialiased bicubic, then cut the middle to multiples.

    Smaller pictures are not enlarged; cutting takes less than `multiple` px off a side and distorts nothing.
    """
    high, wide = _resized(picture.height, picture.width, longest_side)
    height, width = framed_size(picture.height, picture.width, longest_side, multiple)
    if (wide, high) != picture.size:
        picture = picture.resize((wide, high), resample)
    top, left = (high - height) // 2, (wide - width) // 2
    return picture if picture.size == (width, height) else picture.crop((left, top, left + width, top + height))


def _resized(height: int, width: int, longest_side: int | None) -> tuple[int, int]:
    if longest_side is None or max(height, width) <= longest_side:
        return height, width
    factor = longest_side / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


class _FolderVideo(Video):
    def __init__(self, path: Path) -> None:
        self.path, self.name, self.fps = path, path.resolve().name, None
        self._files = frame_files(path)
        if not self._files:
            raise UserError(f"There are no PNG or JPEG frames in {path}; give a folder of frames or a video file.")
        sizes = [self._size(file) for file in self._files]
        for file, size in zip(self._files, sizes, strict=True):
            check_size(file, size, sizes[0])
        (self.height, self.width), self.frames = sizes[0], len(sizes)
        self.frame_names = [file.stem for file in self._files]

    @staticmethod
    def _size(file: Path) -> tuple[int, int]:
        with open_picture(file, f"frame {file}", "write it again as PNG or JPEG") as picture:
            return picture.height, picture.width

    def _pictures(self, first: int, count: int) -> Iterator[Picture]:
        return map(read_frame, self._files[first:first + count])


class _Damaged(UserError):
    """A frame could not be decoded from the key frame that was tried."""


class _Listed(NamedTuple):
    """What is kept of a packet, which itself holds its bytes."""

    pts: int | None
    dts: int | None
    size: int
    is_keyframe: bool
    is_shown: bool


class _FileVideo(Video):
    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        try:
            with self._open() as (container, stream):
                self._list_packets(container, stream)
                self.fps = float(stream.average_rate) if stream.average_rate else None
            picture = self._first_picture()
        except av.FFmpegError as error:
            raise UserError(f"{path} cannot be read as a video ({error.strerror}); give a video file or a folder of "
                            "PNG or JPEG frames.") from error
        self.height, self.width = picture.shape[:2]
        self.frames = len(self._times)
        self.frame_names = [f"{number:05d}" for number in range(self.frames)]

    @contextmanager
    def _open(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        with av.open(str(self.path), metadata_errors="replace") as container:
            streams = [stream for stream in container.streams.video
                       if not stream.disposition & av.stream.Disposition.attached_pic]
            # FFmpeg also opens single pictures, as "image2" and "…_pipe"
            if not streams or container.format.name.endswith("_pipe") or container.format.name == "image2":
                raise UserError(f"{self.path} is not a video; give a video file or a folder of PNG or JPEG frames.")
            if streams[0].codec_context is None:
                raise UserError(f"{self.path} is in a format that is not known here; convert it to H.264.")
            yield container, streams[0]

    def _list_packets(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        every = [_Listed(packet.pts, packet.dts, packet.size, packet.is_keyframe, _is_shown(packet, stream))
                 for packet in container.demux(stream) if packet.size]
        if "mov" in container.format.name and len(every) < stream.frames:
            raise UserError(f"{self.path} ends after {len(every)} of its {stream.frames} frames; copy it again or cut "
                            "it there.")
        shown = [packet for packet in every if packet.is_shown]
        self._times = sorted(packet.pts for packet in shown if packet.pts is not None)
        keys = [packet for packet in shown if packet.is_keyframe and packet.pts is not None]
        self._keys = sorted(((packet.pts, packet.dts) for packet in keys), key=lambda key: key[0])
        self._key_sizes = {packet.pts: packet.size for packet in keys}
        self._by_time = len(set(self._times)) == len(shown)

    def _first_picture(self) -> Picture:
        with self._open() as (container, stream):
            frame = next(container.decode(stream), None)
            if frame is None:
                raise UserError(f"There are no frames in {self.path}; give another video.")
            self._by_time &= frame.pts == self._times[0] if self._times else False
        if not self._by_time:
            # Without a time for every frame (old AVI), frames are counted from the start; slow, but exact
            with self._open() as (container, stream):
                self._times = list(range(sum(1 for _ in container.decode(stream))))
            self._keys = []
        return _upright(converter("rgb24")(frame), frame)

    def _pictures(self, first: int, count: int) -> Iterator[Picture]:
        problem = None
        for start in self._starts(first):
            run = self._run(start, first, count)
            try:
                picture = next(run)
            except _Damaged as error:
                problem = problem or error
                continue
            yield picture
            yield from run
            return
        raise problem

    def _starts(self, first: int) -> list[int | None]:
        """Times to seek to, best first. Some formats find times of presentation, others those of decoding, and what is
        marked as a key frame may still lean on frames before it; the last resort is the beginning (None).
        """
        before = bisect_right(self._keys, self._times[first], key=lambda key: key[0])
        return [time for key in reversed(self._keys[max(0, before - 2):before]) for time in key
                if time is not None] + [None]

    def _run(self, start: int | None, first: int, count: int) -> Iterator[Picture]:
        number = first
        with self._open() as (container, stream):
            rgb = converter("rgb24")
            if start is not None:
                container.seek(start, stream=stream)
            try:
                for time, frame in self._decode(container, stream, start is not None):
                    # Later frames are predicted from a damaged one, so it spoils them up to the next key frame
                    if time > self._times[number] or frame.is_corrupt:
                        break
                    if time == self._times[number]:
                        picture = _upright(rgb(frame), frame)
                        self._check_size(picture, number)
                        yield picture
                        number += 1
                        if number == first + count:
                            return
            except av.FFmpegError as error:
                raise self._damaged(number) from error
        raise self._damaged(number)

    def _decode(self, container: av.container.InputContainer, stream: av.VideoStream,
                sought: bool) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their times (their order, where frames are counted).

        After a seek some formats start between key frames, and some codecs show frames from before the key frame
        without what these were predicted from: both are left out. Others (MPEG program streams) get the times wrong,
        which a key frame tells that is not the one listed for its time: then there are no frames.
        """
        order, key = 0, None
        for packet in container.demux(stream):
            if key is None and sought:
                if not packet.is_keyframe or packet.pts is None:
                    continue
                key = packet.pts
                if self._key_sizes.get(key) != packet.size:
                    return
            for frame in packet.decode():
                time, order = frame.pts if self._by_time else order, order + 1
                if time is not None and (key is None or time >= key):
                    yield time, frame

    def _check_size(self, picture: Picture, number: int) -> None:
        if picture.shape[:2] != (self.height, self.width):
            height, width = picture.shape[:2]
            raise UserError(f"Frame {number} of {self.path} is {width}×{height} px, the first one "
                            f"{self.width}×{self.height}; cut the video there.")

    def _damaged(self, number: int) -> _Damaged:
        return _Damaged(f"{self.path} is damaged at or shortly before frame {number} of {self.frames}; leave these "
                        "frames out or get a whole copy.")


def _upright(rgb: av.VideoFrame, frame: av.VideoFrame) -> Picture:
    """The picture turned as the file says: `rotation` is in degrees, counter-clockwise."""
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), round(frame.rotation / 90)))


def _is_shown(packet: av.Packet, stream: av.VideoStream) -> bool:
    """Not what an edit list leaves out; and VP8 has packets of frames that are only referred to (RFC 6386, section 9.1:
    the show_frame bit).
    """
    if packet.is_discard:
        return False
    return stream.codec_context.name not in ("vp8", "libvpx") or bool(memoryview(packet)[0] >> 4 & 1)
