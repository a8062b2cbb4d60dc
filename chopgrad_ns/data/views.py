"""The photographs that training may see."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Bool, Float
from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.cameras import Cameras


@dataclass(frozen=True)
class Rig:
    """What views of a drive know besides: `names`, the camera of the rig that took each; `left` [N, 3], unit vectors to the
    vehicle's left in the world; `metre`, how long one is in world units.
    """

    names: list[str]
    left: Float[Tensor, "n 3"]
    metre: float = 1.0

    def __getitem__(self, indices: list[int]) -> "Rig":
        return Rig([self.names[index] for index in indices], self.left[indices], self.metre)

    def of_camera(self, name: str) -> list[int]:
        """Indices of one camera's views."""
        return [index for index, other in enumerate(self.names) if other == name]

    def cameras(self) -> list[str]:
        """The cameras' names, each once, in order of their first views."""
        return list(dict.fromkeys(self.names))


@dataclass
class Views:
    """Training photos of one scene, in capture order, all of one size and without lens distortion.

    `photos` [N, 3, H, W] in 0…1; `points` [P, 3] and `colors` [P, 3] in 0…1 seed a splat; `depths` [N, 1, H, W], where
    there are any, are priors of z, 0 or not finite where unknown; all live in the world of `cameras`. `masks` [N, 1, H, W],
    bool, where there are any, are True where a photo shows what stands still: the rest is not looked at. `rig`, for drives:
    each of its cameras is a trajectory of its own. Held-out photos and what belongs to them are never part of a `Views`:
    code that is handed one cannot reach them.
    """

    photos: Float[Tensor, "n 3 h w"]
    cameras: Cameras
    points: Float[Tensor, "p 3"]
    colors: Float[Tensor, "p 3"]
    depths: Float[Tensor, "n 1 h w"] | None = None
    masks: Bool[Tensor, "n 1 h w"] | None = None
    rig: Rig | None = None

    def __post_init__(self) -> None:
        count, _, height, width = self.photos.shape
        if (len(self.cameras), self.cameras.height, self.cameras.width) != (count, height, width):
            raise ValueError(f"{len(self.cameras)} cameras of {self.cameras.width}×{self.cameras.height} for {count} "
                             f"photos of {width}×{height}")
        for name, value in {"depths": self.depths, "masks": self.masks}.items():
            if value is not None and value.shape != (count, 1, height, width):
                raise ValueError(f"{name} of shape {tuple(value.shape)} for {count} photos of {width}×{height}")
        if self.rig is not None and len(self.rig.names) != count:
            raise ValueError(f"a rig of {len(self.rig.names)} views for {count} photos")
        if count < 2:
            raise UserError(f"{count} training view is not enough to reconstruct from; give at least 2 (a smaller "
                            "--every).")

    def __len__(self) -> int:
        return len(self.photos)

    def to(self, device) -> "Views":
        """Move."""
        rig = None if self.rig is None else replace(self.rig, left=self.rig.left.to(device))
        return self._each(lambda value: value.to(device), lambda value: value.to(device), rig)

    def subset(self, indices: list[int]) -> "Views":
        """The views at `indices`, with the same seed points."""
        return self._each(lambda value: value[indices], lambda value: value, self.rig and self.rig[indices])

    def _each(self, of_views: Callable, of_points: Callable, rig: Rig | None) -> "Views":
        depths, masks = (None if value is None else of_views(value) for value in (self.depths, self.masks))
        return Views(of_views(self.photos), of_views(self.cameras), of_points(self.points), of_points(self.colors), depths,
                     masks, rig)
