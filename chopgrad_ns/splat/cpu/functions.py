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
    """(means2d, conics, opacities, colors) of one camera → image [H, W, X], transmittance [H, W].

    With `holder`, the `means2d` [C, N, 2] that the user sees and the camera's number, the sum over pixels of
    absolute gradients of the mean is left in its `.absgrad`, as gsplat does.
    """

    @staticmethod
    def forward(ctx, means2d, conics, opacities, colors, radii, depths, width, height, holder):
        inputs = means2d, conics, opacities, colors, depths
        means2d, conics, opacities, colors, depths = map(_ready, inputs)
        N, channels = colors.shape
        kernel = load()
        offsets = torch.empty(N + 1, dtype=torch.int64)
        geometry, size = tuple(map(_pointer, (means2d, conics, radii))), (_i(width), _i(height), _i(threads()))
        total = kernel.chopgrad_count_tiles(_l(N), *geometry, _pointer(opacities), *size, _pointer(offsets))
        if total >= 2**31:
            raise MemoryError(f"{total} pairs of a Gaussian and a tile are more than the rasteriser can index")
        tiles = -(-width // 16) * -(-height // 16)
        starts = torch.empty(tiles + 1, dtype=torch.int64)
        members, slots = torch.empty(total, dtype=torch.int32), torch.empty(total, dtype=torch.int32)
        kernel.chopgrad_bin(_l(N), *geometry, _pointer(depths), _pointer(opacities), *size,
                            *map(_pointer, (offsets, starts, members, slots)))
        image, transmittance = torch.empty(height, width, channels), torch.empty(height, width)
        last = torch.empty(height, width, dtype=torch.int32)
        gaussians, lists = (means2d, conics, opacities, colors), (offsets, starts, members, slots)
        kernel.chopgrad_composite(_l(N), *map(_pointer, gaussians), _i(channels), *size,
                                  *map(_pointer, (starts, members, image, transmittance, last)))
        ctx.save_for_backward(*gaussians, *lists, transmittance, last)
        ctx.holder = holder
        return image, transmittance

    @staticmethod
    @once_differentiable
    def backward(ctx, v_image, v_transmittance):
        means2d, conics, opacities, colors, *lists, transmittance, last = ctx.saved_tensors
        N, channels = colors.shape
        height, width = transmittance.shape
        members = lists[2]
        shares = torch.zeros(len(members), 8 + channels)
        cotangents = v_image.contiguous(), v_transmittance.contiguous()
        v_means2d, absolute, v_conics = torch.empty(N, 2), torch.empty(N, 2), torch.empty(N, 3)
        v_opacities, v_colors = torch.empty(N), torch.empty(N, channels)
        load().chopgrad_composite_backward(
            _l(N), *map(_pointer, (means2d, conics, opacities, colors)), _i(channels), _i(width), _i(height),
            _i(threads()), *map(_pointer, (*lists, transmittance, last, *cotangents, shares)),
            *map(_pointer, (v_means2d, absolute, v_conics, v_opacities, v_colors)))
        if ctx.holder is not None:
            target, camera = ctx.holder
            if not hasattr(target, "absgrad"):
                target.absgrad = torch.zeros_like(target)
            target.absgrad[camera] = absolute
        return v_means2d, v_conics, v_opacities, v_colors, None, None, None, None, None
