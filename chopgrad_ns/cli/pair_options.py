"""The options of `chopgrad pairs`, in groups."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional, Tuple


@dataclass
class Scenes:
    """How scenes are read."""

    views: Literal["training", "all"] = "training"
    """which views are used: beside the training views there are those that a refiner is judged by later, and which it must
    never have seen"""
    every: int = 8
    """every N-th view is a training view"""
    longest_side: int = 240
    """pixels"""


@dataclass
class Worlds:
    """Which sample worlds there are."""

    kinds: Tuple[Literal["room", "courtyard", "objects", "street", "closeup"], ...] = ("room", "courtyard", "objects", "street",
                                                                                       "closeup")
    """taken in turn"""
    first_seed: int = 1000
    """of the first world; the next has the next"""
    frames: int = 40
    """along a walk or drive"""
    width: int = 192
    """pixels"""
    height: int = 128
    """pixels"""
    exposure_change: Optional[float] = 0.0
    """stops by which single photos differ (standard deviation); None for what each world's seed draws. Nobody can foretell
    the exposure of a photo that is held out, and a refiner should not learn to guess it"""
    flaws: bool = False
    """soft lenses, grain, haze and poses a little off, as captures have them"""


@dataclass
class Splats:
    """How splats are fitted and shown."""

    ways: Optional[Tuple[Literal["sparse", "folds", "underfit", "cameras", "actors", "edits"], ...]] = None
    """what they are fitted to: sparse (some views only), folds (k times all but a fold), underfit (all views, but stopped
    early and with few Gaussians), cameras (of a rig, all but one; photos lie in a folder for each camera), actors
    (the surroundings without actors, which are fitted alone and put back: driving scenes with actors.json, streets), edits
    (a vehicle inserted into a drive of chopgrad sample street, beside the truth); by default folds for scenes, edits for
    such drives and sparse for sample worlds"""
    sparse_every: Optional[int] = None
    """every N-th view is fitted to; by default 8 for scenes, and 8, 5 and 4 in turn for sample worlds"""
    folds: int = 3
    """k"""
    steps: int = 400
    """training steps"""
    underfit_steps: int = 100
    """training steps of underfitted splats"""
    underfit_gaussians: int = 2000
    """their Gaussians at most"""
    references: int = 4
    """training photos warped into each frame"""
    keep_photos: bool = False
    """store photos and their depth, and warp them when a pair is read: smaller, and slower to read"""


@dataclass
class Videos:
    """How clips of videos are degraded."""

    tasks: Tuple[Literal["super-resolution", "inpainting"], ...] = ("super-resolution", "inpainting")
    """what they are to teach"""
    clip_frames: int = 24
    """frames of a clip; none lies across a cut"""
    clip_stride: Optional[int] = None
    """frames from one clip to the next; by default clips lie side by side"""
    video_side: int = 640
    """longest side of the clean clips, pixels"""
    degradation: Tuple[Literal["second-order", "first-order", "bicubic", "blur-down"], ...] = ("second-order",)
    """for super-resolution: blur, noise, resizing and compression drawn at random, twice or once; or one of the two plain
    ones"""
    scale: float = 4.0
    """for super-resolution: how much smaller the degraded clip is; may be a fraction"""
    masks: Tuple[Literal["brush", "box", "moving-box", "central"], ...] = ("brush", "box", "moving-box")
    """for inpainting: shapes that are cut out"""
    object_masks: Optional[Path] = None
    """for inpainting: folder with a folder of PNG masks for each video, called as it; what is not black is cut out"""
    mask_margin: int = 4
    """pixels that object masks are grown by"""
    seed: int = 0
    """of everything drawn at random"""
