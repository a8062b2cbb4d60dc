"""What `chopgrad pairs` hands to its workers: sources of pairs, and how pairs are made of them.

Imported by the workers too, which are other processes or other machines.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cache, partial
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from chopgrad_ns.cli.scenes import NamedViews, named_views
from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.degradations import Degradation
from chopgrad_ns.data.manifest import FILE
from chopgrad_ns.data.masks import MaskSettings, ObjectMasks, draw_masks
from chopgrad_ns.data.pairs import (SplatPlan, Way, by_camera, camera_plans, fit_ensemble, fold_plans, sparse_plan, splat_pair,
                                    underfit_plan)
from chopgrad_ns.data.plain_videos import open_video
from chopgrad_ns.data.reinsertion import Perturbation, reinsertion_pair
from chopgrad_ns.data.scene import COLMAP_FOLDERS, find_colmap_model
from chopgrad_ns.data.shots import clip_spans, find_cuts
from chopgrad_ns.data.stored import StoredPair, save_pair
from chopgrad_ns.data.video import frame_files
from chopgrad_ns.data.video_pairs import inpainting_pair, super_resolution_pair
from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.fit import FitSettings, Progress
from chopgrad_ns.splat.gaussians import Gaussians

Report = Callable[[int, int, Callable[[], str]], None]
"""Told how far a job is: steps done, of how many, and a function that says how it goes."""
Planned = tuple[str, dict, Callable[[], tuple[Pair, dict]]]
"""A pair's name, what it is made from, and the function that makes it and tells what else it drew or found out."""
EVEN = 2
"""Sides of video clips are multiples of it, for codecs."""


@dataclass(frozen=True)
class SplatWays:
    """How pairs are made of a scene with splats."""

    ways: tuple[Way | Literal["actors", "edits"], ...]
    sparse_every: int
    folds: int
    underfit_steps: int
    underfit_gaussians: int
    settings: FitSettings
    references: int
    keep_photos: bool
    """store the photos that references are warped from instead of the warped ones"""
    ensemble: int = 1
    """splats of different seeds, seen together"""

    def plans(self, cameras: list[str]) -> list[SplatPlan]:
        """The pairs that one splat is enough for, of a scene whose views were taken by these cameras."""
        count, plans = len(cameras), []
        for way in self.ways:
            if way == "sparse":
                plans += by_camera(sparse_plan(count, self.sparse_every, self.settings), cameras)
            elif way == "folds":
                plans += [part for plan in fold_plans(count, self.folds, self.settings) for part in by_camera(plan, cameras)]
            elif way == "underfit":
                plans += by_camera(underfit_plan(count, self.underfit_steps, self.underfit_gaussians, self.settings), cameras)
            elif way == "cameras":
                plans += camera_plans(cameras, self.settings)
        return plans

    def planned(self, scene: dict, named: NamedViews, report: Report) -> Iterator[Planned]:
        """The pairs of a scene that is described by `scene`; splats that several pairs share are fitted once."""
        if "actors" in self.ways:
            _check_drive(scene["name"], named)
        views, names, fitted = named.views.to("cuda" if torch.cuda.is_available() else "cpu"), named.names, {}
        plans = self.plans(named.cameras)
        parts = len(plans) + ("actors" in self.ways)
        for index, plan in enumerate(plans):
            about = {"way": plan.way, "scene": scene, **plan.detail, "fitted": [names[i] for i in plan.fitted],
                     "cameras": [names[i] for i in plan.shown], "references": self.references,
                     "keep_photos": self.keep_photos, "settings": asdict(plan.settings)}
            if self.ensemble > 1:
                about["ensemble"] = self.ensemble

            def make(plan=plan, index=index) -> tuple[Pair, dict]:
                key = (plan.fitted, plan.settings.steps, plan.settings.max_gaussians)
                if key not in fitted:
                    fitted.clear()  # those of one plan at a time
                    fitted[key] = fit_ensemble(views, plan, self.ensemble, part_of(report, index, parts, plan.name))
                splats = fitted[key]
                return (splat_pair(views, plan, splats, self.references, self.keep_photos),
                        {"gaussians": len(splats[0]) if len(splats) == 1 else [len(splat) for splat in splats]})

            yield plan.name, about, make
        if "actors" in self.ways:
            yield self._reinsertion(scene, replace(named, views=views), part_of(report, len(plans), parts, "actors"))

    def _reinsertion(self, scene: dict, named: NamedViews, progress: Progress) -> Planned:
        about = {"way": "actors", "scene": scene, "cameras": named.names, "references": self.references,
                 "actors": [actor.name for actor in named.actors], "settings": asdict(self.settings),
                 "perturbation": asdict(Perturbation())}

        def make() -> tuple[Pair, dict]:
            skipped: list[str] = []
            # What moves is an actor's; masks would cut it out of the truth as well.
            pair = reinsertion_pair(replace(named.views, masks=None), named.actors, named.actor_ids.to(named.views.photos.device),
                                    scene["name"], self.settings, references=self.references, progress=progress,
                                    skipped=skipped.append)
            return pair, {"skipped": skipped}

        return "actors", about, make


def _check_drive(name: str, named: NamedViews) -> None:
    if not named.actors:
        raise UserError(f"{name} has no actors to cut out (actors.json); leave the way actors out, or give driving scenes.")
    if len(set(named.cameras)) > 1:
        raise UserError(f"{name} has several cameras; give the way actors one camera's photos at a time.")


@dataclass(frozen=True)
class CaptureJob:
    """A nerfstudio or COLMAP scene."""

    path: Path
    source: str
    licence: str
    every: int
    hold_out: bool
    """use the training views only: every `every`-th; what is judged on the others later stays unseen"""
    longest_side: int
    ways: SplatWays

    def planned(self, report: Report) -> Iterator[Planned]:
        """All pairs to be made of the scene."""
        settings = self.ways.settings
        prior = settings.depth_prior if settings.depth_weight else None
        named = named_views(self.path, self.every, self.longest_side, prior, self.hold_out, "actors" in self.ways.ways)
        scene = {"name": self.source, "licence": self.licence, "fingerprint": fingerprint(self.path),
                 "views": f"every {self.every}th" if self.hold_out else "all"}
        yield from self.ways.planned(scene, named, report)


@dataclass(frozen=True)
class WorldJob:
    """A sample world."""

    kind: str
    seed: int
    frames: int
    width: int
    height: int
    exposure_change: float | None
    ways: SplatWays
    photographs: Path | None = None
    """folder of pictures that the world is dressed in"""
    exhibit: Path | None = None
    """splat of something that is put where the cameras look"""
    flaws: bool = False
    """soft lenses, grain, haze and poses a little off, as captures have them"""

    @property
    def source(self) -> str:
        """Name in the data set."""
        return f"{self.kind}-{self.seed}"

    def planned(self, report: Report) -> Iterator[Planned]:
        """All pairs to be made of the world."""
        from chopgrad_ns.sim.exhibits import exhibit
        from chopgrad_ns.sim.flaws import with_flaws
        from chopgrad_ns.sim.pairs import views_of
        from chopgrad_ns.sim.sample import LICENCE, sample_clip
        from chopgrad_ns.sim.world import RECIPE

        world = sample_clip(self.kind, self.seed, self.frames, self.width, self.height, self.exposure_change, self.photographs)
        scene = {"name": self.source, "licence": LICENCE, "kind": self.kind, "seed": self.seed, "recipe": RECIPE,
                 "exposure_change": self.exposure_change}
        if self.photographs is not None:
            scene |= {"licence": f"{LICENCE}; pictures: {licence_of(self.photographs)}",
                      "photographs": fingerprint(self.photographs)}
        if self.exhibit is not None:
            world = exhibit(world, Gaussians.load(self.exhibit), self.seed)
            scene |= {"licence": f"{scene['licence']}; exhibit: {licence_of(self.exhibit)}", "exhibit": fingerprint(self.exhibit)}
        if self.flaws:
            world = with_flaws(world, self.seed)
            scene["flaws"] = True
        names = [f"{index:05d}" for index in range(self.frames)]
        named = NamedViews(views_of(world), names, ["camera"] * self.frames, world.actors, world.actor_ids)
        yield from self.ways.planned(scene, named, report)


@dataclass(frozen=True)
class VideoJob:
    """A plain video, of which clips are degraded; whoever trains on them needs no splat."""

    path: Path
    source: str
    licence: str
    degradations: tuple[Degradation, ...]
    masks: tuple[MaskSettings, ...]
    object_masks: Path | None
    """folder of masks of this video"""
    dilation: int
    frames: int
    stride: int
    longest_side: int
    seed: int

    def planned(self, report: Report) -> Iterator[Planned]:
        """For each clip that lies between two cuts, a pair for each degradation, for each kind of masks and for objects."""
        video = open_video(self.path)
        objects = None if self.object_masks is None else ObjectMasks(self.object_masks, video, dilation=self.dilation)
        spans = clip_spans(video.frames, self.frames, self.stride, find_cuts(video))
        if not spans:
            raise UserError(f"{self.path} has no {self.frames} frames in a row between two cuts; give a smaller --clip-frames.")
        scene = {"name": self.source, "licence": self.licence, "fingerprint": fingerprint(self.path), "frames": video.frames,
                 "size": [video.height, video.width], "fps": video.fps}
        for index, span in enumerate(spans):
            read = cache(partial(video.read, span.start, self.frames, self.longest_side, EVEN))
            for part, about, make in self._of_clip(read, span.start, objects):
                about |= {"scene": scene, "cameras": video.frame_names[span], "from_frame": span.start}
                yield f"{part}-{span.start:05d}", about, make
            report(index + 1, len(spans), lambda: f"{self.source}, clip {index + 1}")

    def _of_clip(self, read: Callable[[], Tensor], first: int, objects: ObjectMasks | None) -> Iterator[Planned]:
        for degradation in self.degradations:
            seed = self._seed(first, degradation.kind)
            settings = {"settings": asdict(degradation), "seed": seed, "longest_side": self.longest_side}
            yield (f"{degradation.kind}-x{degradation.scale:g}", {"way": "super-resolution", **settings},
                   lambda degradation=degradation, seed=seed: super_resolution_pair(read(), "", degradation, seed))
        for masks in self.masks:
            seed = self._seed(first, masks.kind)

            def make(masks=masks, seed=seed) -> tuple[Pair, dict]:
                frames = read()
                holes, about = draw_masks(masks, len(frames), *frames.shape[-2:], seed)
                return inpainting_pair(frames, "", holes), about

            settings = {"settings": asdict(masks), "seed": seed, "longest_side": self.longest_side}
            yield f"{masks.kind}-masks", {"way": "inpainting", **settings}, make
        if objects is not None:
            drawn = objects.read(first, self.frames, self.longest_side, EVEN)
            if drawn.any():
                yield ("object-masks", {"way": "inpainting", "settings": {"kind": "objects", "dilation": self.dilation},
                                        "masks": fingerprint(self.object_masks), "longest_side": self.longest_side},
                       lambda: (inpainting_pair(read(), "", drawn), {}))

    def _seed(self, first: int, kind: str) -> int:
        """Another one for each video, clip and kind."""
        return int(_hash([self.seed, self.source, first, kind]), 16) % 2**31


class Job(Protocol):
    """A source of pairs, a dataclass; `source` is its name in the data set."""

    source: str

    def planned(self, report: Report) -> Iterator[Planned]:
        """All pairs to be made of it."""


def piece_of(job: Job) -> str:
    """What a job is called in the manifest: its source, and a hash of all that decides what comes out."""
    told = asdict(job)
    for name, value in told.items():
        if isinstance(value, Path):  # what is in it counts, not where it lies
            told[name] = fingerprint(value)
    return f"{job.source}/{_hash(told)}"


def make_pairs(job: Job, output: Path, report: Report | None = None) -> tuple[list[dict], str | None]:
    """Make the pairs of a job that are not there yet.

    Returns:
        the manifest's entries of all its pairs, and what was wrong with the source if there are not all: a pair of that name
        was made by another recipe, for instance.
    """
    if not (output / FILE).exists():
        raise UserError(f"The worker on {socket.gethostname()} does not see the folder {output}; put it where all nodes see it.")
    entries: list[dict] = []
    try:
        for entry in _made(job, output, report or (lambda *_: None)):
            entries.append(entry)
    except UserError as error:
        return entries, str(error)
    return entries, None


def _made(job: Job, output: Path, report: Report) -> Iterator[dict]:
    for part, about, make in job.planned(report):
        name = f"{job.source}-{part}"
        pair = _kept(output / name, about)
        if pair is None:
            began = time.monotonic()
            made, found = make()
            save_pair(replace(made, name=name), output / name, about | {"made": found | {
                "at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "seconds": round(time.monotonic() - began, 1)}})
            pair = StoredPair(output / name)
        yield {"name": name, **pair.about, "frames": len(pair), "size": list(pair.size),
               "bytes": sum(path.stat().st_size for path in pair.folder.iterdir())}


def _kept(folder: Path, about: dict) -> StoredPair | None:
    """The pair that is there already, if it is whole; one that is damaged is made anew."""
    if not folder.exists():
        return None
    try:
        pair = StoredPair(folder)
        pair.check()
    except UserError:
        return None
    if {key: value for key, value in pair.about.items() if key != "made"} != json.loads(json.dumps(about)):
        raise UserError(f"{folder} was made with other settings; name another --output, or delete that folder.")
    return pair


def part_of(report: Report, index: int, parts: int, name: str) -> Progress:
    """A part's steps as steps of the whole."""
    return lambda step, steps, note: report(index * steps + step, parts * steps, lambda: f"{name}, {note()}")


def fingerprint(source: Path) -> str:
    """A hash of a video file, or of what is read of a scene or of a folder of pictures (of most files the size only)."""
    if source.is_file():
        digest = hashlib.sha256()
        with source.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
        return digest.hexdigest()[:12]
    whole, sizes = [], frame_files(source)
    if (source / "transforms.json").exists():
        whole = [source / name for name in ("transforms.json", "actors.json") if (source / name).exists()]
        frames = json.loads(whole[0].read_text())["frames"]
        sizes = [source / frame[key] for frame in frames for key in ("file_path", "depth_file_path", "mask_path") if key in frame]
        sizes += frame_files(source / "actor_ids")
    elif (source / "truth" / "world.json").exists():
        whole = [source / "truth" / "world.json"]
        sizes = sorted(path for name in ("lane_0", "inserted") for path in (source / "truth" / name).rglob("*.png"))
    elif any((source / name).exists() for name in COLMAP_FOLDERS):
        whole = sorted(path for path in find_colmap_model(source).glob("*") if path.is_file())
        sizes = sorted(path for path in (source / "images").rglob("*") if path.is_file())
    return _hash([[str(path.relative_to(source)), hashlib.sha256(path.read_bytes()).hexdigest()] for path in whole]
                 + [[os.path.relpath(path, source), path.stat().st_size] for path in sizes if path.exists()])


def _hash(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def licence_of(source: Path) -> str:
    """What is known of a source's licence: the first line of a licence file beside it."""
    folder = source if source.is_dir() else source.parent
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.stem.lower() in ("license", "licence", "copying"):
            lines = path.read_text(errors="replace").strip().splitlines()
            return f"see {path.name}: {lines[0].strip()[:100]}" if lines else f"see {path.name}"
    return "not stated"
