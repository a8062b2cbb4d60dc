"""Broken pictures for tests: Pillow raises another error for each, and none of these is an OSError."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(height: int = 48, width: int = 64, kind: str = "PNG", mode: str = "L", **options) -> bytes:
    """A file of noise."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    file = io.BytesIO()
    picture.convert(mode).save(file, kind, **options)
    return file.getvalue()


def png_chunks(content: bytes, part: int) -> list[tuple[bytes, bytes]]:
    """Names and data of a PNG file's chunks, those of pixels cut into parts."""
    chunks, at = [], len(SIGNATURE)
    while at < len(content):
        length, name = struct.unpack(">I4s", content[at:at + 8])
        data, at = content[at + 8:at + 8 + length], at + 12 + length
        starts = range(0, length, part) if name == b"IDAT" else [0]
        chunks += [(name, data[start:start + part] if name == b"IDAT" else data) for start in starts]
    return chunks


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The file of some chunks, with right lengths and checksums."""
    return SIGNATURE + b"".join(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
                                for name, data in chunks)


_HEADER, *_PIXELS = png_chunks(encoded(), part=1000)
BROKEN_HEADERS = {
    "bomb": png([(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)), *_PIXELS]),
    "short header": png([(b"IHDR", _HEADER[1][:4]), *_PIXELS]),
}
BROKEN = BROKEN_HEADERS | {"pixels": png([_HEADER, _PIXELS[0], (b"\xe0\x1c\0\0", _PIXELS[1][1]), *_PIXELS[2:]])}
"""PNG files by what is broken; `BROKEN_HEADERS` cannot be opened, the other one, of 64×48 px and grey, not decoded."""
