"""Compressed PLY and SPZ, with gsply's kernels.

The kernels run without bounds checks, so that whatever comes from a file is checked here before they see it.
"""

import gzip
import io
import math
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.ply import Table

CHUNK = 256
"""Gaussians that share bounds in a compressed PLY."""
_BOUNDS = [f"{end}_{name}" for group in (("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b"))
           for end in ("min", "max") for name in group]
_PACKED = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]

SPZ_MAGICS = (b"\x1f\x8b", b"NGSP")
"""First bytes of an SPZ: versions 2 and 3 are gzip streams, version 4 holds one zstd stream for each attribute."""
MAX_SPZ_GAUSSIANS = 10_000_000
"""As many as Niantic's reader takes."""
_TRAILER = 1 << 16
"""Bytes of extensions that may follow the Gaussians in a gzip stream."""

_one_at_a_time = threading.Lock()


@contextmanager
def _kernels(path: Path) -> Iterator:
    """gsply, for one thread at a time; what it raises becomes a UserError that names `path`.

    numba's parallel kernels abort the process where two threads start them at once.
    """
    with _one_at_a_time:
        import gsply  # brings numba and LLVM, which only these formats need

        gsply.use_backend("python")
        try:
            yield gsply
        except Exception as error:  # a stranger's file may provoke anything
            raise UserError(f"{path} cannot be converted ({error}); export it again or in another format.") from error


def decode_ply(elements: dict[str, Table], path: Path) -> Gaussians:
    """The splat in the tables of a compressed PLY. Raises UserError, which names `path`, where they do not fit."""
    chunks, vertices, sh = (elements.get(name) for name in ("chunk", "vertex", "sh"))
    rest = 0 if sh is None else len(sh.dtype.names)
    columns = [f"f_rest_{i}" for i in range(rest)]
    bounds = _BOUNDS if "min_r" in chunks.dtype.names else _BOUNDS[:12]  # colours were not chunked at first
    if not (_holds(chunks, bounds, np.float32) and _holds(vertices, _PACKED, np.uint32) and rest in (0, 9, 24, 45)
            and (not rest or _holds(sh, columns, np.uint8))):
        raise UserError(f"{path} has chunks but not the attributes of a compressed PLY; export it with SuperSplat.")
    count = len(vertices)
    if len(chunks) != -(-count // CHUNK) or (rest and len(sh) != count):
        raise UserError(f"{path} holds {len(chunks)} chunks and {len(sh) if rest else 0} rows of harmonics for {count} "
                        f"Gaussians, where {-(-count // CHUNK)} chunks were expected; export it again.")
    if not count:
        return Gaussians(*(torch.zeros(0, *shape) for shape in ((3,), (3,), (4,), (), (1 + rest // 3, 3))))
    limits = np.repeat(np.float32([[0] * 15 + [1] * 3]), len(chunks), axis=0)  # colours without bounds: 0…1
    limits[:, :len(bounds)] = np.stack([chunks[name] for name in bounds], axis=1)
    body = [limits, np.stack([vertices[name] for name in _PACKED], axis=1).astype("<u4")]
    if rest:
        body.append(np.stack([sh[name] for name in columns], axis=1))
    content = _ply_header(count, rest) + b"".join(part.tobytes() for part in body)
    with _kernels(path) as gsply:
        return _gaussians(gsply.decompress_from_bytes(content))


def _ply_header(count: int, rest: int) -> bytes:
    """Header of a compressed PLY of `count` Gaussians with `rest` numbers for harmonics above degree 0."""
    lines = ["ply", "format binary_little_endian 1.0", f"element chunk {-(-count // CHUNK)}",
             *(f"property float {name}" for name in _BOUNDS), f"element vertex {count}",
             *(f"property uint {name}" for name in _PACKED)]
    if rest:
        lines += [f"element sh {count}", *(f"property uchar f_rest_{i}" for i in range(rest))]
    return ("\n".join(lines) + "\nend_header\n").encode()


def _holds(table: Table | None, names: list[str], kind: type) -> bool:
    """Whether a table has all these columns, of one type."""
    return table is not None and all(name in table.dtype.names and table.dtype[name] == kind for name in names)


def encode_ply(splat: Gaussians, path: Path) -> bytes:
    """A compressed PLY. Raises UserError, which names `path`, where numbers are not finite."""
    if not len(splat):
        return _ply_header(0, 3 * (splat.sh.shape[1] - 1))
    arrays = _arrays(splat, path)
    with _kernels(path) as gsply:
        return gsply.compress_to_bytes(*arrays)


def decode_spz(content: bytes, path: Path) -> Gaussians:
    """The splat in an SPZ of version 2, 3 or 4, in a PLY's axes. Raises UserError, which names `path`."""
    import zstandard

    try:
        (_check_streams if content.startswith(b"NGSP") else _check_gzip)(content)
    except (ValueError, OSError, EOFError, struct.error, zlib.error, zstandard.ZstdError) as error:
        fault = "it is cut short" if isinstance(error, (struct.error, EOFError)) else error
        raise UserError(f"{path} is not a sound SPZ ({fault}); export the splat again, as SPZ 2, 3 or 4.") from error
    # gsply reads files only; a copy is what was checked, whatever happens to the original meanwhile.
    with tempfile.TemporaryDirectory() as folder, _kernels(path) as gsply:
        copy = Path(folder) / "splat.spz"
        copy.write_bytes(content)
        data = gsply.read_spz(copy)
    return _gaussians(data).transformed(_half_turn())


def encode_spz(splat: Gaussians, path: Path) -> bytes:
    """An SPZ of version 3. Raises UserError, which names `path`, where it cannot hold the numbers."""
    if len(splat) > MAX_SPZ_GAUSSIANS:
        raise UserError(f"{path} would hold {len(splat)} Gaussians, {MAX_SPZ_GAUSSIANS} is the most; crop the splat or "
                        "save it as a PLY.")
    arrays = _arrays(splat.transformed(_half_turn()), path)
    reach = float(np.abs(arrays[0]).max(initial=0))
    # 12 bits after the point, as is usual, which leaves ±2048; fewer where something lies farther out
    bits = min(12, math.floor(math.log2((2**23 - 1) / max(reach, 1))))
    if bits < 1:
        raise UserError(f"{path} cannot hold a coordinate of {reach:.3g}; crop or scale the splat, or save a PLY.")
    with tempfile.TemporaryDirectory() as folder, _kernels(path) as gsply:
        file = Path(folder) / "splat.spz"
        gsply.write_spz(file, gsply.GSData.from_arrays(*arrays, format="ply"), version=3, fractional_bits=bits)
        return file.read_bytes()


def _half_turn() -> torch.Tensor:
    """From an SPZ's axes (right, up, back) to a PLY's (right, down, forward), or back."""
    return torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))


def _check_gzip(content: bytes) -> None:
    """Refuse a stream that does not unpack to what its header announces, without ever holding more than 1 MiB of it."""
    stream = gzip.GzipFile(fileobj=io.BytesIO(content))
    magic, version, count, degree, fraction = struct.unpack("<4sIIBB2x", stream.read(16))
    if magic != b"NGSP" or version not in (2, 3):
        raise ValueError("its header is of another format or version")
    expected, size = 16 + sum(_section_sizes(version, count, degree, fraction)), 16
    while size <= expected + _TRAILER and (unpacked := stream.read(1 << 20)):
        size += len(unpacked)
    if not expected <= size <= expected + _TRAILER:
        raise ValueError(f"its size does not fit the {count} Gaussians that were announced")


def _check_streams(content: bytes) -> None:
    """Refuse zstd streams that announce another size than the header's number of Gaussians makes."""
    import zstandard

    _, version, count, degree, fraction, streams, table = struct.unpack_from("<4sIIBBxBI", content)
    if version != 4:
        raise ValueError("its header is of another version")
    sizes = [size for size in _section_sizes(version, count, degree, fraction) if size]
    start = table + 16 * streams
    for index, size in enumerate(sizes):
        packed_size, _ = struct.unpack_from("<QQ", content, table + 16 * index)
        announced = zstandard.frame_content_size(content[start:start + packed_size])
        if announced not in (size, -1):  # −1: not announced, and gsply stops at the size it expects
            raise ValueError(f"a stream unpacks to {announced} bytes instead of {size}")
        start += packed_size


def _section_sizes(version: int, count: int, degree: int, fraction: int) -> list[int]:
    """Bytes of positions, opacities, colours, scales, rotations and harmonics; ValueError for a header out of range."""
    if count > MAX_SPZ_GAUSSIANS or degree > 3 or not 1 <= fraction <= 24:
        raise ValueError(f"it announces {count} Gaussians of degree {degree} with {fraction} fractional bits; "
                         f"{MAX_SPZ_GAUSSIANS}, degree 3 and 24 bits are the most")
    return [9 * count, count, 3 * count, 3 * count, (3 if version == 2 else 4) * count,
            3 * ((degree + 1) ** 2 - 1) * count]


def _gaussians(data) -> Gaussians:
    """From gsply's arrays, which are raw like ours."""
    sh = [array for array in (data.sh0[:, None], data.shN) if array is not None]
    arrays = data.means, data.scales, data.quats, data.opacities, np.concatenate(sh, axis=1)
    return Gaussians(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


def _arrays(splat: Gaussians, path: Path) -> tuple[np.ndarray, ...]:
    """Means, scales, quaternions, opacities, constant and other harmonics, float32, as gsply takes them."""
    splat = splat.detach().to("cpu", torch.float32).clone()
    splat.opacity_logits.clamp_(-20, 20)  # 0 and 1 in 8 bits, and finite
    splat.quats[splat.quats.norm(dim=1) == 0, 0] = 1  # what drawing makes of them
    values = torch.cat([splat.means, splat.log_scales, splat.quats, splat.opacity_logits[:, None], splat.sh.flatten(1)],
                       dim=1)
    broken = int((~torch.isfinite(values).all(dim=1)).sum())
    if broken:
        raise UserError(f"{path} cannot hold the numbers of {broken} of {len(splat)} Gaussians, which are not finite; "
                        "leave those out or save as .ply.")
    rest = splat.sh[:, 1:].contiguous().numpy() if splat.sh_degree else None
    return (splat.means.numpy(), splat.log_scales.numpy(), splat.quats.numpy(), splat.opacity_logits.numpy(),
            splat.sh[:, 0].contiguous().numpy(), rest)
