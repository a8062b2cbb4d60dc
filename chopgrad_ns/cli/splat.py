"""Tell what splat files hold; merge, scale, turn, move, crop and convert them between PLY, compressed PLY and SPZ.

Example: chopgrad splat car.spz driver.compressed.ply --output both.ply --scale 0.5 --rotate 90 0 0
"""

from pathlib import Path
from typing import Annotated, Optional, Tuple

import tyro

Three = Tuple[float, float, float]
Six = Tuple[float, float, float, float, float, float]


def run(splats: Annotated[Tuple[Path, ...], tyro.conf.Positional], output: Optional[Path] = None, scale: float = 1.0,
        rotate: Three = (0.0, 0.0, 0.0), translate: Three = (0.0, 0.0, 0.0),
        crop: Optional[Six] = None, sh_degree: Optional[int] = None) -> None:
    """Describe splats, and with --output write them as one.

    Args:
        splats: PLY, compressed PLY or SPZ
        output: name.ply, name.compressed.ply or name.spz for all of them together, after what follows, in this order
        scale: about the origin
        rotate: degrees about the x axis, then about y, then about z (axes that stay where they are)
        translate: along x, y and z
        crop: x0 y0 z0 x1 y1 z1, the corners of a box in the output's coordinates; what has its mean outside is left out
        sh_degree: keep spherical harmonics up to this degree
    """
    from chopgrad_ns.errors import UserError
    from chopgrad_ns.splat import Gaussians
    from chopgrad_ns.splat.files import format_found, format_to_write

    if not splats:
        raise UserError("There is no splat to tell about; give one file or more.")
    _check(scale, (*rotate, *translate), crop, sh_degree)
    matrix = _similarity(scale, rotate, translate)
    moves = bool((matrix != matrix.new_ones(4).diag()).any())
    if output is not None:
        format_to_write(output)
    elif moves or crop is not None or sh_degree is not None:
        raise UserError("There is nowhere to write the changed splat to; give --output as well.")
    loaded = []
    for path in splats:
        loaded.append(Gaussians.load(path))
        print(f"{path}\n{_description(loaded[-1], format_found(path))}")
    if output is None:
        return
    made = Gaussians.merged(loaded)
    if moves:
        made = made.transformed(matrix)
    if crop is not None:
        whole, made = made, made.cropped(crop[:3], crop[3:])
        if not len(made) and whole.means.isfinite().all(dim=1).any():
            raise UserError(f"Nothing lies in the box of --crop; most of the splat is in {_box(whole, 0.98)}.")
    if sh_degree is not None:
        made = made.with_sh_degree(min(sh_degree, made.sh_degree))
    made.save(output)
    print(f"{output}\n{_description(made, format_to_write(output))}")


def _check(scale: float, numbers: Tuple[float, ...], crop: Optional[Six], sh_degree: Optional[int]) -> None:
    """Refuse what could only fail later."""
    import math

    from chopgrad_ns.errors import UserError

    if not 1e-9 <= scale <= 1e9:
        raise UserError(f"--scale is {scale}; give a number from 1e-9 to 1e9.")
    if not all(map(math.isfinite, numbers)):
        raise UserError("--rotate and --translate take finite numbers; give three for each.")
    if crop is not None and not all(low <= high for low, high in zip(crop[:3], crop[3:])):
        raise UserError("--crop is inside out; give the lower corner, then the upper one: x0 y0 z0 x1 y1 z1.")
    if sh_degree is not None and not 0 <= sh_degree <= 3:
        raise UserError(f"--sh-degree is {sh_degree}; give 0, 1, 2 or 3.")


def _similarity(scale: float, degrees: Three, translation: Three):
    """Scaled, then turned about x, y and z, then moved: [4, 4], float64."""
    import torch
    from scipy.spatial.transform import Rotation

    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = scale * torch.from_numpy(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix())
    matrix[:3, 3] = torch.tensor(translation, dtype=torch.float64)
    return matrix


def _description(splat, kind: str) -> str:
    """A small table."""
    import torch

    rows = {"format": kind, "Gaussians": f"{len(splat):,}", "SH degree": str(splat.sh_degree)}
    whole = torch.isfinite(torch.cat([splat.means, splat.log_scales, splat.opacity_logits[:, None]], dim=1)).all(dim=1)
    if not whole.all():
        rows["not finite"] = f"{int((~whole).sum()):,}"
    finite = splat[whole]
    if len(finite):
        rows["box of the means"] = _box(finite, 1.0)
        rows["… of 98 % of them"] = _box(finite, 0.98)
        rows["opacity"] = _spread(finite.opacity_logits.sigmoid())
        rows["standard deviation"] = _spread(finite.log_scales.exp().flatten())
    return "\n".join(f"  {name:<20}{value}" for name, value in rows.items())


def _box(splat, share: float) -> str:
    low, high = (", ".join(f"{value:.4g}" for value in corner) for corner in splat.bounding_box(share).tolist())
    return f"({low}) … ({high})"


def _spread(values) -> str:
    ordered = values.sort().values
    shares = {"5 %": 0.05, "median": 0.5, "95 %": 0.95}
    return ", ".join(f"{name} {float(ordered[int(share * (len(ordered) - 1))]):.3g}" for name, share in shares.items())
