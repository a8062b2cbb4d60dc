"""Ground truth of a sample street, as `drive_files.write_drive` writes it: what photos truly show, and video that was never
recorded.

`world.json` says how the street was made and what there is. `recorded/CAMERA/` has `actor_ids/` (8-bit PNG, k + 1 for actor
k) and `depths/` (16-bit PNG in millimetres, 0 for sky and beyond 65.535 m) of the photos as they are, distorted and exposed
line after line, and `actors.json`, with poses at the photos' times. `VIDEO/CAMERA/` has `frames/`, `actor_ids/`, `depths/`
and `actors.json` likewise, for pinhole cameras, and these in `cameras.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from chopgrad_ns.data.actors import Actor, read_actors
from chopgrad_ns.data.drives.drive import Drive, Pose
from chopgrad_ns.data.pictures import open_picture
from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.cameras import Cameras

REMEDY = "make the street again with chopgrad sample street"
SAME_TIME = 1e-3
"""Seconds by which the times of a frame may differ."""


@dataclass
class Recorded:
    """What a camera's photos show: `actor_ids` [T, 1, H, W], k + 1 for actor k of `actors`, z `depth` [T, 1, H, W] in
    metres along each line's optical axis, 0 where unknown. Actors have a pose for each photo, at its middle line's time.
    """

    actor_ids: UInt8[Tensor, "t 1 h w"]
    depth: Float[Tensor, "t 1 h w"]
    actors: list[Actor]


@dataclass
class TrueVideo(Recorded):
    """Video that was never recorded: `frames` [T, 3, H, W] in 0…1 of pinhole `cameras` with times. `clear` [T] is False
    where the camera is inside a vehicle, or as good as, which happens where lanes are shifted: nothing is to be judged then.
    """

    frames: Float[Tensor, "t 3 h w"]
    cameras: Cameras
    clear: Bool[Tensor, "t"]


class Truth:
    """The truth in a folder, in the recording's own world; `Truth.of` gives that of a drive, in the drive's.

    `about` is what `world.json` says; `videos` and `cameras` are names.
    """

    def __init__(self, folder: Path, world_from_source: Pose | None = None, frames: Sequence[int] | None = None):
        """Poses are moved by `world_from_source`, and only some `frames` are read, where given. Raises UserError."""
        self.folder = Path(folder)
        try:
            self.about = json.loads((self.folder / "world.json").read_text())
            self.videos, self.cameras = [str(name) for name in self.about["videos"]], list(self.about["cameras"])
            self.times = np.asarray(self.about["times"], np.float64)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"The truth's {self.folder / 'world.json'} cannot be read ({error!r}); {REMEDY}.") from error
        self._moved = torch.eye(4, dtype=torch.float64) if world_from_source is None else torch.from_numpy(world_from_source)
        self._frames = list(range(len(self.times)) if frames is None else frames)

    @staticmethod
    def of(drive: Drive) -> Truth:
        """The truth about a drive: of its frames, in its world. Raises UserError where it has none, or of other frames."""
        if drive.truth is None:
            raise UserError(f"The drive {drive.name} has no folder truth: real recordings have none; give a street that "
                            "chopgrad sample street made.")
        truth = Truth(drive.truth, np.linalg.inv(drive.source_from_world))
        apart = np.abs(truth.times - drive.times[:, None])
        if (apart.min(axis=1) > SAME_TIME).any():
            worst = int(apart.min(axis=1).argmax())
            raise UserError(f"The truth in {drive.truth} has no frame at {drive.times[worst]:.3f} s as {drive.name} has; "
                            f"{REMEDY}.")
        truth._frames = apart.argmin(axis=1).tolist()
        return truth

    def recorded(self, camera: str) -> Recorded:
        """What the photos of a camera show. Raises UserError where that was not written, or is damaged."""
        if not self.about.get("recorded"):
            raise UserError(f"The truth in {self.folder} has no recorded ids and depth; {REMEDY} --truth recorded.")
        folder = self._camera("recorded", camera)
        actors = self._actors(folder)
        return Recorded(*self._maps(folder, len(actors)), actors)

    def video(self, name: str, camera: str) -> TrueVideo:
        """A video, lane_2 for instance. Raises UserError where there is none of that name, or it is damaged."""
        if name not in self.videos:
            raise UserError(f"The truth in {self.folder} has no video {name}; there {'is' if len(self.videos) == 1 else 'are'} "
                            f"{', '.join(self.videos) or 'none'}.")
        folder = self._camera(name, camera)
        cameras, clear = self._cameras(folder / "cameras.json")
        actors = self._actors(folder)
        ids, depth = self._maps(folder, len(actors))
        pictures = self._pictures(folder / "frames", ("RGB",))
        if pictures.shape[1:3] != (cameras.height, cameras.width):
            raise UserError(f"The frames in {folder / 'frames'} are {pictures.shape[2]}×{pictures.shape[1]} px, not "
                            f"{cameras.width}×{cameras.height} as cameras.json says; {REMEDY}.")
        frames = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float() / 255
        return TrueVideo(ids, depth, actors, frames, cameras, clear)

    def _camera(self, name: str, camera: str) -> Path:
        if camera not in self.cameras:
            raise UserError(f"The truth in {self.folder} has no camera {camera}; choose among {', '.join(self.cameras)}.")
        return self.folder / name / camera

    def _actors(self, folder: Path) -> list[Actor]:
        actors = read_actors(folder / "actors.json")
        if any(len(actor) != len(self.times) for actor in actors):
            raise UserError(f"The actors in {folder / 'actors.json'} have not the {len(self.times)} frames of world.json; "
                            f"{REMEDY}.")
        chosen = [actor[self._frames] for actor in actors]
        return [replace(actor, world_from_actor=(self._moved @ actor.world_from_actor.double()).float()) for actor in chosen]

    def _cameras(self, path: Path) -> tuple[Cameras, Bool[Tensor, "t"]]:
        try:
            found = json.loads(path.read_text())
            poses = torch.tensor(found["camera_from_world"], dtype=torch.float64) @ torch.linalg.inv(self._moved)
            K, times = torch.tensor(found["K"], dtype=torch.float32), torch.tensor(found["times"], dtype=torch.float32)
            cameras = Cameras(poses.float(), K.expand(len(times), 3, 3), int(found["width"]), int(found["height"]), times)
            clear = torch.tensor(found["clear"], dtype=torch.bool)
            if not len(clear) == len(cameras) == len(self.times) or not torch.isfinite(poses).all():
                raise ValueError(f"{len(cameras)} cameras and {len(clear)} clear for {len(self.times)} frames")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"The cameras in {path} cannot be read ({error}); {REMEDY}.") from error
        return cameras[self._frames], clear[self._frames]

    def _maps(self, folder: Path, actors: int) -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(self._pictures(folder / "actor_ids", ("L",)))[:, None]
        depth = self._pictures(folder / "depths", ("I;16", "I"))
        if int(ids.max()) > actors or depth.shape != ids[:, 0].shape:
            raise UserError(f"The actor ids and depths in {folder} do not belong together, or to actors.json; {REMEDY}.")
        return ids, torch.from_numpy(depth.astype(np.float32) / 1000)[:, None]

    def _pictures(self, folder: Path, modes: tuple[str, ...]) -> np.ndarray:
        pictures = []
        for index in self._frames:
            path = folder / f"{index:05d}.png"
            with open_picture(path, f"true picture {path}", REMEDY) as picture:
                if picture.mode not in modes:
                    raise ValueError(f"{picture.mode} is not {modes[0]}")
                pictures.append(np.array(picture))
        if len({picture.shape for picture in pictures}) != 1:
            raise UserError(f"The pictures in {folder} are not all of one size; {REMEDY}.")
        return np.stack(pictures)
