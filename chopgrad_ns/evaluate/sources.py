"""Predictions, truths, masks and actor ids on disk, matched by name, one clip in memory at a time.

A clip is a folder of frames, or one with `frames/` in it as `chopgrad refine` writes, or a video file, or a pair as `chopgrad
pairs` writes them: of it the clean frames are the truth, the degraded ones the prediction, and there are its mask and actor
ids. Masks are clips too: pixels over half brightness in any colour are inside. Actor ids are folders of 8-bit PNG with one
channel (grey or palette), whose values are the ids.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from chopgrad_ns.data.pictures import open_picture
from chopgrad_ns.data.plain_videos import SUFFIXES, open_video
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.data.video import PICTURES, frame_files, read_frames
from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.metrics import Frames, Mask

A_CLIP = "a folder of frames, a video, or a folder of such clips"


@dataclass(frozen=True)
class ClipPaths:
    """Where what belongs to one clip lies."""

    predicted: Path
    truth: Path
    masks: Path | None = None
    actors: Path | None = None


@dataclass
class ClipPair:
    """What belongs to one clip; `names` are those of its frames. `dropped` is the number of frames with no truth to compare
    with: those of a pair in which nothing is valid, since its splat was fitted to them.
    """

    names: list[str]
    prediction: Frames
    truth: Frames
    mask: Mask | None = None
    actor_ids: UInt8[Tensor, "t 1 h w"] | None = None
    dropped: int = 0

    def to(self, device: str) -> "ClipPair":
        """The same on another device."""
        return self._each(lambda value: value.to(device))

    def keep(self, frames: Bool[Tensor, "t"]) -> "ClipPair":
        """Those of the frames alone; neighbours of what is dropped become neighbours."""
        names = [name for name, kept in zip(self.names, frames) if kept]
        return replace(self._each(lambda value: value[frames]), names=names, dropped=int((~frames).sum()))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "ClipPair":
        values = {name: getattr(self, name) for name in ("prediction", "truth", "mask", "actor_ids")}
        return replace(self, **{name: None if value is None else change(value) for name, value in values.items()})


@dataclass(frozen=True)
class Sources:
    """Clips by name, and for each that lacks a part the reason; `many` if they are of folders of clips.

    `unasked` names pairs of a folder that nothing was predicted for: a task has only some of them.
    """

    clips: dict[str, ClipPaths]
    left_out: dict[str, str] = field(default_factory=dict)
    many: bool = False
    unasked: list[str] = field(default_factory=list)


def find_sources(predicted: Path, truth: Path, masks: Path | None = None, actors: Path | None = None) -> Sources:
    """The clips of paths that are each one clip, or each a folder of clips, matched by name.

    Raises:
        UserError: for a path that is neither, or where one of them is a clip and another a folder of clips.
    """
    paths = [predicted, truth, masks, actors]
    found = [None if path is None else _clips_in(path) for path in paths]
    single = [path for path, clips in zip(paths, found) if clips is None and path is not None]
    if len(single) == len([path for path in paths if path is not None]):
        return Sources({predicted.stem: ClipPaths(*paths)})
    if single:
        many = next(path for path, clips in zip(paths, found) if clips is not None)
        raise UserError(f"{single[0]} is one clip and {many} a folder of clips; give both alike.")
    clips, left_out, unasked = {}, {}, []
    for name in sorted(found[0].keys() | found[1].keys()):
        missing = [path for path, inside in zip(paths, found) if inside is not None and name not in inside]
        if name not in found[0] and _is_pair(found[1][name]):
            unasked.append(name)
        elif missing:
            left_out[name] = f"it is not in {missing[0]}"
        else:
            clips[name] = ClipPaths(*(None if inside is None else inside[name] for inside in found))
    return Sources(clips, left_out, True, unasked)


def _clips_in(path: Path) -> dict[str, Path] | None:
    """The clips in a folder by name; None for a path that is a clip itself."""
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return None
    if not path.is_dir():
        raise UserError(f"{path} is neither a folder nor a video; give {A_CLIP}.")
    inside = [child for child in sorted(path.iterdir()) if not child.name.startswith(".") and child.suffix != ".part"]
    if _frames_of(path) != path or _is_pair(path):
        return None
    # Pictures beside videos or folders of frames are covers or previews.
    if not any(_is_clip(child) for child in inside) and any(child.suffix.lower() in PICTURES for child in inside):
        return None
    clips: dict[str, Path] = {}
    for child in inside:
        name = child.name if child.is_dir() else child.stem
        if child.is_dir() or child.suffix.lower() in SUFFIXES:
            if name in clips:
                raise UserError(f"{clips[name]} and {child} are both clips called {name}; rename one.")
            clips[name] = child
    if not clips:
        raise UserError(f"There are no frames and no clips in {path}; give {A_CLIP}.")
    return clips


def _is_clip(child: Path) -> bool:
    return bool(frame_files(_frames_of(child))) if child.is_dir() else child.suffix.lower() in SUFFIXES


def _is_pair(folder: Path) -> bool:
    return (folder / "pair.json").is_file()


def _frames_of(folder: Path) -> Path:
    """Where the frames of a clip's folder are."""
    return folder / "frames" if (folder / "frames").is_dir() else folder


def read_pair(paths: ClipPaths) -> ClipPair:
    """Read a clip's frames, and its masks and actor ids where there are any.

    Frames are matched by name; where one side is a video, whose frames have no names, by their order.

    Raises:
        UserError: if something cannot be read, or is not of the same frames and size.
    """
    names, prediction = _read(paths.predicted, _degraded)
    stored = StoredPair(paths.truth).read() if _is_pair(paths.truth) else None
    true_names, truth = _read(paths.truth, _degraded) if stored is None else (_numbers(stored.clean), stored.clean)
    pair = ClipPair(true_names or names or _numbers(truth), prediction, truth)
    _check(paths.predicted, names, prediction, paths.truth, true_names, truth)
    if paths.masks is not None:
        mask_names, masks = _read(paths.masks, lambda stored: _part(stored, "mask"))
        _check(paths.masks, mask_names, masks, paths.truth, true_names or names, truth)
        pair.mask = (masks > 0.5).any(dim=1, keepdim=True)
    if paths.actors is not None:
        id_names, pair.actor_ids = _read_ids(paths.actors)
        _check(paths.actors, id_names, pair.actor_ids, paths.truth, true_names or names, truth)
    return pair if stored is None else _with_truth(pair, stored.valid, paths.truth)


def _with_truth(pair: ClipPair, valid: Mask | None, truth: Path) -> ClipPair:
    """Without the frames of the stored pair `truth` in which nothing is valid."""
    if valid is None or valid.flatten(1).any(dim=1).all():
        return pair
    known = valid.flatten(1).any(dim=1)
    if not known.any():
        raise UserError(f"No frame of {truth} can be compared, for its splat was fitted to all; give pairs with others.")
    return pair.keep(known)


def _check(path: Path, names: list[str] | None, frames: Tensor, other: Path, other_names: list[str] | None,
           others: Tensor) -> None:
    """Raise UserError unless a clip has another's frames, by name where both have names, and its size."""
    if names is not None and other_names is not None and names != other_names:
        different = sorted(set(names) ^ set(other_names))
        raise UserError(f"{path} and {other} do not hold the same frames; {different[0]} is in one of them only, so "
                        "make their names agree.")
    if len(frames) != len(others):
        raise UserError(f"{path} has {len(frames)} frames and {other} has {len(others)}; make their lengths agree.")
    if frames.shape[-2:] != others.shape[-2:]:
        raise UserError(f"The frames in {path} are {frames.shape[-1]}×{frames.shape[-2]} px, those in {other} "
                        f"{others.shape[-1]}×{others.shape[-2]}; make the sizes agree.")


def _read(path: Path, of_pair: Callable[[StoredPair], Frames]) -> tuple[list[str] | None, Frames]:
    """Names and frames of a clip; None for names of a video's."""
    if _is_pair(path):
        frames = of_pair(StoredPair(path))
        return _numbers(frames), frames
    return read_frames(_frames_of(path)) if path.is_dir() else (None, open_video(path).read())


def _numbers(frames: Tensor) -> list[str]:
    """Names of frames as `chopgrad refine` gives them."""
    return [f"{number:05d}" for number in range(len(frames))]


def _degraded(stored: StoredPair) -> Frames:
    if stored.scale != (1, 1):
        raise UserError(f"The degraded frames of the pair {stored.folder} are smaller than its clean ones; refine them, "
                        "or give frames that were enlarged.")
    return stored.read().degraded.frames


def _part(stored: StoredPair, name: str) -> Tensor:
    """Its mask or actor ids."""
    value = getattr(stored.read().degraded, name)
    if value is None:
        raise UserError(f"The pair {stored.folder} has no {name.replace('_', ' ')}; leave it out, or give pairs that have.")
    return value


def _read_ids(folder: Path) -> tuple[list[str], UInt8[Tensor, "t 1 h w"]]:
    if _is_pair(folder):
        ids = _part(StoredPair(folder), "actor_ids")
        return _numbers(ids), ids
    files = [path for path in frame_files(_frames_of(folder)) if path.suffix.lower() == ".png"] if folder.is_dir() else []
    if not files:
        raise UserError(f"There are no PNG files of actor ids in {folder}; give a folder with one for each frame.")
    maps = []
    for path in files:
        with open_picture(path, f"actor ids {path}", "write them again as 8-bit PNG") as picture:
            ids = np.asarray(picture) if picture.mode in ("L", "P") else None
        if ids is None or ids.shape != (maps or [ids])[0].shape:
            raise UserError(f"{path} is not a map of actor ids as large as the first one; write 8-bit PNG with one "
                            "channel, all of one size.")
        maps.append(ids)
    return [path.stem for path in files], torch.from_numpy(np.stack(maps))[:, None]
