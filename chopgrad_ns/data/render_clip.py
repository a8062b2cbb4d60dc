"""A splat seen along a trajectory, with the nearest training photos warped into every frame."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.data.references import REFERENCES, ReferencePhotos, choose_references, without_unused
from chopgrad_ns.data.views import Views
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.render import Rendered, Scene, render


def render_clip(splat: Scene | Sequence[Scene], cameras: Cameras, views: Views, count: int = REFERENCES) -> Clip:
    """Render `splat`, or an ensemble, and warp the `count` nearest of `views` into each frame by the depth there."""
    photos = reference_photos(splat, cameras, views, count) if count else None
    return with_references(render(splat, cameras), cameras, photos)


def reference_photos(splat: Scene | Sequence[Scene], cameras: Cameras, views: Views, count: int = REFERENCES,
                     usable: Sequence[int] | None = None, exclude: Int[Tensor, "t"] | None = None) -> ReferencePhotos:
    """The `count` nearest of `views` for each of `cameras`, with the depth that `splat` has in them.

    Args:
        usable: indices of `views` that may serve as references (all by default); a fold leaves its own photos out.
        exclude: for each camera the index of a view that it must not see, its own photo; −1 for none.
    """
    usable = list(range(len(views)) if usable is None else usable)
    if exclude is not None:
        exclude = torch.tensor([usable.index(own) if own in usable else -1 for own in exclude.tolist()])
    kept, choice = without_unused(choose_references(cameras, views.cameras[usable], count, exclude))
    kept = [usable[index] for index in kept]
    depth = render(splat, views.cameras[kept]).depth
    if views.masks is not None:
        depth = depth * views.masks[kept].to(depth)  # without depth, nothing is believed
    return ReferencePhotos(views.photos[kept], views.cameras[kept], depth, choice)


def with_references(seen: Rendered, cameras: Cameras, photos: ReferencePhotos | None) -> Clip:
    """The clip of what `render` saw, with `photos`, if any, warped into it."""
    references, masks = (None, None) if photos is None else photos.warp(cameras, seen.depth, seen.alpha)
    return Clip(seen.rgb, cameras, seen.alpha, seen.depth, references=references, reference_masks=masks)
