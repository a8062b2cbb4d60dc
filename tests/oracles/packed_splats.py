"""Slow, plain decoders of compressed PLY and SPZ, written from the formats' descriptions, in numpy and float64.

They give a dictionary: `means` [N, 3], `log_scales` [N, 3], `rotations` [N, 3, 3], `opacities` [N] in 0…1 and
`sh` [N, K, 3]. An SPZ stays in its own axes here: x right, y up, z back.
"""

import gzip
import struct

import numpy as np

CONSTANT_HARMONIC = 0.28209479177387814
UNDER_HALF_TURN = [1, -1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1]
"""Whether each harmonic (1, y, z, x, xy, yz, z², xz, x²−y², y³, xyz, yz², z³, xz², z(x²−y²), x³) keeps its sign
where y and z change theirs."""


def decode_compressed_ply(content: bytes) -> dict[str, np.ndarray]:
    """A binary little-endian file with elements chunk (12 or 18 floats), vertex (4 words) and perhaps sh (bytes)."""
    header, _, body = content.partition(b"end_header\n")
    counts, properties = {}, {}
    for line in header.decode().splitlines():
        if line.startswith("element"):
            _, element, number = line.split()
            counts[element], properties[element] = int(number), []
        elif line.startswith("property"):
            properties[element].append(line.split()[-1])
    floats = len(properties["chunk"])
    rows = np.frombuffer(body, "<f4", counts["chunk"] * floats).reshape(-1, floats).astype(float)
    chunks = dict(zip(properties["chunk"], rows.T))
    start = counts["chunk"] * floats * 4
    words = np.frombuffer(body, "<u4", counts["vertex"] * 4, start).reshape(-1, 4)
    position, rotation, scale, color = words.T.astype(np.int64)
    chunk = np.arange(counts["vertex"]) // 256

    def between(name, value):
        least, most = chunks["min_" + name][chunk], chunks["max_" + name][chunk]
        return least + value * (most - least)

    def three(word):
        return (word >> 21) / 2047, (word >> 11 & 1023) / 1023, (word & 2047) / 2047

    red, green, blue, opacity = (color >> 24) / 255, (color >> 16 & 255) / 255, (color >> 8 & 255) / 255, color & 255
    if floats == 18:
        red, green, blue = between("r", red), between("g", green), between("b", blue)
    sh = (np.stack([red, green, blue], axis=1)[:, None] - 0.5) / CONSTANT_HARMONIC
    if "sh" in counts:
        coefficients = len(properties["sh"]) // 3
        bytes_ = np.frombuffer(body, "u1", offset=start + counts["vertex"] * 16).reshape(-1, 3, coefficients)
        rest = ((bytes_ + 0.5) / 256 * 8 - 4).transpose(0, 2, 1)
        sh = np.concatenate([sh, rest], axis=1)
    means = [between(name, value) for name, value in zip("xyz", three(position))]
    log_scales = [between(f"scale_{name}", value) for name, value in zip("xyz", three(scale))]
    return {"means": np.stack(means, axis=1), "log_scales": np.stack(log_scales, axis=1),
            "rotations": _rotations(_largest_first(rotation)), "opacities": opacity / 255, "sh": sh}


def _largest_first(words: np.ndarray) -> np.ndarray:
    """Quaternions wxyz: which component is largest in 2 bits, the others in the order wxyz, ±√½ in 10 bits."""
    quats = np.empty((len(words), 4))
    for row, word in enumerate(words):
        largest = int(word >> 30)
        others = [((word >> shift & 1023) / 1023 - 0.5) * np.sqrt(2) for shift in (20, 10, 0)]
        rest = np.sqrt(max(0, 1 - sum(value * value for value in others)))
        quats[row] = others[:largest] + [rest] + others[largest:]
    return quats


def decode_spz(content: bytes) -> dict[str, np.ndarray]:
    """A gzip stream of version 2 or 3."""
    raw = gzip.decompress(content)
    _, version, count, degree, fraction, _, _ = struct.unpack("<IIIBBBB", raw[:16])
    coefficients = (degree + 1) ** 2 - 1
    position, opacity, color, scale, rotation, rest = np.split(
        np.frombuffer(raw, "u1", offset=16).astype(np.int64),
        np.cumsum([9 * count, count, 3 * count, 3 * count, (3 if version == 2 else 4) * count]))
    fixed = position.reshape(count, 3, 3) @ [1, 1 << 8, 1 << 16]
    fixed = np.where(fixed >= 1 << 23, fixed - (1 << 24), fixed)
    quats = _first_three(rotation.reshape(count, 3)) if version == 2 else _smallest_three(rotation.reshape(count, 4))
    sh = np.concatenate([(color.reshape(count, 1, 3) / 255 - 0.5) / 0.15,
                         (rest[:3 * coefficients * count].reshape(count, coefficients, 3) - 128) / 128], axis=1)
    return {"means": fixed / 2 ** fraction, "log_scales": scale.reshape(count, 3) / 16 - 10,
            "rotations": _rotations(quats), "opacities": opacity / 255, "sh": sh}


def _first_three(rows: np.ndarray) -> np.ndarray:
    """Quaternions wxyz from bytes of x, y, z; w ≥ 0."""
    xyz = rows / 127.5 - 1
    w = np.sqrt(np.maximum(0, 1 - (xyz ** 2).sum(axis=1, keepdims=True)))
    return np.concatenate([w, xyz], axis=1)


def _smallest_three(rows: np.ndarray) -> np.ndarray:
    """Quaternions wxyz from little-endian words: the largest of xyzw in 2 bits, the others as sign and 9 bits of √½."""
    quats = np.empty((len(rows), 4))
    for row, word in enumerate(rows @ [1, 1 << 8, 1 << 16, 1 << 24]):
        largest = int(word >> 30)
        others = [(-1 if word >> shift + 9 & 1 else 1) * np.sqrt(0.5) * (word >> shift & 511) / 511
                  for shift in (20, 10, 0)]
        rest = np.sqrt(max(0, 1 - sum(value * value for value in others)))
        x, y, z, w = others[:largest] + [rest] + others[largest:]
        quats[row] = w, x, y, z
    return quats


def _rotations(quats: np.ndarray) -> np.ndarray:
    """Matrices of quaternions wxyz, made unit first: v ↦ v + 2w (u × v) + 2u × (u × v)."""
    quats = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    w, u, basis = quats[:, :1, None], quats[:, None, 1:], np.eye(3)[None]
    turned = np.cross(u, basis)
    return (basis + 2 * w * turned + 2 * np.cross(u, turned)).transpose(0, 2, 1)
