"""Gaussians as data, in the raw parametrisation that is trained and that 3DGS PLY files hold."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chopgrad_ns.splat import geometry
from chopgrad_ns.splat.cameras import Cameras

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

    def at(self, camera: Cameras) -> Gaussians:
        """Themselves, at any time: a `render.Scene` in which nothing moves."""
        return self

    def behind(self, camera: Cameras) -> None:
        """Nothing is behind them."""

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

    @staticmethod
    def load(path: Path) -> Gaussians:
        """Read a 3DGS PLY, a compressed PLY or an SPZ of SH degree 0…3, told apart by content; float32, on the CPU.

        See `chopgrad_ns.splat.files` for what the formats keep. Raises UserError where the file is none of them.
        """
        from chopgrad_ns.splat import files

        return files.load(Path(path))

    def save(self, path: Path) -> None:
        """Write `.ply` (every float as it is), `.compressed.ply` or `.spz` (both lossy), whole or not at all.

        Raises UserError for other suffixes, where the path cannot be written to, and where a lossy format cannot
        hold the values.
        """
        from chopgrad_ns.splat import files

        files.save(self, Path(path))

    def __getitem__(self, index: int | slice | list[int] | Int[Tensor, "m"] | Bool[Tensor, "n"]) -> Gaussians:
        """Some of the Gaussians, by mask, by indices or as a slice; an int gives one, still with its leading axis."""
        if isinstance(index, int):
            index = [index]
        return self._map(lambda value: value[index])

    def transformed(self, target_from_source: Float[Tensor, "4 4"]) -> Gaussians:
        """Turned, scaled and moved as a whole: drawn from cameras moved along, it looks as before.

        Harmonics turn too. Differentiable, in `target_from_source` as well. Raises ValueError for what is not a
        similarity (rotation, translation and one scale > 0) and for SH degrees above 3.
        """
        rotation, translation, scale = geometry.similarity(target_from_source.to(self.means.device))
        means = self.means @ (scale * rotation).to(self.means).T + translation.to(self.means)
        return Gaussians(means, self.log_scales + scale.log().to(self.log_scales),
                         geometry.rotate_quaternions(rotation, self.quats), self.opacity_logits,
                         geometry.rotate_harmonics(rotation, self.sh))

    def cropped(self, low: Float[Tensor, "3"], high: Float[Tensor, "3"]) -> Gaussians:
        """Those whose means lie between the corners `low` and `high` of an axis-aligned box, in world units.

        Raises ValueError where `low` is above `high`.
        """
        low, high = (torch.as_tensor(corner).to(self.means) for corner in (low, high))
        if not (low <= high).all():
            raise ValueError(f"the box from {low.tolist()} to {high.tolist()} is inside out")
        return self[((self.means >= low) & (self.means <= high)).all(dim=1)]

    def bounding_box(self, share: float = 1.0) -> Float[Tensor, "2 3"]:
        """Lowest and highest coordinates of the means; its centre is the mean of the two.

        With `share` < 1 as many means are left out at either end of each axis as leave that share between: trained
        splats have a few Gaussians far away. Means that are not finite do not count. Raises ValueError without any.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share {share} is not in 0…1")
        finite = self.means[torch.isfinite(self.means).all(dim=1)]
        if not len(finite):
            raise ValueError("there are no finite means to put a box around")
        ordered = finite.sort(dim=0).values
        outside = int((1 - share) / 2 * (len(ordered) - 1))
        return torch.stack([ordered[outside], ordered[len(ordered) - 1 - outside]])

    def with_sh_degree(self, degree: int) -> Gaussians:
        """Harmonics cut, or filled up with zeros, to `degree`."""
        bands = (degree + 1) ** 2
        kept = self.sh[:, :bands]
        missing = kept.new_zeros(len(self), bands - kept.shape[1], 3)
        return replace(self, sh=torch.cat([kept, missing], dim=1))

    @staticmethod
    def merged(parts: list[Gaussians]) -> Gaussians:
        """All Gaussians of several splats, in order, with the highest of their SH degrees.

        Raises ValueError for an empty list.
        """
        if not parts:
            raise ValueError("there is nothing to merge")
        degree = max(part.sh_degree for part in parts)
        parts = [part.with_sh_degree(degree) for part in parts]
        return Gaussians(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Gaussians)))


def _neighbour_distance(xyz: Float[Tensor, "n 3"], neighbours: int = 3) -> Float[Tensor, "n"]:
    """Mean distance to the nearest other points."""
    if len(xyz) <= 1:
        return xyz.new_full((len(xyz),), 0.01)
    from scipy.spatial import cKDTree

    points = xyz.cpu().numpy()
    distances, _ = cKDTree(points).query(points, k=min(neighbours + 1, len(points)))
    return torch.from_numpy(distances[:, 1:].mean(axis=1)).to(xyz)
