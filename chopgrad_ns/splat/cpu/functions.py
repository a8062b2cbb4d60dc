"""The kernel's halves as autograd functions, `means2d` between them, whose gradient densification reads."""

import ctypes

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from chopgrad_ns.splat.cpu.build import load


def threads() -> int:
    """Threads of one call: torch's own number, so that one setting governs both."""
    return torch.get_num_threads()


def _pointer(tensor: Tensor | None):
    if tensor is None:
        return None
    assert tensor.is_contiguous() and tensor.device.type == "cpu"
    return ctypes.c_void_p(tensor.data_ptr())


def _ready(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).contiguous()


_f, _i, _l = ctypes.c_float, ctypes.c_int, ctypes.c_int64


class Project(torch.autograd.Function):
    """(means, quats, scales, sh, viewmats) → radii [C, N], means2d, depths, conics, compensations, colors."""

    @staticmethod
    def forward(ctx, means, quats, scales, sh, viewmats, Ks, *settings):
        width, height, near, far, radius_clip, eps, degree = settings
        means, quats, scales, viewmats, Ks = (_ready(t) for t in (means, quats, scales, viewmats, Ks))
        sh = None if sh is None else _ready(sh)
        N, C = len(means), len(viewmats)
        radii = torch.zeros(C, N, dtype=torch.int32)
        means2d, depths, conics = torch.zeros(C, N, 2), torch.zeros(C, N), torch.zeros(C, N, 3)
        comps = torch.zeros(C, N)
        colors = torch.zeros(C, N, 3) if sh is not None else torch.zeros(0)
        bands = 0 if sh is None else sh.shape[1]
        load().chopgrad_project(
            _l(N), _i(C), *map(_pointer, (means, quats, scales, sh)), _i(bands), _i(degree), _pointer(viewmats),
            _pointer(Ks), _i(width), _i(height), _f(near), _f(far), _f(radius_clip), _f(eps), _i(threads()),
            *map(_pointer, (radii, means2d, depths, conics, comps, colors)))
        ctx.save_for_backward(means, quats, scales, viewmats, Ks, sh, radii, conics, colors)
        ctx.settings = width, height, near, far, eps, degree
        ctx.mark_non_differentiable(radii)
        return radii, means2d, depths, conics, comps, colors

    @staticmethod
    @once_differentiable
    def backward(ctx, _, v_means2d, v_depths, v_conics, v_comps, v_colors):
        means, quats, scales, viewmats, Ks, sh, radii, conics, colors = ctx.saved_tensors
        width, height, near, far, eps, degree = ctx.settings
        N, C = len(means), len(viewmats)
        cotangents = [v.contiguous() for v in (v_means2d, v_depths, v_conics, v_comps, v_colors)]
        v_means, v_quats, v_scales, v_viewmats = map(torch.zeros_like, (means, quats, scales, viewmats))
        v_sh = None if sh is None else torch.zeros_like(sh)
        bands = 0 if sh is None else sh.shape[1]
        load().chopgrad_project_backward(
            _l(N), _i(C), *map(_pointer, (means, quats, scales, sh)), _i(bands), _i(degree), _pointer(viewmats),
            _pointer(Ks), _i(width), _i(height), _f(near), _f(far), _f(eps), _i(threads()),
            *map(_pointer, (radii, conics, colors, *cotangents, v_means, v_quats, v_scales, v_sh, v_viewmats)))
        return v_means, v_quats, v_scales, v_sh, v_viewmats, *(None,) * 8


class Composite(torch.autograd.Function):
    """(means2d [C, N, 2], conics, opacities, colors [C, N, X]) → image [C, H, W, X], alpha [C, H, W, 1].

    The sums over pixels of absolute gradients of the means are left in `absolute` [C, N, 2], if it is there.
    """

    @staticmethod
    def forward(ctx, means2d, conics, opacities, colors, radii, depths, width, height, absolute):
        ctx.absolute = absolute
        means2d, conics, opacities, colors, depths = map(_ready, (means2d, conics, opacities, colors, depths))
        C, N, channels = colors.shape
        image, alpha = torch.empty(C, height, width, channels), torch.empty(C, height, width, 1)
        kept = [colors]
        for camera in range(C):
            inputs = (values[camera] for values in (means2d, conics, radii, depths, opacities))
            lists = _tile_lists(N, inputs, width, height)
            kept += [*lists, *_composite(lists, colors[camera], image[camera], alpha[camera])]
        ctx.save_for_backward(*kept)
        return image, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx, v_image, v_alpha):
        colors, *kept = ctx.saved_tensors
        C, N, channels = colors.shape
        _, height, width, _ = v_image.shape
        v_image, v_alpha = v_image.contiguous(), v_alpha.contiguous()
        v_means2d, v_conics = torch.empty(C, N, 2), torch.empty(C, N, 3)
        v_opacities, v_colors = torch.empty(C, N), torch.empty(C, N, channels)
        each = len(kept) // max(C, 1)
        for camera in range(C):
            order, ordered, offsets, starts, members, slots, *seen = kept[camera * each:(camera + 1) * each]
            shares = torch.empty(len(members), 8 + channels)
            outputs = (v_means2d, ctx.absolute, v_conics, v_opacities, v_colors)
            load().chopgrad_composite_backward(
                _l(N), *map(_pointer, (order, ordered, colors[camera])), _i(channels), _i(width), _i(height),
                _i(threads()), *map(_pointer, (offsets, starts, members, slots, *seen)),
                *map(_pointer, (v_image[camera], v_alpha[camera], shares)),
                *(_pointer(None if values is None else values[camera]) for values in outputs))
        return v_means2d, v_conics, v_opacities, v_colors, None, None, None, None, None


def _tile_lists(N: int, inputs, width: int, height: int) -> list[Tensor]:
    """One camera's Gaussians by depth and the tiles they touch: what the kernel's `chopgrad_bin` documents."""
    means2d, conics, radii, depths, opacities = inputs
    kernel, size = load(), (_i(width), _i(height), _i(threads()))
    order, ordered = torch.empty(N, dtype=torch.int32), torch.empty(N, 8)
    touched, offsets = torch.empty(N, dtype=torch.int64), torch.empty(N + 1, dtype=torch.int64)
    total = kernel.chopgrad_sort(_l(N), *map(_pointer, (means2d, conics, radii, depths, opacities)), *size,
                                 *map(_pointer, (order, ordered, touched, offsets)))
    if total >= 2**31:
        raise MemoryError(f"{total} pairs of a Gaussian and a tile are more than the rasteriser can index")
    starts = torch.empty(-(-width // 16) * -(-height // 16) + 1, dtype=torch.int64)
    members, slots = torch.empty(total, dtype=torch.int32), torch.empty(total, dtype=torch.int32)
    kernel.chopgrad_bin(_l(N), *map(_pointer, (radii, ordered, touched, offsets)), *size,
                        *map(_pointer, (starts, members, slots)))
    return [order, ordered, offsets, starts, members, slots]


def _composite(lists: list[Tensor], colors: Tensor, image: Tensor, alpha: Tensor) -> list[Tensor]:
    """Fill one camera's image and alpha; returns what its backward pass needs beside the lists."""
    _, ordered, _, starts, members, _ = lists
    height, width, channels = image.shape
    transmittance, last = torch.empty(height, width), torch.empty(height, width, dtype=torch.int32)
    hits = torch.empty(len(members), dtype=torch.int32)
    load().chopgrad_composite(*map(_pointer, (ordered, colors)), _i(channels), _i(width), _i(height), _i(threads()),
                              *map(_pointer, (starts, members, image, alpha, transmittance, last, hits)))
    return [transmittance, last, hits]
