"""Rasterisation in plain torch, tile by tile: the fallback without a compiler, the reference in float64."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

TILE = 16
ALPHA_MIN, ALPHA_MAX, TRANSMITTANCE_MIN = 1 / 255, 0.999, 1e-4


def rotations(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of quaternions wxyz, normalised first."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def harmonics(degree: int, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n k"]:
    """Real spherical harmonics to `degree` ≤ 3 of unit directions, in 3DGS's order and signs."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    basis = [torch.full_like(x, 0.28209479177387814)]
    if degree >= 1:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        basis += [1.0925484305920792 * x * y, -1.0925484305920792 * y * z,
                  0.31539156525252005 * (2 * zz - xx - yy), -1.0925484305920792 * x * z,
                  0.5462742152960396 * (xx - yy)]
    if degree >= 3:
        basis += [-0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z,
                  -0.4570457994644658 * y * (4 * zz - xx - yy),
                  0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
                  -0.4570457994644658 * x * (4 * zz - xx - yy), 1.445305721320277 * z * (xx - yy),
                  -0.5900435899266435 * x * (xx - 3 * yy)]
    return torch.stack(basis, dim=-1)


def project(means, quats, scales, sh, viewmats, Ks, width: int, height: int, near: float, far: float,
            radius_clip: float, eps: float, degree: int):
    """As the kernel's `Project`: radii [C, N], means2d, depths, conics, compensations, colors, with gradients."""
    settings = width, height, near, far, radius_clip, eps, degree
    results = [_project_one(means, quats, scales, sh, view, K, *settings) for view, K in zip(viewmats, Ks)]
    return tuple(torch.stack(values) for values in zip(*results))


def _project_one(means, quats, scales, sh, view, K, width, height, near, far, radius_clip, eps, degree):
    rotation, translation = view[:3, :3], view[:3, 3]
    p = means @ rotation.T + translation
    x, y, depth = p.unbind(-1)
    seen = (depth > near) & (depth < far)
    z = torch.where(seen, depth, torch.ones_like(depth))  # what is behind the camera might divide by zero
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = 0.3 * 0.5 * width / fx, 0.3 * 0.5 * height / fy
    tx = z * (x / z).clamp(-(cx / fx + margin_x), (width - cx) / fx + margin_x)
    ty = z * (y / z).clamp(-(cy / fy + margin_y), (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    J = torch.stack([fx / z, zero, -fx * tx / z**2, zero, fy / z, -fy * ty / z**2], dim=-1).reshape(-1, 2, 3)
    M = rotation @ rotations(quats) * scales[:, None, :]
    JM = J @ M
    cov = JM @ JM.transpose(1, 2)
    a, b, c = cov[:, 0, 0] + eps, cov[:, 0, 1], cov[:, 1, 1] + eps
    det0, det = cov[:, 0, 0] * cov[:, 1, 1] - b * b, a * c - b * b
    seen = seen & (det > 0) & torch.isfinite(det)
    det = torch.where(seen, det, torch.ones_like(det))
    conics = torch.stack([c / det, -b / det, a / det], dim=-1)
    ratio = det0 / det
    comps = torch.where(ratio > 0, ratio.clamp_min(1e-30).sqrt(), zero)
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)
    with torch.no_grad():
        half = 0.5 * (a + c)
        radius = torch.ceil(3 * (half + (half * half - det).clamp_min(0.01).sqrt()).sqrt())
        u, v = means2d.unbind(-1)
        seen = seen & (radius > radius_clip) & (u + radius > 0) & (u - radius < width)
        seen = seen & (v + radius > 0) & (v - radius < height)
        radii = torch.where(seen, radius.clamp_max(1e9), zero).to(torch.int32)
    colors = zero.new_zeros(0)
    if sh is not None:
        position = -rotation.T @ translation
        basis = harmonics(degree, torch.nn.functional.normalize(means - position, dim=-1))
        value = (basis[..., None] * sh[:, :basis.shape[1]]).sum(dim=1)
        colors = torch.where(seen[:, None], (value + 0.5).clamp_min(0), torch.zeros_like(value))
    shown = [torch.where(seen if value.ndim == 1 else seen[:, None], value, torch.zeros_like(value))
             for value in (means2d, depth, conics, comps)]
    return radii, *shown, colors


def composite(means2d: Float[Tensor, "c n 2"], conics: Float[Tensor, "c n 3"], opacities: Float[Tensor, "c n"],
              colors: Float[Tensor, "c n x"], radii: Int[Tensor, "c n"], depths: Float[Tensor, "c n"], width: int,
              height: int, absolute: Float[Tensor, "c n 2"] | None = None
              ) -> tuple[Float[Tensor, "c h w x"], Float[Tensor, "c h w 1"]]:
    """As the kernel's `Composite`: image and alpha of each camera."""
    drawn = [_composite_one(*(values[camera] for values in (means2d, conics, opacities, colors, radii, depths)),
                            width, height, None if absolute is None else absolute[camera])
             for camera in range(len(means2d))]
    images, alphas = zip(*drawn)
    return torch.stack(images), torch.stack(alphas)[..., None]


def _composite_one(means2d, conics, opacities, colors, radii, depths, width, height, absolute):
    """One camera, front to back."""
    visible = torch.nonzero(radii > 0)[:, 0]
    order = visible[torch.argsort(depths[visible].detach(), stable=True)]
    mean, radius = means2d[order].detach(), radii[order].to(means2d)[:, None]
    across, down = -(-width // TILE), -(-height // TILE)
    low = torch.floor((mean - radius) / TILE).clamp_min(0)
    high = torch.minimum(torch.ceil((mean + radius) / TILE), mean.new_tensor([across, down]))
    lists = []
    for i in range(down):
        row = (low[:, 1] <= i) & (i < high[:, 1])
        lists += [order[row & (low[:, 0] <= j) & (j < high[:, 0])] for j in range(across)]
    # Gathered for all tiles at once: a gather a tile would make a gradient of N rows for every tile.
    members, lengths = torch.cat(lists), [len(members) for members in lists]
    gathered = zip(*(values[members].split(lengths) for values in (means2d, conics, opacities, colors)))
    tiles = [_tile(*divmod(k, across), *inputs, width, height, absolute, lists[k]) for k, inputs in enumerate(gathered)]
    rows = [[torch.cat(parts, dim=1) for parts in zip(*tiles[k:k + across])] for k in range(0, len(tiles), across)]
    image, alpha = (torch.cat(parts) for parts in zip(*rows))
    return image, alpha


def _tile(i, j, means2d, conics, opacities, colors, width, height, absolute, members):
    """One tile; Gaussians on the first axis, in order of depth, then rows and columns of pixels."""
    y = torch.arange(i * TILE, min((i + 1) * TILE, height), device=means2d.device).to(means2d) + 0.5
    x = torch.arange(j * TILE, min((j + 1) * TILE, width), device=means2d.device).to(means2d) + 0.5
    a, b, c = (conics[:, k, None] for k in range(3))
    dx, dy = means2d[:, :1] - x, means2d[:, 1:] - y
    sigma = (0.5 * c * dy * dy)[:, :, None] + (0.5 * a * dx * dx)[:, None] + (b * dy)[:, :, None] * dx[:, None]
    if absolute is not None:
        sigma.register_hook(lambda gradient: _add_absolute(gradient, a, b, c, dx, dy, absolute, members))
    alpha = (opacities[:, None, None] * torch.exp(-sigma.clamp_min(0))).clamp_max(ALPHA_MAX)
    alpha = torch.where((sigma >= 0) & (alpha >= ALPHA_MIN), alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1 - alpha, dim=0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]]) if len(after) else after
    weight = torch.where(after.detach() > TRANSMITTANCE_MIN, alpha * before, torch.zeros_like(alpha))
    return torch.tensordot(weight, colors, dims=([0], [0])), weight.sum(dim=0)


@torch.no_grad()
def _add_absolute(gradient, a, b, c, dx, dy, absolute, members) -> None:
    """Sums |∂loss/∂mean| over a tile's pixels from the gradient of σ [n, rows, columns], as gsplat's `absgrad`."""
    dx, dy = dx[:, None], dy[:, :, None]
    slopes = a[:, None] * dx + b[:, None] * dy, b[:, None] * dx + c[:, None] * dy
    absolute.index_add_(0, members, torch.stack([(gradient * s).abs().sum(dim=(1, 2)) for s in slopes], dim=1))
