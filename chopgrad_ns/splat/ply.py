"""PLY files: any table in them, and the attributes of 3DGS (as INRIA's code and `ns-export` lay them out)."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.gaussians import Gaussians

_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
          "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
          "float32": "f4", "float64": "f8"}
_BYTE_ORDERS = {"format ascii 1.0": "=", "format binary_little_endian 1.0": "<", "format binary_big_endian 1.0": ">"}
Table = np.ndarray
"""Rows of one element of a PLY: a structured array [N] with a field for each property."""


def split_header(content: bytes) -> tuple[list[str], int]:
    """Lines of a PLY's header and where its body starts; no lines where `content` has no such header."""
    end = re.search(rb"^end_header\r?\n", content, re.MULTILINE) if content.startswith(b"ply") else None
    if end is None:
        return [], 0
    return [line.strip() for line in content[:end.start()].decode("ascii", "replace").split("\n")], end.end()


def read_elements(content: bytes, path: Path) -> dict[str, Table]:
    """Tables of a PLY, ASCII or binary, by element. Raises UserError, naming `path`, for lists and broken files."""
    lines, start = split_header(content)
    order = next((_BYTE_ORDERS[line] for line in lines if line in _BYTE_ORDERS), None)
    if order is None:
        raise UserError(f"{path} is not a PLY, or its header is cut short; export the splat as a PLY.")
    try:
        layouts = _layouts(lines, order)
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f"The header of {path} makes no sense for a splat; export it as a 3DGS PLY.") from error
    try:
        return _ascii_tables(content[start:], layouts) if order == "=" else _binary_tables(content, start, layouts)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path} is cut short or damaged: it does not hold what its header announces; export the splat "
                        "again.") from error


def _layouts(lines: list[str], order: str) -> dict[str, tuple[int, np.dtype]]:
    """Number of rows and row layout of each element; ValueError, KeyError or IndexError for nonsense and lists."""
    counts: dict[str, int] = {}
    properties: dict[str, list[tuple[str, str]]] = {}
    for words in (line.split() for line in lines):
        if words[:1] == ["element"]:
            name, counts[words[1]] = words[1], int(words[2])
            properties[name] = []
        elif words[:1] == ["property"]:
            properties[list(counts)[-1]].append((words[2], order + _TYPES[words[1]]))
    if not counts or min(counts.values()) < 0 or not all(properties.values()):
        raise ValueError("no elements, a negative number of rows, or rows without properties")
    return {name: (counts[name], np.dtype(properties[name])) for name in counts}


def _binary_tables(content: bytes, start: int, layouts: dict[str, tuple[int, np.dtype]]) -> dict[str, Table]:
    tables = {}
    for name, (count, layout) in layouts.items():
        tables[name] = np.frombuffer(content, layout, count, start)
        start += count * layout.itemsize
    return tables


def _ascii_tables(body: bytes, layouts: dict[str, tuple[int, np.dtype]]) -> dict[str, Table]:
    values = np.array(body.split(), dtype=np.float64)
    tables = {}
    for name, (count, layout) in layouts.items():
        size = count * len(layout)
        rows, values = values[:size].reshape(count, len(layout)), values[size:]
        tables[name] = np.empty(count, layout)
        for column, field in enumerate(layout.names):
            tables[name][field] = rows[:, column]
    return tables


def _attributes(bands: int) -> list[str]:
    return ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)),
            *(f"f_rest_{i}" for i in range(3 * (bands - 1))), "opacity", *(f"scale_{i}" for i in range(3)),
            *(f"rot_{i}" for i in range(4))]


def decode(elements: dict[str, Table], path: Path) -> Gaussians:
    """The splat that a PLY's tables hold; other elements and attributes are left alone. Raises UserError for none."""
    table = elements.get("vertex")
    names = table.dtype.names if table is not None else ()
    rest = sum(name.startswith("f_rest_") for name in names)
    bands = rest // 3 + 1
    missing = [name for name in _attributes(bands) if name not in names and name not in ("nx", "ny", "nz")]
    if missing or rest not in (0, 9, 24, 45):
        fault = f"no {', '.join(missing[:3])}" if missing else f"{rest} f_rest attributes"
        raise UserError(f"{path} is a PLY but not a splat ({fault}); give a PLY with 3DGS attributes, such as "
                        "ns-export gaussian-splat writes.")

    def columns(*names: str) -> Tensor:
        return torch.from_numpy(np.stack([table[name].astype(np.float32) for name in names], axis=1))

    sh = columns(*(f"f_dc_{i}" for i in range(3)))[:, None]
    if rest:
        tail = columns(*(f"f_rest_{i}" for i in range(rest)))
        sh = torch.cat([sh, tail.view(len(tail), 3, bands - 1).transpose(1, 2)], dim=1)
    return Gaussians(columns("x", "y", "z"), columns("scale_0", "scale_1", "scale_2"),
                     columns("rot_0", "rot_1", "rot_2", "rot_3"), columns("opacity")[:, 0], sh.contiguous())


def encode(splat: Gaussians, path: Path) -> bytes:
    """A binary little-endian 3DGS PLY with the splat's numbers as float32; `path` is not looked at."""
    rest = splat.sh[:, 1:].transpose(1, 2).flatten(1)  # channel-major in the file
    columns = torch.cat([splat.means, torch.zeros_like(splat.means), splat.sh[:, 0], rest,
                         splat.opacity_logits[:, None], splat.log_scales, splat.quats], dim=1)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(splat)}",
              *(f"property float {name}" for name in _attributes(splat.sh.shape[1])), "end_header"]
    return ("\n".join(header) + "\n").encode() + columns.detach().cpu().numpy().astype("<f4").tobytes()
