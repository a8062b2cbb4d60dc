"""Messages of protocol buffers as they are encoded: some of the fields without the rest, and matrices as arrays.

The library's own decoder, where it is written in Python, takes seconds for the range images of one frame.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import numpy as np
from jaxtyping import Float32

VARINT, EIGHT, COUNTED, FOUR = 0, 1, 2, 5


def fields(content: bytes) -> Iterator[tuple[int, int, int, int | memoryview]]:
    """Each field's first byte, the byte after it, its number, and its value: an int, or the bytes.

    Raises ValueError where the content is cut off or is no message.
    """
    view, at = memoryview(content), 0
    while at < len(view):
        begin = at
        tag, at = _varint(view, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(view, at)
        elif kind in (EIGHT, COUNTED, FOUR):
            length, at = _varint(view, at) if kind == COUNTED else ({EIGHT: 8, FOUR: 4}[kind], at)
            value, at = view[at:at + length], at + length
        else:
            raise ValueError(f"a field of kind {kind}")
        if at > len(view) or number == 0:
            raise ValueError("a field is cut off")
        yield begin, at, number, value


def only(content: bytes, numbers: Container[int]) -> bytes:
    """The message with some of its fields left. Raises ValueError as `fields` does."""
    return b"".join([content[begin:end] for begin, end, number, _ in fields(content) if number in numbers])


def matrix(content: bytes) -> tuple[Float32[np.ndarray, "n"], list[int]]:
    """Values and shape of a MatrixFloat: data = 1, shape = 2, whose dims are 1. Raises ValueError for what is none."""
    data, shape = [], []
    for _, _, number, value in fields(content):
        if number in (1, 2) and not isinstance(value, memoryview):
            raise ValueError("a whole number, where floats or a shape are expected")
        if number == 1:
            data.append(value)  # All of them, or each for itself: four bytes for each either way.
        elif number == 2:
            shape += [side for *_, number, value in fields(value) if number == 1 for side in _numbers(value)]
    return np.frombuffer(b"".join(data), "<f4"), shape


def _numbers(value: int | memoryview) -> list[int]:
    """One, or several packed."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return found


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; the high bit says that more follow."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise ValueError("a number is cut off")
        byte, at = view[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has no end")
