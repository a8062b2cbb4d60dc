"""Gaussians as data, in the raw parametrisation that is trained and that 3DGS PLY files hold."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.errors import UserError

SH_C0 = 0.28209479177387814
"""Value of the constant spherical harmonic: colour = ½ + SH_C0 · coefficient."""


@dataclass
class Gaussians:
    """N Gaussians.

    `means` [N, 3] in world units; `log_scales` [N, 3], natural logarithm of the standard deviations; `quats`
    [N, 4] rotations wxyz, not necessarily normalised; `opacity_logits` [N]; `sh` [N, K, 3] colour coefficients,
    K = (degree+1)². Raises ValueError for other shapes.
    """

    means: Float[Tensor, "n 3"]
    log_scales: Float[Tensor, "n 3"]
    quats: Float[Tensor, "n 4"]
    opacity_logits: Float[Tensor, "n"]
    sh: Float[Tensor, "n k 3"]

    def __post_init__(self) -> None:
        count, bands = len(self.means), self.sh.shape[1]
        expected = {"means": (count, 3), "log_scales": (count, 3), "quats": (count, 4),
                    "opacity_logits": (count,), "sh": (count, bands, 3)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}, not {shape}")
        if round(bands ** 0.5) ** 2 != bands:
            raise ValueError(f"sh has {bands} coefficients, which is not a square")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        return round(self.sh.shape[1] ** 0.5) - 1

    def _map(self, function) -> Gaussians:
        return Gaussians(*(function(getattr(self, field.name)) for field in fields(self)))

    def to(self, *args, **kwargs) -> Gaussians:
        """Move or cast, as `Tensor.to`."""
        return self._map(lambda value: value.to(*args, **kwargs))

    def detach(self) -> Gaussians:
        return self._map(Tensor.detach)

    def clone(self) -> Gaussians:
        return self._map(Tensor.clone)

    @staticmethod
    def from_points(xyz: Float[Tensor, "n 3"], rgb: Float[Tensor, "n 3"], sh_degree: int = 3) -> Gaussians:
        """Round Gaussians of opacity 0.1 at points, as wide as the mean distance to the three nearest others.

        `rgb` in 0…1. Points that are not finite are left out; coinciding points get 1 % of the median width.
        """
        finite = torch.isfinite(xyz).all(dim=1)
        xyz, rgb = xyz[finite].float(), rgb[finite].float()
        count = len(xyz)
        quats = xyz.new_zeros(count, 4)
        quats[:, 0] = 1
        sh = xyz.new_zeros(count, (sh_degree + 1) ** 2, 3)
        sh[:, 0] = (rgb - 0.5) / SH_C0
        distance = _neighbour_distance(xyz)
        if count:
            distance = distance.clamp_min(max(0.01 * float(distance.median()), 1e-7))
        scales = distance.log()[:, None].repeat(1, 3)
        return Gaussians(xyz.clone(), scales, quats, xyz.new_full((count,), 0.1).logit(), sh)

    def save_ply(self, path: Path) -> None:
        """Write a binary 3DGS PLY (attributes as INRIA's code and `ns-export` lay them out), atomically."""
        names = _attribute_names(self.sh.shape[1])
        rest = self.sh[:, 1:].transpose(1, 2).flatten(1)  # channel-major in the file
        columns = torch.cat([self.means, torch.zeros_like(self.means), self.sh[:, 0], rest,
                             self.opacity_logits[:, None], self.log_scales, self.quats], dim=1)
        header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(self)}",
                  *(f"property float {name}" for name in names), "end_header"]
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        with open(temporary, "wb") as file:
            file.write(("\n".join(header) + "\n").encode())
            file.write(columns.detach().cpu().numpy().astype("<f4").tobytes())
        os.replace(temporary, path)

    @staticmethod
    def load_ply(path: Path) -> Gaussians:
        """Read a 3DGS PLY of SH degree 0…3. Raises UserError where the file is not one."""
        table = _read_vertices(Path(path))
        rest = sum(name.startswith("f_rest_") for name in table)
        bands = rest // 3 + 1
        missing = [name for name in _attribute_names(bands) if name not in table and name[0] != "n"]
        if missing or rest not in (0, 9, 24, 45):
            fault = f"no {', '.join(missing[:3])}" if missing else f"{rest} f_rest attributes"
            raise UserError(f"{path} is a PLY but not a splat ({fault}); give a PLY with 3DGS attributes, such "
                            "as ns-export gaussian-splat writes.")

        def columns(*names: str) -> Tensor:
            return torch.from_numpy(np.stack([table[name].astype(np.float32) for name in names], axis=1))

        sh = columns(*(f"f_dc_{i}" for i in range(3)))[:, None]
        if rest:
            tail = columns(*(f"f_rest_{i}" for i in range(rest)))
            sh = torch.cat([sh, tail.view(len(tail), 3, bands - 1).transpose(1, 2)], dim=1)
        quats = columns("rot_0", "rot_1", "rot_2", "rot_3")
        return Gaussians(columns("x", "y", "z"), columns("scale_0", "scale_1", "scale_2"), quats,
                         columns("opacity")[:, 0], sh.contiguous())


def _attribute_names(bands: int) -> list[str]:
    return ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)),
            *(f"f_rest_{i}" for i in range(3 * (bands - 1))), "opacity", *(f"scale_{i}" for i in range(3)),
            *(f"rot_{i}" for i in range(4))]


_PLY_TYPES = {"float": "<f4", "float32": "<f4", "double": "<f8", "uchar": "u1", "uint8": "u1", "int": "<i4",
              "uint": "<u4", "short": "<i2", "ushort": "<u2", "char": "i1"}


def _read_vertices(path: Path) -> dict[str, np.ndarray]:
    """Columns of the first element of a binary little-endian PLY."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"Splat {path} cannot be read ({error.strerror}); give a PLY file.") from error
    head, found, body = content.partition(b"end_header\n")
    lines = head.decode("ascii", "replace").split("\n")
    if lines[0].strip() != "ply" or not found or "format binary_little_endian 1.0" not in lines:
        raise UserError(f"{path} is not a binary little-endian PLY; export the splat as one.")
    elements = [line.split() for line in lines if line.startswith("element")]
    properties = [line.split() for line in lines if line.startswith("property")]
    try:
        count = int(elements[0][2])
        layout = np.dtype([(entry[2], _PLY_TYPES[entry[1]]) for entry in properties])
        if count < 0 or not layout.itemsize:
            raise ValueError
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f"The header of {path} makes no sense; export the splat as a 3DGS PLY.") from error
    if elements[0][1] != "vertex" or len(elements) > 1 or len(body) < count * layout.itemsize:
        raise UserError(f"{path} is cut short or holds more than vertices ({count} of {layout.itemsize} bytes "
                        "were announced); export the splat again, uncompressed.")
    table = np.frombuffer(body, layout, count)
    return {name: table[name] for name in layout.names}


def _neighbour_distance(xyz: Float[Tensor, "n 3"], neighbours: int = 3) -> Float[Tensor, "n"]:
    """Mean distance to the nearest other points."""
    if len(xyz) <= 1:
        return xyz.new_full((len(xyz),), 0.01)
    from scipy.spatial import cKDTree

    points = xyz.cpu().numpy()
    distances, _ = cKDTree(points).query(points, k=min(neighbours + 1, len(points)))
    return torch.from_numpy(distances[:, 1:].mean(axis=1)).to(xyz)
