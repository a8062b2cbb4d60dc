"""A clip: the one thing that goes through every room."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from jaxtyping import Float, UInt8
from torch import Tensor

from chopgrad_ns.splat.cameras import Cameras

if TYPE_CHECKING:
    from chopgrad_ns.data.references import ReferencePhotos


@dataclass
class Clip:
    """T frames of video and what their source knows about them.

    `frames` [T, 3, H, W] in 0…1; `alpha` [T, 1, H, W] in 0…1, opacity of the splat; `depth` [T, 1, H, W], z
    in world units, 0 where empty; `mask` [T, 1, H, W] in 0…1; `references` [T, R, 3, H, W] in 0…1, photos
    warped into each frame, and `reference_masks` [T, R, 1, H, W] in 0…1, how far each warped pixel can be
    believed; `actor_ids` [T, 1, H, W], uint8, 0 for the background; `photos` [P, 3, h, w] in 0…1, photos of the same
    place that are not aligned with the frames, of any size. Shapes are checked when a clip is made (ValueError).
    """

    frames: Float[Tensor, "t 3 h w"]
    cameras: Cameras | None = None
    alpha: Float[Tensor, "t 1 h w"] | None = None
    depth: Float[Tensor, "t 1 h w"] | None = None
    mask: Float[Tensor, "t 1 h w"] | None = None
    references: Float[Tensor, "t r 3 h w"] | None = None
    reference_masks: Float[Tensor, "t r 1 h w"] | None = None
    actor_ids: UInt8[Tensor, "t 1 h w"] | None = None
    photos: Float[Tensor, "p 3 h2 w2"] | None = None

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[1] != 3 or not len(self.frames):
            raise ValueError(f"frames have shape {tuple(self.frames.shape)}, not [T, 3, H, W] with T ≥ 1")
        count, _, height, width = self.frames.shape
        for name in ("alpha", "depth", "mask", "actor_ids"):
            value = getattr(self, name)
            if value is not None and value.shape != (count, 1, height, width):
                raise ValueError(f"{name} has shape {tuple(value.shape)}, not {(count, 1, height, width)}")
        if (self.references is None) != (self.reference_masks is None):
            raise ValueError("references and reference_masks go together")
        if self.references is not None:
            shared = (count, self.references.shape[1])
            expected = (*shared, 3, height, width), (*shared, 1, height, width)
            if (self.references.shape, self.reference_masks.shape) != expected:
                raise ValueError(f"references {tuple(self.references.shape)} and reference_masks "
                                 f"{tuple(self.reference_masks.shape)} do not fit frames "
                                 f"{tuple(self.frames.shape)}")
        if self.photos is not None and (self.photos.ndim != 4 or self.photos.shape[1] != 3):
            raise ValueError(f"photos have shape {tuple(self.photos.shape)}, not [P, 3, h, w]")
        cameras = self.cameras
        if cameras is not None and (len(cameras), cameras.height, cameras.width) != (count, height, width):
            raise ValueError(f"{len(cameras)} cameras of {cameras.width}×{cameras.height} do "
                             f"not fit frames {tuple(self.frames.shape)}")

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, frames: slice) -> Clip:
        """Some of the frames, everything cut alike; photos belong to all of them."""
        return self._each(lambda name, value: value if name == "photos" else value[frames])

    def to(self, *args, **kwargs) -> Clip:
        """Move or cast, as `Tensor.to`; ids are moved only."""
        frames = self.frames.to(*args, **kwargs)
        return self._each(lambda name, value: frames if name == "frames" else value.to(frames.device) if name == "actor_ids"
                          else value.to(*args, **kwargs))

    @property
    def carries(self) -> frozenset[str]:
        """Names of what there is."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def _each(self, change) -> Clip:
        return Clip(**{name: change(name, getattr(self, name)) for name in self.carries})


@dataclass
class Pair:
    """A degraded clip, what it should have looked like, and where that is known.

    The degraded frames may be smaller than `clean`, for super-resolution. `valid` [T, 1, H, W], of the size of `clean`, is
    1 where it may be trained on, 0 elsewhere; None means everywhere. `reference_photos`, where there are any, are what the
    degraded clip's references were warped from; on disk they then stand in for these.
    """

    degraded: Clip
    clean: Float[Tensor, "t 3 h w"]
    name: str
    valid: Float[Tensor, "t 1 h w"] | None = None
    reference_photos: ReferencePhotos | None = None

    def __post_init__(self) -> None:
        low = self.degraded.frames.shape
        if self.clean.ndim != 4 or self.clean.shape[:2] != low[:2] or min(self.scale) < 1:
            raise ValueError(f"clean has shape {tuple(self.clean.shape)}, degraded {tuple(low)}")
        if self.valid is not None and self.valid.shape != self.clean[:, :1].shape:
            raise ValueError(f"valid has shape {tuple(self.valid.shape)}, not "
                             f"{tuple(self.clean[:, :1].shape)}")

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def scale(self) -> tuple[float, float]:
        """How much higher and wider `clean` is than the degraded frames."""
        return tuple(clean / low for clean, low in zip(self.clean.shape[-2:], self.degraded.frames.shape[-2:],
                                                       strict=True))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the clean frames, pixels."""
        return tuple(self.clean.shape[-2:])

    @property
    def carries(self) -> frozenset[str]:
        """Names of what the degraded clip has."""
        return self.degraded.carries

    @property
    def reference_count(self) -> int:
        """References of each frame."""
        return 0 if self.degraded.references is None else self.degraded.references.shape[1]

    def read(self, frames: slice = slice(None)) -> Pair:
        """Some of the frames; what is on disk has the same method."""
        photos = None if self.reference_photos is None else self.reference_photos[frames]
        valid = None if self.valid is None else self.valid[frames]
        return Pair(self.degraded[frames], self.clean[frames], self.name, valid, photos)
