"""Shots: where a video cuts to another scene, and the clips that lie between the cuts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image

from chopgrad_ns.data.plain_videos import Video


def clip_spans(frames: int, length: int, stride: int | None = None, cuts: Sequence[int] = ()) -> list[slice]:
    """Clips of `length` frames, every `stride` frames (by default `length`, side by side), none across a cut.

    Each shot starts anew at its cut. What is left at the end of a shot and is shorter than `length` is left out.

    >>> clip_spans(10, 4)
    [slice(0, 4, None), slice(4, 8, None)]
    >>> clip_spans(10, 4, cuts=[3])
    [slice(3, 7, None)]
    """
    stride = length if stride is None else stride
    if length < 1 or stride < 1:
        raise ValueError(f"length {length} and stride {stride} must be at least 1")
    edges = [0, *sorted(cut for cut in set(cuts) if 0 < cut < frames), frames]
    return [slice(first, first + length) for start, end in zip(edges, edges[1:], strict=False)
            for first in range(start, end - length + 1, stride)]


def find_cuts(video: Video, least: float = 0.17, times: float = 3.0, window: int = 8) -> list[int]:
    """Numbers of the frames that start a new shot, by differences of small pictures and of their histograms.

    A cut is a change of at least `least` (0 for the same picture, 1 for nothing in common) that is also `times` the
    median change of the `window` frames on either side, so that fast camera motion is not taken for one. A flash may
    be cut at both its ends; dissolves and fades are not found. Decodes the whole video.
    """
    return cuts_in(frame_changes(video), least, times, window)


def frame_changes(video: Video) -> Float[np.ndarray, "t"]:
    """How much each frame differs from the one before, 0…1; 0 for the first.

    The mean of two measures: 1 − the overlap of colour histograms (8 bins a channel of 64-px pictures, which motion
    leaves alone) and twice the mean absolute difference of 16-px pictures (which tells shots of like colours apart),
    up to 1.
    """
    changes, before = [], None
    for picture in video.pictures():
        now = _summary(picture)
        changes.append(0.0 if before is None else _change(before, now))
        before = now
    return np.array(changes)


def cuts_in(changes: Float[np.ndarray, "t"], least: float, times: float, window: int) -> list[int]:
    """`find_cuts` for changes that are known."""
    cuts = []
    for number in np.flatnonzero(changes >= least):
        around = np.concatenate([changes[max(1, number - window):number], changes[number + 1:number + 1 + window]])
        if not len(around) or changes[number] >= times * np.median(around):
            cuts.append(int(number))
    return cuts


def _summary(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = Image.fromarray(picture)
    image.thumbnail((64, 64), Image.Resampling.BOX, reducing_gap=1.0)
    small = np.asarray(image)
    histograms = np.stack([np.histogram(small[..., channel], bins=8, range=(0, 256))[0] for channel in range(3)])
    tiny = np.asarray(image.resize((16, 16), Image.Resampling.BOX)).astype(np.float32) / 255
    return histograms / small[..., 0].size, tiny


def _change(before: tuple[np.ndarray, np.ndarray], now: tuple[np.ndarray, np.ndarray]) -> float:
    overlap = np.minimum(before[0], now[0]).sum(axis=1).mean()
    return float(0.5 * (1 - overlap) + 0.5 * min(1.0, 2 * np.abs(before[1] - now[1]).mean()))
