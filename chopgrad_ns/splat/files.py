"""Splats on disk.

| format | suffix | keeps |
|---|---|---|
| 3DGS PLY | `.ply` | every number as float32 |
| compressed PLY (PlayCanvas, SuperSplat) | `.compressed.ply` | 10 or 11 bits a coordinate within each 256 Gaussians |
| SPZ (Niantic) | `.spz` | 24-bit fixed point, the rest in 8 bits |

Axes: an SPZ stores x right, y up, z back, where the PLY of the same splat has x right, y down, z forward. Reading and
writing turn it by half a turn about x, harmonics included, as Niantic's own library does between the two. So all
three formats give the same `Gaussians`, in the PLY's axes.
"""

from pathlib import Path

from chopgrad_ns.errors import UserError
from chopgrad_ns.files import write_whole
from chopgrad_ns.splat import packed, ply
from chopgrad_ns.splat.gaussians import Gaussians

_SUFFIXES = {".compressed.ply": "compressed PLY", ".ply": "3DGS PLY", ".spz": "SPZ"}  # the longer one first
_LONGEST_HEADER = 1 << 16  # bytes, far more than any splat's
_ENCODERS = {"3DGS PLY": ply.encode, "compressed PLY": packed.encode_ply, "SPZ": packed.encode_spz}


def load(path: Path) -> Gaussians:
    """See `Gaussians.load`."""
    content = _read(path)
    found = _format_of(content, path)
    if found == "SPZ":
        return packed.decode_spz(content, path)
    elements = ply.read_elements(content, path)
    return packed.decode_ply(elements, path) if found == "compressed PLY" else ply.decode(elements, path)


def save(splat: Gaussians, path: Path) -> None:
    """See `Gaussians.save`."""
    content = _ENCODERS[format_to_write(path)](splat, path)
    try:
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"Splat {path} cannot be written ({error.strerror}); give a path that can be.") from error


def format_to_write(path: Path) -> str:
    """The format that a name asks for. Raises UserError for suffixes of none."""
    for suffix, name in _SUFFIXES.items():
        if path.name.lower().endswith(suffix):
            return name
    raise UserError(f"Splats cannot be written as {path.name}; give a name that ends in .ply, .compressed.ply or .spz.")


def format_found(path: Path) -> str:
    """The format that a file is in, whatever its name. Raises UserError where it is none of them."""
    return _format_of(_read(path, _LONGEST_HEADER), path)


def _read(path: Path, most: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as error:
        raise UserError(f"Splat {path} cannot be read ({error.strerror}); give a PLY or SPZ file.") from error


def _format_of(content: bytes, path: Path) -> str:
    if content.startswith(packed.SPZ_MAGICS):
        return "SPZ"
    if content.startswith(b"ply"):
        chunked = any(line.startswith("element chunk ") for line in ply.split_header(content)[0])
        return "compressed PLY" if chunked else "3DGS PLY"
    raise UserError(f"{path} is neither a PLY nor an SPZ; export the splat as one of them.")
