"""The splat of a drive's surroundings, without its actors and without what shadow they throw on the ground."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.boxes import footprint, from_actor
from chopgrad_ns.data.references import project
from chopgrad_ns.data.views import Views
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.fit import FitSettings, Progress, fit
from chopgrad_ns.splat.gaussians import SH_C0, Gaussians
from chopgrad_ns.splat.geometry import quaternions
from chopgrad_ns.splat.render import render

NEIGHBOURS = 12
"""Gaussians of the ground around that colour a piece of ground which no photo shows."""


def hidden_pixels(actors: Sequence[Actor], actor_ids: UInt8[Tensor, "t 1 h w"], cameras: Cameras, shadow: float,
                  dilation: int = 2) -> Bool[Tensor, "t 1 h w"]:
    """Pixels that say nothing about the surroundings: actors, `dilation` pixels around them, and their shadows.

    A shadow is looked for on the ground under the box and around it, as far as `shadow` times the box's height. 1 is
    enough for a sun 45° high; less leaves the ends of shadows in, and more costs detail of the ground.
    """
    hidden = F.max_pool2d((actor_ids > 0).float(), 2 * dilation + 1, 1, dilation) > 0
    for actor in actors:
        frames = actor.present.nonzero().flatten().tolist()
        if frames:
            hidden[frames] |= footprint(actor.size, from_actor(actor[frames], cameras[frames]),
                                        shadow * float(actor.size[2])).to(hidden.device)
    return hidden


def fit_cleared(views: Views, actors: Sequence[Actor], hidden: Bool[Tensor, "t 1 h w"], settings: FitSettings,
                shadow: float, progress: Progress | None = None) -> Gaussians:
    """Splat of what `views` show outside `hidden`; ground under actors that no photo shows goes on as around it.

    The ground is taken to be flat under an actor, at the bottom of its box.
    """
    kept = _seen(views.points, views.cameras, ~hidden) & ~_in_boxes(views.points, actors)
    splat = fit(views.photos, views.cameras, views.points[kept], views.colors[kept], settings, progress, views.depths,
                masks=~hidden)
    # What only hidden pixels show has grown from its neighbours unseen: chunks, often in front of an actor.
    splat = splat[_seen(splat.means, views.cameras, ~hidden) | ~_seen(splat.means, views.cameras, hidden)]
    alpha = render(splat, views.cameras).alpha
    pieces = [_unseen_ground(splat, actor, frame, views.cameras, hidden & (alpha < 0.9), shadow)
              for actor in actors for frame in _places(actor)]
    return Gaussians.merged([splat, *(piece.with_sh_degree(splat.sh_degree) for piece in pieces)])


def fill_holes(rgb: Float[Tensor, "t 3 h w"], alpha: Float[Tensor, "t 1 h w"]) -> Float[Tensor, "t 3 h w"]:
    """Colours (of a render on black) where `alpha` is low, as blurred as the hole is wide: pull and push over halvings.

    Gortler et al., "The Lumigraph", 1996. Where alpha is 1, the colours themselves; black if alpha is 0 everywhere.
    """
    if max(rgb.shape[-2:]) == 1:
        return rgb / alpha.clamp_min(1e-6)
    coarse = fill_holes(*(F.avg_pool2d(value, 2, ceil_mode=True) for value in (rgb, alpha)))
    return rgb + (1 - alpha) * F.interpolate(coarse, size=rgb.shape[-2:], mode="bilinear")


def _seen(points, cameras: Cameras, where: Bool[Tensor, "t 1 h w"]) -> Bool[Tensor, "p"]:
    """Points that fall on a pixel in `where` in some frame."""
    uv, z = project(points, cameras)
    grid = (uv / uv.new_tensor([cameras.width, cameras.height]) * 2 - 1)[:, None]
    found = F.grid_sample(where.to(grid), grid, mode="nearest", align_corners=False)[:, 0, 0]  # zero outside
    return ((found > 0) & (z > 1e-3)).any(dim=0)


def _in_boxes(points, actors: Sequence[Actor]) -> Bool[Tensor, "p"]:
    """Points inside an actor's box in some frame, but for the bottom of it, where the ground is."""
    inside = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for actor in actors:
        half = actor.size.to(points) / 2
        for pose in actor.world_from_actor[actor.present].to(points):
            local = (points - pose[:3, 3]) @ pose[:3, :3]
            inside |= (local.abs() <= 1.05 * half).all(dim=1) & (local[:, 2] > -0.9 * half[2])
    return inside


def _places(actor: Actor) -> list[int]:
    """Frames in which it has gone its own length since the one before, the first included."""
    places: list[int] = []
    for frame in actor.present.nonzero().flatten().tolist():
        centers = actor.world_from_actor[:, :3, 3]
        if not places or (centers[frame] - centers[places[-1]]).norm() > actor.size[0]:
            places.append(frame)
    return places


def _unseen_ground(splat: Gaussians, actor: Actor, frame: int, cameras: Cameras, holes: Bool[Tensor, "t 1 h w"],
                   shadow: float) -> Gaussians:
    """Flat, opaque Gaussians on the ground around the box where `holes` show it, coloured like the ground near by."""
    from scipy.spatial import cKDTree

    pose, size = actor.world_from_actor[frame].to(splat.means), actor.size.to(splat.means)
    texel, reach = float(size[0]) / 24, size[:2] / 2 + shadow * size[2]
    x, y = (torch.arange(-float(most), float(most), texel) for most in reach)
    flat = torch.cartesian_prod(x, y).to(splat.means)
    grid = torch.cat([flat, (-size[2] / 2).expand(len(flat), 1)], dim=1)
    world = grid @ pose[:3, :3].T + pose[:3, 3]
    missing = _seen(world, cameras, holes)
    local = (splat.means - pose[:3, 3]) @ pose[:3, :3]
    ground = ((local[:, 2] + size[2] / 2).abs() < 0.1 * size[2]) & (splat.opacity_logits > 0)
    ground &= (local[:, :2].abs() <= reach + size[0]).all(dim=1)
    count = int(missing.sum())
    if not count or int(ground.sum()) < NEIGHBOURS:
        return splat[:0]
    distance, near = cKDTree(local[ground, :2].cpu().numpy()).query(flat[missing].cpu().numpy(), k=NEIGHBOURS)
    weight = 1 / torch.from_numpy(distance).to(splat.means).clamp_min(texel)
    weight = (weight / weight.sum(dim=1, keepdim=True))[..., None]
    sh = (splat.sh[ground, 0][torch.from_numpy(near).to(splat.means.device)] * weight).sum(dim=1)
    scales = torch.tensor([0.6 * texel, 0.6 * texel, 0.1 * texel]).to(splat.means)
    return Gaussians(world[missing], scales.log().repeat(count, 1), quaternions(pose[None, :3, :3]).repeat(count, 1),
                     splat.opacity_logits.new_full((count,), 3.0), sh[:, None])
