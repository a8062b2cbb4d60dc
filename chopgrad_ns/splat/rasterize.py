"""One way to draw Gaussians: gsplat on CUDA, our own kernel on the CPU, plain torch where no compiler is.

All three follow gsplat's conventions: 0.3 px² of blur, alpha below 1/255 ignored and capped at 0.999, a pixel
finished when its transmittance would fall to 1e-4, boxes of three standard deviations on tiles of 16 pixels.
"""

import weakref
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.splat import torch_backend
from chopgrad_ns.splat.cpu import functions
from chopgrad_ns.splat.cpu.build import load
from chopgrad_ns.splat.torch_backend import TILE

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
Backend = Literal["auto", "gsplat", "cpu", "torch"]


def choose_backend(means: Tensor, backend: Backend = "auto") -> str:
    """The backend that `auto` means for these inputs."""
    if backend != "auto":
        return backend
    if means.is_cuda:
        return "gsplat"
    return "cpu" if means.dtype == torch.float32 and load() is not None else "torch"


def rasterize(
    means: Float[Tensor, "n 3"], quats: Float[Tensor, "n 4"], scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"], colors: Tensor, viewmats: Float[Tensor, "c 4 4"],
    Ks: Float[Tensor, "c 3 3"], width: int, height: int, near_plane: float = 0.01, far_plane: float = 1e10,
    radius_clip: float = 0.0, eps2d: float = 0.3, sh_degree: int | None = None, packed: bool = True,
    tile_size: int = TILE, backgrounds: Float[Tensor, "c x"] | None = None, render_mode: RenderMode = "RGB",
    sparse_grad: bool = False, absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic", *, backend: Backend = "auto",
) -> tuple[Float[Tensor, "c h w x"], Float[Tensor, "c h w 1"], dict]:
    """Draw N Gaussians into C cameras; signature, defaults and results are those of `gsplat.rasterization`.

    Gradients reach means, quats, scales, opacities, colors, viewmats and backgrounds.

    Args:
        quats: wxyz, any length.
        scales: standard deviations in world units, not their logarithms.
        opacities: 0…1.
        colors: [N, X] or [C, N, X], or with `sh_degree` (0…3) spherical harmonics [N, K, 3] or [C, N, K, 3].
        viewmats: camera_from_world, OpenCV axes.
        near_plane, far_plane: depths between which Gaussians are drawn, world units.
        radius_clip: Gaussians of at most this radius, in pixels, are left out.
        eps2d: blur added to the variance in the picture, square pixels.
        packed: whether `meta` lists only what is drawn; the picture is the same.
        backgrounds: behind the colours of each camera; nothing is behind the depth.
        rasterize_mode: "antialiased" weakens Gaussians by what the blur adds to their area.
        tile_size, sparse_grad: gsplat only; the CPU works on tiles of 16 and gives dense gradients.

    Returns:
        image (colour, then depth, as `render_mode` says; "D" is Σ weight·depth, "ED" that divided by alpha),
        alpha, and `meta`: `means2d` [C, N, 2] in pixels (on which `retain_grad` works, with `.absgrad` after a
        backward pass if asked for), `radii` [C, N] in pixels (0 where not drawn), `depths` [C, N], `conics`
        [C, N, 3], `opacities` [C, N], `camera_ids` and `gaussian_ids` (None), `width`, `height`, `n_cameras`,
        `tile_size`, `tile_width`, `tile_height`. If `packed`, the arrays hold the M drawn pairs of a camera and a
        Gaussian instead ([M, 2], [M], …), and the two ids say which they are. gsplat's lists of tiles are absent.

    Raises:
        ValueError: for an unknown mode or backend, shapes that do not fit, an SH degree above 3 or above what
            `colors` holds, or an option that the backend lacks.
    """
    _check(means, quats, scales, opacities, colors, viewmats, Ks, sh_degree, render_mode)
    chosen = choose_backend(means, backend)
    if chosen == "gsplat":
        return _with_gsplat(
            means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane=near_plane,
            far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d, sh_degree=sh_degree, packed=packed,
            tile_size=tile_size, backgrounds=backgrounds, render_mode=render_mode, sparse_grad=sparse_grad,
            absgrad=absgrad, rasterize_mode=rasterize_mode)
    if chosen not in ("cpu", "torch"):
        raise ValueError(f"backend {backend!r} is not one of auto, gsplat, cpu, torch")
    if sparse_grad or tile_size != TILE:
        raise ValueError(f"backend {chosen} has no sparse_grad, and tiles of {TILE} pixels only")
    sh = None if sh_degree is None else colors
    settings = (width, height, near_plane, far_plane, radius_clip, eps2d, sh_degree or 0)
    radii, means2d, depths, conics, comps, shaded = _project(
        chosen, means, quats, scales, sh, viewmats, Ks, settings)
    if sh is None:
        shaded = colors.expand(len(viewmats), *colors.shape) if colors.ndim == 2 else colors
    opacity = opacities.expand(len(viewmats), -1)
    if rasterize_mode == "antialiased":
        opacity = opacity * comps
    arrays = {"means2d": means2d, "radii": radii, "depths": depths, "conics": conics, "opacities": opacity}
    meta = {**arrays, "camera_ids": None, "gaussian_ids": None, "width": width, "height": height,
            "n_cameras": len(viewmats), "tile_size": TILE, "tile_width": -(-width // TILE),
            "tile_height": -(-height // TILE)}
    if packed:
        drawn = torch.nonzero(radii, as_tuple=True)
        meta |= {name: values[drawn] for name, values in arrays.items()}
        meta["camera_ids"], meta["gaussian_ids"] = drawn
        # What the user sees stands between projection and compositing, so that it receives a gradient.
        means2d = torch.zeros_like(means2d).index_put(drawn, meta["means2d"])
    absolute = _absolute_gradient(means2d, meta) if absgrad and means2d.requires_grad else None
    composite = functions.Composite.apply if chosen == "cpu" else torch_backend.composite
    features = _features(shaded, depths, render_mode)
    image, alpha = composite(means2d, conics, opacity, features, radii, depths, width, height, absolute)
    return _finish(image, alpha, backgrounds, render_mode), alpha, meta


def _check(means, quats, scales, opacities, colors, viewmats, Ks, sh_degree: int | None, mode: str) -> None:
    if mode not in ("RGB", "D", "ED", "RGB+D", "RGB+ED"):
        raise ValueError(f"render_mode {mode!r} is not one of RGB, D, ED, RGB+D, RGB+ED")
    if sh_degree is not None and not 0 <= sh_degree <= 3:
        raise ValueError(f"sh_degree {sh_degree} is not one of 0, 1, 2, 3")
    N, C, tail = len(means), len(viewmats), colors.ndim - (2 if sh_degree is None else 3)
    expected = {"means": (means, (N, 3)), "quats": (quats, (N, 4)), "scales": (scales, (N, 3)),
                "opacities": (opacities, (N,)), "viewmats": (viewmats, (C, 4, 4)), "Ks": (Ks, (C, 3, 3)),
                "colors": (colors, ((C,) * tail + (N,) + tuple(colors.shape[tail + 1:])))}
    for name, (values, shape) in expected.items():
        if tuple(values.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(values.shape)}, not {shape}")
    if tail not in (0, 1) or sh_degree is not None and colors.shape[-1] != 3:
        raise ValueError(f"colors of shape {tuple(colors.shape)} are neither [N, X] nor harmonics [N, K, 3], nor "
                         "either of them for each camera")
    if sh_degree is not None and (sh_degree + 1) ** 2 > colors.shape[-2]:
        needed = (sh_degree + 1) ** 2
        raise ValueError(f"sh_degree {sh_degree} needs {needed} coefficients, not {colors.shape[-2]}")


def _absolute_gradient(means2d: Float[Tensor, "c n 2"], meta: dict) -> Float[Tensor, "c n 2"]:
    """Where compositing leaves absolute gradients; once it has, they become the `.absgrad` of what the user sees."""
    absolute = torch.zeros_like(means2d)
    seen = weakref.ref(meta["means2d"])  # a hook that held its own tensor would keep the whole graph alive
    drawn = None if meta["camera_ids"] is None else (meta["camera_ids"], meta["gaussian_ids"])

    def publish(_) -> None:
        if (target := seen()) is not None:
            target.absgrad = absolute if drawn is None else absolute[drawn]

    means2d.register_hook(publish)
    return absolute


def _project(chosen: str, means, quats, scales, sh, viewmats, Ks, settings):
    """What each camera sees, stacked over cameras; harmonics may differ between cameras ([C, N, K, 3])."""
    project = functions.Project.apply if chosen == "cpu" else torch_backend.project
    if sh is None or sh.ndim == 3:
        return project(means, quats, scales, sh, viewmats, Ks, *settings)
    parts = [project(means, quats, scales, sh[k], viewmats[k:k + 1], Ks[k:k + 1], *settings)
             for k in range(len(viewmats))]
    return tuple(torch.cat(values) for values in zip(*parts))


def _features(colors: Tensor, depths: Tensor, mode: str) -> Float[Tensor, "c n x"]:
    """What is composited: colours, depth, or both."""
    if mode == "RGB":
        return colors
    depth = depths[..., None]
    return depth if mode in ("D", "ED") else torch.cat([colors, depth], dim=-1)


def _finish(image: Tensor, alpha: Tensor, backgrounds: Tensor | None, mode: str) -> Tensor:
    """Background behind the colours, and depth divided by alpha where the expected one is asked for."""
    if backgrounds is not None and mode not in ("D", "ED"):
        count = backgrounds.shape[-1]
        shown = image[..., :count] + (1 - alpha) * backgrounds[:, None, None]
        image = torch.cat([shown, image[..., count:]], dim=-1)
    if mode in ("ED", "RGB+ED"):
        image = torch.cat([image[..., :-1], image[..., -1:] / alpha.clamp_min(1e-10)], dim=-1)
    return image


def _with_gsplat(*args, backgrounds, render_mode, **options):
    from gsplat.rendering import rasterization

    if backgrounds is not None and render_mode in ("RGB+D", "RGB+ED"):
        # gsplat 1.4 takes a background for every channel, depth included; nothing is behind the depth.
        backgrounds = torch.nn.functional.pad(backgrounds, (0, 1))
    return rasterization(*args, backgrounds=backgrounds, render_mode=render_mode, **options)
