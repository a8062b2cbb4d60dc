"""An actor's own splat, in the frame of its box, from the photos that it is seen in."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.boxes import box_depth, from_actor
from chopgrad_ns.data.references import project
from chopgrad_ns.data.views import Views
from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.fit import FitSettings, Progress, fit
from chopgrad_ns.splat.gaussians import Gaussians

LEAST_PIXELS = 12
"""Frames that show fewer of an actor's pixels tell nothing of it."""
ENLARGED = 1.1
"""Boxes are annotated by hand: Gaussians may lie this much farther out."""
ENOUGH_POINTS = 1000
"""Scene points on an actor from which its splat is started; with fewer, it is from its outline in the photos."""
MOST_SEEDS = 2000
STANDING = 0.1
"""An actor that stays within this share of its length stands still."""


def fit_actor(views: Views, actor: Actor, actor_ids: UInt8[Tensor, "t 1 h w"], index: int, settings: FitSettings,
              background_depth: Float[Tensor, "t 1 h w"] | None = None, progress: Progress | None = None) -> Gaussians:
    """Splat of the actor at `index` of the scene's list, x forward, y left, z up, the box's centre at the origin.

    Fitted in camera_from_actor = camera_from_world · world_from_actor, so that one that moves stands still. Its
    pixels are cut out by `actor_ids` and laid over random backgrounds: nothing is left outside its outline. Pixels of
    other actors do not count, for it may be behind them. A drive sees few sides: harmonics of degree 1 at most, and
    large Gaussians cost something.

    Args:
        background_depth: z of what stands around, 0 where unknown; pixels where that is in front do not count either.

    Raises UserError if no frame shows enough of it, and if its pixels are not where its box is.
    """
    seen = actor.present.cpu() & ((actor_ids == index + 1).flatten(1).sum(dim=1) >= LEAST_PIXELS).cpu()
    frames = seen.nonzero().flatten().tolist()
    if not frames:
        raise UserError(f"Actor {actor.name} cannot be fitted: no frame shows {LEAST_PIXELS} pixels of it; leave it "
                        "out.")
    ids, cameras = actor_ids[frames], from_actor(actor[frames], views.cameras[frames])
    own = ids == index + 1
    counts = own | (ids == 0)
    if background_depth is not None:
        around, box = background_depth[frames], box_depth(actor.size, cameras)
        counts &= own | ~((around > 0) & (around < 0.9 * box) & torch.isfinite(box))
    depths = None if views.depths is None else views.depths[frames]
    cut, cameras = _crop(own, cameras, views.photos[frames], own, counts, depths)
    photos, own, counts, depths = cut
    box = actor.size.to(photos)
    generator = torch.Generator().manual_seed(settings.seed)
    elsewhere = UserError(f"Actor {actor.name} cannot be fitted: its pixels are not where its box is.")
    points, colors = _seeds(photos, own, counts, cameras, box, _scene_points(views, actor, frames), generator)
    if not len(points):
        raise elsewhere
    settings = replace(settings, sh_degree=min(settings.sh_degree, 1), random_background=True,
                       scale_reg=0.01 if settings.scale_reg is None else settings.scale_reg)
    if depths is not None:
        depths = torch.where(own, depths, 0)
    splat = fit(photos, cameras, points, colors, settings, progress, depths, counts, own.to(photos),
                extent=float(box.norm()) / 2)
    splat = splat.cropped(-ENLARGED * box / 2, ENLARGED * box / 2)
    if not len(splat):
        raise elsewhere
    return splat


def _crop(own: Bool[Tensor, "t 1 h w"], cameras: Cameras, *pictures: Tensor | None) -> tuple[list, Cameras]:
    """Pictures and cameras cut to windows around what is `own`, all as large as the largest needs."""
    margin, smallest = 6, 24
    size, first, window = (cameras.height, cameras.width), [], []
    for axis in (0, 1):
        line = own[:, 0].any(dim=2 - axis)
        start = line.int().argmax(dim=1)
        end = size[axis] - line.flip(1).int().argmax(dim=1)
        length = min(max(int((end - start).max()) + 2 * margin, smallest), size[axis])
        window.append(length)
        first.append(((start + end - length) // 2).clamp(0, size[axis] - length))
    (height, width), (top, left) = window, first
    K = cameras.K.clone()
    K[:, 0, 2] -= left
    K[:, 1, 2] -= top
    cut = [None if picture is None else torch.stack([
        frame[:, y:y + height, x:x + width] for frame, y, x in zip(picture, top.tolist(), left.tolist())])
        for picture in pictures]
    return cut, replace(cameras, K=K, width=width, height=height)


def _scene_points(views: Views, actor: Actor, frames: list[int]) -> Float[Tensor, "p 3"]:
    """Scene points in the box, in its frame; none for one that moves: points do not say when they were there."""
    if actor.moves(STANDING * float(actor.size[0])):
        return views.points[:0]
    pose = actor.world_from_actor[frames[0]].to(views.points)
    local = (views.points - pose[:3, 3]) @ pose[:3, :3]
    return local[(local.abs() <= ENLARGED * actor.size.to(local) / 2).all(dim=1)]


def _seeds(photos, own, counts, cameras: Cameras, box: Float[Tensor, "3"], scene: Float[Tensor, "p 3"],
           generator) -> tuple[Float[Tensor, "s 3"], Float[Tensor, "s 3"]]:
    """Coloured points on the actor: the scene's, or else those of its visual hull that are in front somewhere."""
    kept = scene[_in_outline(scene, own, counts, cameras)]
    if len(kept) < ENOUGH_POINTS:
        drawn = (torch.rand(20_000, 3, generator=generator).to(box) - 0.5) * box
        hull = _in_outline(drawn, own, counts, cameras)
        if not hull.any():  # boxes and outlines that disagree carve all away
            hull = _in_outline(drawn, own, torch.zeros_like(counts), cameras)
        kept = drawn[hull]
        kept = kept[_in_front(kept, own, cameras, float(box.min()) / 4).any(dim=0)]
    kept = kept[torch.randperm(len(kept), generator=generator)[:MOST_SEEDS].to(kept.device)]
    front = _in_front(kept, own, cameras, float(box.min()) / 4)
    pixel, inside = _pixels(kept, cameras)
    colors = photos.flatten(2).gather(2, pixel[:, None].expand(-1, 3, -1))
    weight = (front & inside & _at(own, pixel))[:, None].to(photos)
    usual = (photos * own).sum(dim=(0, 2, 3)) / own.sum()
    shown = weight.sum(dim=0)
    return kept, torch.where(shown > 0, (colors * weight).sum(dim=0) / shown.clamp_min(1), usual[:, None]).T


def _pixels(points: Float[Tensor, "p 3"], cameras: Cameras) -> tuple[Int[Tensor, "t p"], Bool[Tensor, "t p"]]:
    """Flat index of the pixel that each point falls on (0 if none), and whether it falls on one."""
    uv, z = project(points, cameras)
    inside = (z > 1e-3) & (uv >= 0).all(dim=-1) & (uv[..., 0] < cameras.width) & (uv[..., 1] < cameras.height)
    column, row = uv.floor().nan_to_num(0, 0, 0).clamp(0, max(cameras.width, cameras.height)).long().unbind(dim=-1)
    return torch.where(inside, row * cameras.width + column, 0), inside


def _at(picture: Bool[Tensor, "t 1 h w"], pixel: Int[Tensor, "t p"]) -> Bool[Tensor, "t p"]:
    return picture.flatten(1).gather(1, pixel)


def _in_outline(points, own, counts, cameras: Cameras) -> Bool[Tensor, "p"]:
    """Points on the actor's pixels in some frame, and in no frame on ones that show that it is not there."""
    if not len(points):
        return torch.zeros(0, dtype=torch.bool, device=points.device)
    near = F.max_pool2d(own.float(), 3, 1, 1) > 0
    pixel, inside = _pixels(points, cameras)
    return (inside & _at(own, pixel)).any(dim=0) & ~(inside & _at(counts & ~near, pixel)).any(dim=0)


def _in_front(points, own, cameras: Cameras, tolerance: float) -> Bool[Tensor, "t p"]:
    """Whether a point is, up to `tolerance`, the nearest of those in its part of the picture."""
    # As fine as the points fill the outline, four to a cell or so.
    cell = max(1.0, (4 * float(own.sum()) / len(own) / max(len(points), 1)) ** 0.5)
    uv, z = project(points, cameras)
    across, down = (int(length / cell) + 1 for length in (cameras.width, cameras.height))
    column, row = (uv[..., axis].div(cell).nan_to_num(0, 0, 0).clamp(0, most - 1).long()
                   for axis, most in ((0, across), (1, down)))
    index, z = row * across + column, torch.where(z > 1e-3, z, torch.inf)
    nearest = z.new_full((len(cameras), across * down), torch.inf).scatter_reduce(1, index, z, "amin")
    return (z <= nearest.gather(1, index) + tolerance) & torch.isfinite(z)
