"""What is packed comes back bit for bit, any run of frames alone; what is not such a thing is refused."""

import numpy as np
import pytest
import zstandard

from chopgrad_ns.data import packing
from chopgrad_ns.data.packing import pack, unpack

SHAPES = {"picture": ("uint8", (3, 6, 9)), "mask": ("uint8", (1, 6, 9)), "references": ("uint8", (2, 3, 6, 9)),
          "depth": ("float32", (1, 6, 9)), "row": ("float32", (1, 1, 1))}


def random_frames(dtype, shape, count=5, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    values = rng.normal(size=(count, *shape)).astype(np.float32) * 10 ** rng.uniform(-30, 30)
    values.flat[:3] = [np.nan, -np.inf, -0.0]
    return values


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("first, last", [(0, 5), (0, 1), (2, 4), (4, 5)])
def test_round_trip(kind, first, last):
    dtype, shape = SHAPES[kind]
    frames = random_frames(dtype, shape)
    packed, offsets = pack(frames)
    assert offsets[0] == 0 and offsets[-1] == len(packed) and len(offsets) == 6
    run = unpack(packed[offsets[first] : offsets[last]], offsets[first : last + 1], dtype, shape)
    assert run.dtype == frames.dtype and run.tobytes() == frames[first:last].tobytes()


def test_pictures_become_smaller_than_without_differences():
    """Grey grain on smooth colours, as a camera's."""
    rng = np.random.default_rng(0)
    v, u = np.meshgrid(np.linspace(0, 1, 128), np.linspace(0, 1, 192), indexing="ij")
    smooth = np.stack([np.sin(7 * u + 3 * v), np.sin(6 * u + 3 * v), np.cos(5 * v - u)])[None] * 90 + 128
    picture = (smooth + rng.normal(0, 6, (1, 1, 128, 192))).astype(np.uint8)
    plain = len(zstandard.compress(picture.tobytes(), 3))
    assert len(pack(picture)[0]) < 0.7 * plain and plain > 0.9 * picture.size


def test_every_damaged_byte_is_noticed():
    dtype, shape = SHAPES["picture"]
    packed, offsets = pack(random_frames(dtype, shape, 2))
    for place in range(0, len(packed), 7):
        wrong = packed.copy()
        wrong[place] ^= 1
        with pytest.raises(ValueError):
            unpack(wrong, offsets, dtype, shape)


def test_other_sizes_are_refused():
    dtype, shape = SHAPES["picture"]
    packed, offsets = pack(random_frames(dtype, shape))
    with pytest.raises(ValueError, match="bytes that are stated"):
        unpack(packed, offsets, dtype, (3, 6, 8))
    with pytest.raises(ValueError, match="offsets"):
        unpack(packed[:-1], offsets, dtype, shape)
    with pytest.raises(ValueError, match="offsets"):
        unpack(packed, offsets[[0, 2, 1, 3, 4, 5]], dtype, shape)
    with pytest.raises(ValueError, match="float16"):
        unpack(packed, offsets, "float16", shape)
    with pytest.raises(ValueError, match="float64"):
        pack(np.zeros((1, 3, 2, 2)))


def test_a_bomb_is_not_unpacked(monkeypatch):
    """A few bytes that state and hold a large frame."""
    bomb = np.frombuffer(zstandard.compress(bytes(2**22)), np.uint8)
    offsets = np.array([0, len(bomb)])
    assert unpack(bomb, offsets, "uint8", (1, 2**11, 2**11)).shape == (1, 1, 2**11, 2**11)
    with pytest.raises(ValueError, match="bytes that are stated"):
        unpack(bomb, offsets, "uint8", (1, 8, 8))
    monkeypatch.setattr(packing, "LARGEST", 2**20)
    with pytest.raises(ValueError, match="bytes that are stated"):
        unpack(bomb, offsets, "uint8", (1, 2**11, 2**11))
