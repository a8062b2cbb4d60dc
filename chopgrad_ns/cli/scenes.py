"""A scene's views, for commands that run without nerfstudio's trainer."""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from chopgrad_ns.data.actors import Actor, read_actors
from chopgrad_ns.data.pictures import open_picture
from chopgrad_ns.data.scene import check_scene
from chopgrad_ns.data.views import Views
from chopgrad_ns.errors import UserError
from chopgrad_ns.splat.sparse import DepthPrior


def open_scene(scene: Path, every: int, longest_side: int, depth_prior: DepthPrior | None = None, hold_out: bool = True):
    """nerfstudio's own loading and undistortion: the `SparseViewsDataManager` of `scene`.

    `depth_prior`: which prior depths its training views come with. Without `hold_out` all views are training views.
    """
    from chopgrad_ns.plugin.datamanager import SparseViewsDataManagerConfig

    check_scene(scene)
    config = SparseViewsDataManagerConfig(data=scene, longest_side=longest_side)
    config.dataparser.every, config.dataparser.hold_out = every, hold_out
    config.depth_prior = depth_prior
    return _manager(config)


def open_recording(path: Path, every: int, longest_side: int, depth_prior: DepthPrior | None):
    """The same of a recorded drive, every `every`-th of whose frames trains. Raises UserError for what is no recording."""
    from chopgrad_ns.data.drives.open import format_of, open_drive
    from chopgrad_ns.plugin.datamanager import SparseViewsDataManagerConfig
    from chopgrad_ns.plugin.drives import DRIVE_PARSERS

    kind = format_of(path)
    if kind is None:
        open_drive(path)  # says why not
    parser = replace(DRIVE_PARSERS[kind], data=path, every=every)
    parser.setup().check()
    config = SparseViewsDataManagerConfig(data=path, dataparser=parser, longest_side=longest_side, depth_prior=depth_prior)
    return _manager(config)


def _manager(config):
    return config.setup(device="cpu", test_mode="val", world_size=1, local_rank=0)


DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


@dataclass
class NamedViews:
    """Views with the names of their photos, relative to the scene, and of the cameras of the rig that took them.

    A photo's camera is its folder, below the one that all share. `actors`, where the scene has any, have a pose for each view,
    in the views' world, and `actor_ids` [N, 1, H, W] tell where they are seen.
    """

    views: Views
    names: list[str]
    cameras: list[str]
    actors: list[Actor] = field(default_factory=list)
    actor_ids: UInt8[Tensor, "n 1 h w"] | None = None


def named_views(scene: Path, every: int, longest_side: int, depth_prior: DepthPrior | None, hold_out: bool,
                with_actors: bool = False) -> NamedViews:
    """The training views of a scene, in order of their names; all its views without `hold_out`."""
    manager = open_scene(scene, every, longest_side, depth_prior, hold_out)
    names = [os.path.relpath(path, scene) for path in manager.train_dataset.image_filenames]
    folders = [os.path.dirname(name) or "." for name in names]
    shared = os.path.commonpath(folders)
    cameras = [os.path.relpath(folder, shared).replace(os.sep, "-") for folder in folders]
    named = NamedViews(manager.training_views(), names, cameras)
    if with_actors and (scene / "actors.json").exists():
        named.actors, named.actor_ids = _actors(scene, manager, named)
    return named


def _actors(scene: Path, manager, named: NamedViews) -> tuple[list[Actor], UInt8[Tensor, "n 1 h w"]]:
    """`actors.json` and `actor_ids/` of a scene as `chopgrad sample street` writes them, moved into the views' world.

    Raises UserError where they do not belong to the scene's photos.
    """
    actors = read_actors(scene / "actors.json")
    if not (scene / "transforms.json").exists():
        raise UserError(f"{scene} has actors.json but no transforms.json, whose frames actors' poses belong to; write one.")
    about = json.loads((scene / "transforms.json").read_text())
    bent = [key for frame in (about, *about["frames"]) for key in DISTORTION if frame.get(key)]
    if bent:
        raise UserError(f"The photos of {scene} have lens distortion ({bent[0]}), and actor_ids are not straightened with them; "
                        "undistort both first.")
    frames = [os.path.normpath(frame["file_path"]) for frame in about["frames"]]
    wrong = [actor.name for actor in actors if len(actor) != len(frames)]
    if wrong:
        raise UserError(f"Actor {wrong[0]} in {scene / 'actors.json'} has not the {len(frames)} frames of transforms.json; "
                        "give a pose for each.")
    outputs = manager.train_dataparser_outputs
    moved = outputs.dataparser_transform
    chosen = [frames.index(name) for name in named.names]
    actors = [actor[chosen].transformed(moved[:, :3], moved[:, 3], outputs.dataparser_scale) for actor in actors]
    height, width = named.views.photos.shape[-2:]
    ids = []
    for name in named.names:
        path = scene / "actor_ids" / f"{Path(name).stem}.png"
        with open_picture(path, f"actor ids {path}", "write them as 8-bit PNG with one channel") as picture:
            if picture.mode not in ("L", "P"):
                raise ValueError(f"{picture.mode} is not 8-bit")
            ids.append(torch.from_numpy(np.array(picture.resize((width, height), Image.Resampling.NEAREST))))
    strange = int(torch.stack(ids).max())
    if strange > len(actors):
        raise UserError(f"The actor ids in {scene / 'actor_ids'} name actor {strange}, and actors.json has {len(actors)}; write "
                        "the scene again.")
    return actors, torch.stack(ids)[:, None]
