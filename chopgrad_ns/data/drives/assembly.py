"""What readers of recordings share: photos found for frames, boxes gathered into actors, what is odd said in notes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.drives.drive import Photo, Pose, RigCamera, moved
from chopgrad_ns.data.drives.motion import SAME, Motion
from chopgrad_ns.data.pictures import open_picture
from chopgrad_ns.errors import UserError

GAP = 1.8
"""Times the usual distance between frames, from which on some are missing."""


def content_key(files: Iterable[Path], *asked: object) -> str:
    """16 hex digits that change with names, sizes and times of change of files, and with what was asked for."""
    digest = hashlib.sha256(repr(asked).encode())
    for file in files:
        stat = Path(file).stat()
        digest.update(f"{file}\n{stat.st_size}\n{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def photos_for_frames(camera: str, times: Float[np.ndarray, "n"], motion: Motion, frame_times: Float[np.ndarray, "t"],
                      chosen: list[int], world_from_source: Pose, where: str) -> list[tuple[Photo, int]]:
    """Photos of one camera for the frames chosen among all of a recording, and which of the camera's pictures each is.

    A picture belongs to the frame nearest in time, if that is at most half a usual distance between frames away (what is
    beyond belongs to one that is missing); of several, the nearest is taken. `motion` is the vehicle's, in the recording's
    own world.
    """
    usual = float(np.median(np.diff(frame_times))) if len(frame_times) > 1 else 0.1
    found: dict[int, int] = {}
    for index, time in enumerate(times):
        frame = int(np.abs(frame_times - time).argmin())
        away = abs(frame_times[frame] - time)
        if away <= 0.5 * usual + SAME and (frame not in found or away < abs(frame_times[frame] - times[found[frame]])):
            found[frame] = index
    photos = []
    for place, index in ((place, found[frame]) for place, frame in enumerate(chosen) if frame in found):
        time = float(times[index])
        photo = Photo(camera, place, time, motion.at(times[[index]])[0], f"{camera} at {time:.2f} s of {where}",
                      *motion.velocities(time))
        photos.append((moved(photo, world_from_source), index))
    return photos


def gap_notes(times: Float[np.ndarray, "t"], chosen: list[int]) -> list[str]:
    """A sentence for each gap in a recording's time between the first and the last frame chosen."""
    spacing = np.diff(times)
    usual = np.median(spacing) if len(spacing) else 0.0
    return [f"After frame {index} ({times[index]:.2f} s) the recording has a gap of {spacing[index]:.2f} s."
            for index in range(chosen[0], chosen[-1]) if spacing[index] > GAP * usual]


def read_picture(path: Path, camera: RigCamera, where: str) -> bytes:
    """A picture file as it is. Raises UserError where it cannot be decoded to the end, or is not of the camera's size."""
    with open_picture(path, f"picture {path} ({where})", "fetch that file again") as picture:
        size = picture.size
        if size == (camera.width, camera.height):
            picture.load()
    if size != (camera.width, camera.height):
        raise UserError(f"The picture {path} ({where}) has {size[0]}x{size[1]} pixels, where the calibration has "
                        f"{camera.width}x{camera.height}; fetch the recording again.")
    return Path(path).read_bytes()


def missing_files(paths: Iterable[Path], remedy: str) -> None:
    """Raise UserError for the first file that is not there, with how many others are not."""
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        others = f" and {len(missing) - 1} other files are" if len(missing) > 1 else " is"
        raise UserError(f"{missing[0]}{others} missing; {remedy}.")


@dataclass
class Boxes:
    """Boxes of tracks in T frames, while they are gathered."""

    count: int
    _tracks: dict[str, tuple[str, dict[int, tuple[Pose, np.ndarray]]]] = field(default_factory=dict)

    def add(self, track: str, kind: str, frame: int, pose: Pose, size: Float[np.ndarray, "3"]) -> None:
        """A box: world_from_actor, and length, width and height in metres. Raises UserError for a size that is none."""
        size = np.asarray(size, np.float64)
        if size.shape != (3,) or not (np.isfinite(size).all() and (size > 0).all()):
            raise UserError(f"The box of track {track} in frame {frame} has the size {size.tolist()}; its length, width and "
                            "height must be positive.")
        self._tracks.setdefault(track, (kind, {}))[1][frame] = (pose, size)

    def actors(self) -> tuple[list[Actor], list[str]]:
        """An actor a track, in the order in which they were added, its size the median of its boxes'; and notes."""
        actors, single = [], []
        for name, (kind, boxes) in self._tracks.items():
            poses, present = torch.eye(4).repeat(self.count, 1, 1), torch.zeros(self.count, dtype=torch.bool)
            for frame, (pose, _) in boxes.items():
                poses[frame], present[frame] = torch.from_numpy(pose).float(), True
            size = np.median([size for _, size in boxes.values()], axis=0)
            actors.append(Actor(name, kind, torch.from_numpy(size).float(), poses, present))
            if len(boxes) == 1 and self.count > 1:
                single.append(name)
        named = ", ".join(single[:3]) + (" and others" if len(single) > 3 else "")
        return actors, [f"{len(single)} of {len(actors)} tracks have one box only ({named})."] if single else []
