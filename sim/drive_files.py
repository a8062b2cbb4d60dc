"""Sample streets as recordings in files: Waymo's layout, and beside it the truth that no recording has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image

from chopgrad_ns.data.actors import Actor, write_actors
from chopgrad_ns.data.drives.drive import Photo
from chopgrad_ns.data.parallel import run_side_by_side
from chopgrad_ns.sim.drive_world import record
from chopgrad_ns.sim.edits import CHANGES, make_edits
from chopgrad_ns.sim.raycast import Shot
from chopgrad_ns.sim.rig import MOUNTS, Rig, make_rig
from chopgrad_ns.sim.road import FRAME_RATE
from chopgrad_ns.sim.sample import FARTHEST, MILLIMETRES, about, new_folder
from chopgrad_ns.sim.sensors import Sensors
from chopgrad_ns.sim.underway import DriveCaster
from chopgrad_ns.sim.waymo_files import write_waymo_v2
from chopgrad_ns.sim.world import World
from chopgrad_ns.splat.cameras import Cameras

TrueName = Literal["recorded", "lane_0", "lane_1", "lane_2", "lane_3", "inserted", "removed", "moved"]
TRUTH: tuple[TrueName, ...] = get_args(TrueName)
"""What of the truth can be written: ids and depth of the photos; video of the rig as many metres to the left; and video of
a vehicle inserted, removed or moved, from where the photos were taken."""
CLOSE = 0.3
"""Metres from a vehicle's box within which a camera sees nothing worth judging."""
Report = Callable[[int, int, Callable[[], str]], None]


def write_drive(path: Path, world: World, frames: int = 40, width: int = 240, height: int = 160,
                truth: Sequence[TrueName] = TRUTH, workers: int = 1, report: Report | None = None) -> None:
    """Drive through a street with a rig, and write the recording in Waymo's layout, version 2, with `truth/` beside the
    components (`sim.truth` says what is in there).

    The folder appears at once, when complete. `workers` processes make the true videos; `report(done, all, note)` is
    called after each picture, or, with several, after each one's videos. Raises UserError where the folder exists and is
    not empty, where it cannot be written, or for sizes that nothing can be reconstructed from; WayEnds where the street
    is too short for so many frames.
    """
    with new_folder(Path(path), world, frames, width, height) as folder:
        _Writer(folder, world, frames, width, height, tuple(truth), report).write(workers)


@dataclass
class _Writer:
    """One street on its way into a folder."""

    folder: Path
    world: World
    frames: int
    width: int
    height: int
    truth: tuple[TrueName, ...]
    report: Report | None
    pixels: Counter = field(default_factory=Counter)
    done: int = 0

    def write(self, workers: int) -> None:
        recording = record(self.world, self.frames, self.width, self.height, self._seen)
        photos = _photos(recording.frames.rig, self.frames)
        (self.folder / "truth").mkdir()
        if "recorded" in self.truth:
            for camera in photos:
                _folders(self._recorded(camera), ("actor_ids", "depths"))
        write_waymo_v2(self.folder, recording)
        if "recorded" in self.truth:
            for camera, taken in photos.items():
                write_actors(self._recorded(camera) / "actors.json", actors_at(self.world, _times(taken)))
        videos, edits = [name for name in self.truth if name != "recorded"], []
        if set(CHANGES) & set(videos):
            edits = [edit for edit in make_edits(self.world, self.frames, self.pixels) if edit.change in videos]
        self._videos(videos, workers)
        described = {**about(self.world, self.frames, self.width, self.height), "name": recording.name,
                     "times": [number / FRAME_RATE for number in range(self.frames)], "cameras": list(photos),
                     "rig": {name: asdict(mount) for name, mount in MOUNTS.items()},
                     "recorded": "recorded" in self.truth, "videos": videos,
                     "edits": {edit.change: {"actor": edit.actor, "what": edit.words} for edit in edits}}
        (self.folder / "truth" / "world.json").write_text(json.dumps(described, indent=1))

    def _videos(self, videos: list[TrueName], workers: int) -> None:
        """Each worker makes several, so that the world is handed to each once."""
        rows = [videos[first::workers] for first in range(min(workers, len(videos)))]
        alone = len(rows) == 1
        work = partial(_write_videos, self.folder / "truth", self.world, self.frames, (self.width, self.height), self.pixels,
                       self._tell if alone else None)
        for row, outcome in run_side_by_side(work, rows, workers):
            if outcome is not None:
                raise outcome
            if not alone:
                self._tell(", ".join(rows[row]), len(MOUNTS) * self.frames * len(rows[row]))

    def _seen(self, photo: Photo, shot: Shot) -> None:
        for number, pixels in zip(*np.unique(shot.actor_ids, return_counts=True)):
            if number:
                self.pixels[self.world.vehicles[number - 1].name] += int(pixels)
        if "recorded" in self.truth:
            _write_maps(self._recorded(photo.camera), photo.frame, shot)
        self._tell(f"recorded {photo.name}")

    def _recorded(self, camera: str) -> Path:
        return self.folder / "truth" / "recorded" / camera

    def _tell(self, note: str, pictures: int = 1) -> None:
        self.done += pictures
        if self.report is not None:
            takes = 1 + sum(name != "recorded" for name in self.truth)
            self.report(self.done, len(MOUNTS) * takes * self.frames, lambda: note)


def _write_videos(folder: Path, world: World, frames: int, size: tuple[int, int], pixels: Counter,
                  tell: Callable[[str], None] | None, names: Sequence[TrueName]) -> None:
    """Some of the true videos, each from all cameras."""
    for name in names:
        left = 0.0 if name in CHANGES else float(name.removeprefix("lane_"))
        there = world if name not in CHANGES else next(edit.world for edit in make_edits(world, frames, pixels)
                                                       if edit.change == name)
        sensors = Sensors(DriveCaster(there), make_rig(there, *size))
        for camera, taken in _photos(sensors.rig, frames).items():
            into, cameras = folder / name / camera, sensors.rig.pinholes(taken, left)
            _folders(into, ("frames", "actor_ids", "depths"))
            for index, gain in enumerate(there.exposure.gains(frames)):
                shot = sensors.view(cameras[index], gain)
                picture = (shot.picture * 255).round().astype(np.uint8)
                Image.fromarray(picture).save(into / "frames" / f"{index:05d}.png")
                _write_maps(into, index, shot)
                if tell is not None:
                    tell(f"{name}, {taken[index].name}")
            actors = actors_at(there, _times(taken))
            write_actors(into / "actors.json", actors)
            _write_cameras(into / "cameras.json", cameras, _clear(cameras, actors))


def _photos(rig: Rig, frames: int) -> dict[str, list[Photo]]:
    """Each camera's, in order."""
    photos = [photo for number in range(frames) for photo in rig.photos(number)]
    return {name: [photo for photo in photos if photo.camera == name] for name in rig.cameras}


def _times(photos: Sequence[Photo]) -> np.ndarray:
    return np.array([photo.middle for photo in photos])


def actors_at(world: World, times: np.ndarray) -> list[Actor]:
    """All vehicles of a street at any seconds; their kind is that of drives."""
    actors = []
    for vehicle in world.vehicles:
        poses, present = world.poses_at(vehicle, times)
        actors.append(Actor(vehicle.name, "vehicle", torch.from_numpy(vehicle.size).float(), torch.from_numpy(poses).float(),
                            torch.from_numpy(present)))
    return actors


def _clear(cameras: Cameras, actors: Sequence[Actor]) -> torch.Tensor:
    """Frames [T] whose camera is not in or close to a vehicle."""
    clear = torch.ones(len(cameras), dtype=torch.bool)
    for actor in actors:
        away = cameras.centers - actor.world_from_actor[:, :3, 3]
        local = torch.einsum("tji,tj->ti", actor.world_from_actor[:, :3, :3], away)
        clear &= ~actor.present | (local.abs() > actor.size / 2 + CLOSE).any(dim=1)
    return clear


def _folders(folder: Path, kinds: Sequence[str]) -> None:
    for kind in kinds:
        (folder / kind).mkdir(parents=True)


def _write_maps(folder: Path, index: int, shot: Shot) -> None:
    Image.fromarray(shot.actor_ids).save(folder / "actor_ids" / f"{index:05d}.png")
    depth = np.rint(np.where(shot.depth <= FARTHEST, shot.depth, 0) * MILLIMETRES).astype(np.uint16)
    Image.fromarray(depth).save(folder / "depths" / f"{index:05d}.png")


def _write_cameras(path: Path, cameras: Cameras, clear: torch.Tensor) -> None:
    path.write_text(json.dumps({
        "width": cameras.width, "height": cameras.height, "K": cameras.K[0].tolist(), "times": cameras.times.tolist(),
        "clear": clear.tolist(), "camera_from_world": cameras.camera_from_world.double().tolist()}))
