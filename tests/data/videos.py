"""Made-up videos for tests: every frame says its number, and files of many kinds."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def numbered(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 frames [count, height, width, 3]: a moving texture, the number as eight black or white blocks."""
    rng = np.random.default_rng(seed)
    texture = np.kron(rng.integers(60, 200, (height // 4, width // 2, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    frames = np.stack([np.roll(texture, -number, axis=1)[:, :width] for number in range(count)])
    for number in range(count):
        for bit in range(8):
            frames[number, :16, 8 * bit:8 * bit + 8] = 255 * (number >> bit & 1)
    return frames


def number_of(frame: np.ndarray) -> int:
    """The number that `numbered` wrote into a frame of its default size (uint8 or 0…1)."""
    bright = frame.astype(float) / (255 if frame.dtype == np.uint8 else 1)
    return sum(int(bright[4:12, 8 * bit + 2:8 * bit + 6].mean() > 0.5) << bit for bit in range(8))


def write_file(path: Path, frames: np.ndarray, codec: str = "libx264", times: list[int] | None = None, fps: int = 25,
               **options) -> Path:
    """A video file; `times` in units of 1/(4 fps) make the frame rate vary."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={name: str(value) for name, value in options.items()})
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 4 * fps)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 4 * fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
