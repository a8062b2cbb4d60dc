"""Lossless packing of arrays frame by frame: zstd over differences, so that any run of frames can be read alone.

Pictures and depth maps pack well as differences between neighbouring rows, and colours as differences from green; masks
and alpha pack best as they are. On sample worlds pictures shrink to two thirds, a little less well than as lossless WebP, and
come back more than twice as fast (`scripts/benchmark_pairs.py`).
"""

import math

import numpy as np
import zstandard
from jaxtyping import Int64, Shaped, UInt8

Array = Shaped[np.ndarray, "t *frame"]
DTYPES = ("uint8", "float32")
"""What can be packed."""
LARGEST, MOST = 2**28, 2**34
"""Bytes of a frame, and of a run of them; a description that states more is not believed."""


def pack(frames: Array) -> tuple[UInt8[np.ndarray, "bytes"], Int64[np.ndarray, "t_plus_1"]]:
    """All frames behind each other, and where each begins; the last offset is the end."""
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    parts = [compressor.compress(frame.tobytes()) for frame in _differences(frames)]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return np.frombuffer(b"".join(parts), np.uint8), offsets


def unpack(packed: UInt8[np.ndarray, "bytes"], offsets: Int64[np.ndarray, "t_plus_1"], dtype: str,
           shape: tuple[int, ...]) -> Array:
    """The frames, each of `shape`, whose bytes are `packed` and begin at `offsets` less the first of them.

    Raises:
        ValueError: where the bytes are not such frames (zstd's checksum covers each); no more is ever unpacked than the
            shape says.
    """
    if dtype not in DTYPES:
        raise ValueError(f"frames of {dtype} are not packed, {' or '.join(DTYPES)} are")
    count, size = len(offsets) - 1, math.prod(shape) * np.dtype(dtype).itemsize
    starts = offsets - offsets[0]
    if (np.diff(starts) <= 0).any() or starts[-1] != len(packed):
        raise ValueError("its offsets do not fit its bytes")
    data, decompressor = memoryview(packed), zstandard.ZstdDecompressor()
    parts = [data[start:end] for start, end in zip(starts[:-1], starts[1:])]
    try:
        if not 0 < size <= LARGEST or count * size > MOST or any(zstandard.frame_content_size(part) != size for part in parts):
            raise ValueError(f"its frames have not the {size} bytes that are stated")
        out = np.empty((count, size), np.uint8)
        for index, part in enumerate(parts):
            out[index] = np.frombuffer(decompressor.decompress(part), np.uint8)
    except zstandard.ZstdError as error:
        raise ValueError(f"a frame is damaged ({error})") from error
    return _sums(out, dtype, shape)


def _differences(frames: Array) -> Array:
    if frames.dtype == np.float32:
        return _planes(_rows_apart(frames.view(np.uint32)))
    if frames.dtype != np.uint8:
        raise ValueError(f"frames of {frames.dtype} are not packed, {' or '.join(DTYPES)} are")
    if not _is_picture(frames.shape):
        return frames
    apart = frames.copy()
    apart[..., 0, :, :] -= frames[..., 1, :, :]
    apart[..., 2, :, :] -= frames[..., 1, :, :]
    return _rows_apart(apart)


def _sums(raw: UInt8[np.ndarray, "t bytes"], dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype == "float32":
        planes = raw.reshape(len(raw), 4, -1)
        words = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(np.uint32)
        return _add_rows(words.reshape(len(raw), *shape)).view(np.float32)
    frames = raw.reshape(len(raw), *shape)
    if _is_picture(frames.shape):
        _add_rows(frames)
        frames[..., 0, :, :] += frames[..., 1, :, :]
        frames[..., 2, :, :] += frames[..., 1, :, :]
    return frames


def _is_picture(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 4 and shape[-3] == 3


def _rows_apart(frames: Array) -> Array:
    apart = frames.copy()
    apart[..., 1:, :] -= frames[..., :-1, :]
    return apart


def _add_rows(frames: Array) -> Array:
    """In place; numpy's own accumulation along this axis is several times slower than this loop."""
    for row in range(1, frames.shape[-2]):
        frames[..., row, :] += frames[..., row - 1, :]
    return frames


def _planes(words: Array) -> UInt8[np.ndarray, "t 4 n"]:
    """First the lowest bytes of all words of a frame, then the next, …: the high ones are nearly constant."""
    return np.ascontiguousarray(words.reshape(len(words), -1, 1).view(np.uint8).transpose(0, 2, 1))
