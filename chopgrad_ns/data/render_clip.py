"""A splat seen along a trajectory, with the nearest training photos warped into every frame."""

from collections.abc import Sequence

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.data.references import warp_references
from chopgrad_ns.data.views import Views
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.render import render


def render_clip(splat: Gaussians, cameras: Cameras, views: Views, count: int = 2,
                usable: Sequence[int] | None = None) -> Clip:
    """Render `splat` at `cameras` and warp the `count` nearest of `views` into each frame by the splat's depth.

    Args:
        usable: indices of `views` that may serve as references (all by default); a fold leaves its own photos out.
    """
    sources = views if usable is None else views.subset(list(usable))
    seen = render(splat, cameras)
    photo_depth = render(splat, sources.cameras).depth
    references, masks = warp_references(cameras, seen.depth, seen.alpha, sources.photos, sources.cameras, photo_depth,
                                        count=min(count, len(sources)))
    return Clip(frames=seen.rgb, cameras=cameras, alpha=seen.alpha, depth=seen.depth, mask=None,
                references=references, reference_masks=masks)
