"""The kernel's two halves as autograd functions, `means2d` between them (densification reads its gradient)."""

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
    """(means, quats, scales, sh, viewmats) → radii, means2d, depths, conics, compensations, colors; C cameras each."""

    @staticmethod
    def forward(ctx, means, quats, scales, sh, viewmats, Ks, width, height, near, far, radius_clip, eps, degree):
        tensors = [_ready(t) for t in (means, quats, scales, viewmats, Ks)]
        means, quats, scales, viewmats, Ks = tensors
        sh = None if sh is None else _ready(sh)
        N, C = len(means), len(viewmats)
        radii = torch.zeros(C, N, dtype=torch.int32)
        means2d, depths, conics = torch.zeros(C, N, 2), torch.zeros(C, N), torch.zeros(C, N, 3)
        comps = torch.zeros(C, N)
        colors = torch.zeros(C, N, 3) if sh is not None else torch.zeros(0)
        bands = 0 if sh is None else sh.shape[1]
        load().chopgrad_project(
            _l(N), _i(C), _pointer(means), _pointer(quats), _pointer(scales), _pointer(sh), _i(bands), _i(degree),
            _pointer(viewmats), _pointer(Ks), _i(width), _i(height), _f(near), _f(far), _f(radius_clip), _f(eps),
            _i(threads()), _pointer(radii), _pointer(means2d), _pointer(depths), _pointer(conics), _pointer(comps),
            _pointer(colors))
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
        v_means, v_quats, v_scales = torch.zeros_like(means), torch.zeros_like(quats), torch.zeros_like(scales)
        v_sh = None if sh is None else torch.zeros_like(sh)
        v_viewmats = torch.zeros_like(viewmats)
        bands = 0 if sh is None else sh.shape[1]
        load().chopgrad_project_backward(
            _l(N), _i(C), _pointer(means), _pointer(quats), _pointer(scales), _pointer(sh), _i(bands), _i(degree),
            _pointer(viewmats), _pointer(Ks), _i(width), _i(height), _f(near), _f(far), _f(eps), _i(threads()),
            _pointer(radii), _pointer(conics), _pointer(colors), *(_pointer(v) for v in cotangents), _pointer(v_means),
            _pointer(v_quats), _pointer(v_scales), _pointer(v_sh), _pointer(v_viewmats))
        return v_means, v_quats, v_scales, v_sh, v_viewmats, *(None,) * 8


class Composite(torch.autograd.Function):
    """(means2d, conics, opacities, colors) of one camera → image [H, W, X], alpha [H, W].

    With `holder`, a list of one tensor (the `means2d` that the user sees), the sum of absolute gradients of the mean
    over pixels is left in its `.absgrad`, as gsplat does.
    """

    @staticmethod
    def forward(ctx, means2d, conics, opacities, colors, radii, depths, width, height, holder):
        means2d, conics, opacities, colors, depths = (_ready(t) for t in (means2d, conics, opacities, colors, depths))
        N, channels = colors.shape
        kernel = load()
        offsets = torch.empty(N + 1, dtype=torch.int64)
        geometry = _pointer(means2d), _pointer(conics), _pointer(radii)
        total = kernel.chopgrad_count_tiles(_l(N), *geometry, _pointer(opacities), _i(width), _i(height), _i(threads()),
                                            _pointer(offsets))
        tiles = -(-width // 16) * -(-height // 16)
        starts = torch.empty(tiles + 1, dtype=torch.int64)
        members, slots = torch.empty(total, dtype=torch.int32), torch.empty(total, dtype=torch.int32)
        kernel.chopgrad_bin(_l(N), *geometry, _pointer(depths), _pointer(opacities), _i(width), _i(height), _i(threads()),
                            _pointer(offsets), _pointer(starts), _pointer(members), _pointer(slots))
        image, alpha = torch.empty(height, width, channels), torch.empty(height, width)
        last = torch.empty(height, width, dtype=torch.int32)
        kernel.chopgrad_composite(_pointer(means2d), _pointer(conics), _pointer(opacities), _pointer(colors),
                                  _i(channels), _i(width), _i(height), _i(threads()), _pointer(starts), _pointer(members),
                                  _pointer(image), _pointer(alpha), _pointer(last))
        ctx.save_for_backward(means2d, conics, opacities, colors, offsets, starts, members, slots, alpha, last)
        ctx.holder = holder
        return image, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx, v_image, v_alpha):
        means2d, conics, opacities, colors, offsets, starts, members, slots, alpha, last = ctx.saved_tensors
        N, channels = colors.shape
        height, width = alpha.shape
        v_image, v_alpha = v_image.contiguous(), v_alpha.contiguous()
        v_means2d, absolute, v_conics = torch.zeros_like(means2d), torch.zeros_like(means2d), torch.zeros_like(conics)
        v_opacities, v_colors = torch.zeros_like(opacities), torch.zeros_like(colors)
        load().chopgrad_composite_backward(
            _l(N), _pointer(means2d), _pointer(conics), _pointer(opacities), _pointer(colors), _i(channels), _i(width),
            _i(height), _i(threads()), _pointer(offsets), _pointer(starts), _pointer(members), _pointer(slots),
            _pointer(alpha), _pointer(last), _pointer(v_image), _pointer(v_alpha), _pointer(v_means2d),
            _pointer(absolute), _pointer(v_conics), _pointer(v_opacities), _pointer(v_colors))
        if ctx.holder is not None:
            target, camera = ctx.holder
            if not hasattr(target, "absgrad"):
                target.absgrad = torch.zeros_like(target)
            target.absgrad[camera] = absolute
        return v_means2d, v_conics, v_opacities, v_colors, None, None, None, None, None
