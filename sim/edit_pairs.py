"""Driving pairs whose clean frames are true: a street with a vehicle inserted, beside what naive insertion makes of it.

The degraded frames are true too, but for the vehicle: its splat, fitted under neutral light, is laid over them where it is
in front. It has no shadow, mirrors nothing of the street, and is lit as nothing there is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from chopgrad_ns.data.actor_splat import STANDING, fit_actor
from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.cleared import hidden_pixels
from chopgrad_ns.data.clip import Pair
from chopgrad_ns.data.references import REFERENCES, lift
from chopgrad_ns.data.reinsertion import Perturbation, put_back, with_references
from chopgrad_ns.data.views import Views
from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.cars import Vehicle
from chopgrad_ns.sim.edits import inserted_vehicle
from chopgrad_ns.sim.light import Lighting, Sky
from chopgrad_ns.sim.raycast import Raycaster
from chopgrad_ns.sim.truth import REMEDY, TrueVideo, Truth
from chopgrad_ns.sim.world import RECIPE, World, make_world
from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.fit import FitSettings, Progress
from chopgrad_ns.splat.gaussians import Gaussians

AROUND = 20
"""Pictures on each of a turntable's circles."""
HEIGHTS = (5.0, 20.0, 45.0)
"""Degrees above the vehicle's middle that the circles are at."""
PICTURE = (144, 96)
"""Width and height of a turntable's pictures, pixels."""
NEUTRAL = 1.1
"""Light on a turntable, from everywhere: about as bright as a street."""
POINTS = 4000
STOOD_ON = 0.3
"""Metres by which a vehicle may seem to be behind the ground that it stands on."""


@dataclass(frozen=True)
class Turntable:
    """A vehicle alone, `views` of it from all around; in the frame of its box, where `actor` stands still."""

    views: Views
    actor: Actor
    actor_ids: UInt8[Tensor, "t 1 h w"]


def turntable(world: World, vehicle: Vehicle) -> Turntable:
    """Photograph a vehicle of a world, without the world and its light."""
    gray = np.full(3, 0.6)
    light = Lighting([], np.full(3, NEUTRAL), world.lighting.shelter, Sky(gray, gray, gray, world.lighting.sky.clouds))
    caster = Raycaster(replace(world, mesh=vehicle.mesh, lighting=light))
    cameras = _circles(2.3 * float(vehicle.size[0]))
    shots = [caster.look(cameras[index]) for index in range(len(cameras))]
    photos, depths = (torch.from_numpy(np.stack(part)).float() for part in list(zip(*shots))[:2])
    photos, depths = photos.permute(0, 3, 1, 2).contiguous(), depths[:, None]
    rng, points, colors = torch.Generator().manual_seed(0), [], []
    for photo, depth, camera in zip(photos, depths, (cameras[index] for index in range(len(cameras)))):
        seen = depth.flatten().nonzero()[:, 0]
        seen = seen[torch.randperm(len(seen), generator=rng)[:POINTS // len(cameras)]]
        points.append(lift(camera, depth)[seen])
        colors.append(photo.flatten(1).T[seen])
    actor = Actor(vehicle.name, "vehicle", torch.from_numpy(vehicle.size).float(), torch.eye(4).repeat(len(cameras), 1, 1),
                  torch.ones(len(cameras), dtype=torch.bool))
    views = Views(photos, cameras, torch.cat(points), torch.cat(colors), depths)
    return Turntable(views, actor, (depths > 0).byte())


def _circles(distance: float) -> Cameras:
    width, height = PICTURE
    poses = []
    for step, up in enumerate(np.deg2rad(HEIGHTS)):
        for turn in 2 * np.pi * (np.arange(AROUND) + step / len(HEIGHTS)) / AROUND:
            forward = -np.array([np.cos(turn) * np.cos(up), np.sin(turn) * np.cos(up), np.sin(up)])
            right = np.array([-np.sin(turn), np.cos(turn), 0.0])
            pose = np.eye(4)
            pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
            pose[2, 3] = distance
            poses.append(pose)
    K = torch.tensor([[1.5 * width, 0, width / 2], [0, 1.5 * width, height / 2], [0, 0, 1]]).repeat(len(poses), 1, 1)
    return Cameras(torch.from_numpy(np.stack(poses)).float(), K, width, height)


def inserted_splat(truth: Truth, settings: FitSettings, progress: Progress | None = None) -> Gaussians:
    """Splat of the vehicle that is inserted into a street, in the frame of its box. Raises UserError where the street was
    made by another recipe, or without one inserted.
    """
    about = truth.about
    if not {"lane_0", "inserted"} <= set(truth.videos):
        raise UserError(f"The truth in {truth.folder} lacks lane_0 or inserted, which pairs are made of; {REMEDY}.")
    if about.get("recipe") != RECIPE or about.get("kind") != "street":
        raise UserError(f"The street of {truth.folder} is of recipe {about.get('recipe')}, not {RECIPE}: its vehicle cannot be "
                        f"built again; {REMEDY}.")
    world = make_world("street", int(about["seed"]), 0.0)
    table = turntable(world, inserted_vehicle(world, len(truth.times)))
    return fit_actor(table.views, table.actor, table.actor_ids, 0, settings, progress=progress)


def edit_pair(truth: Truth, camera: str, splat: Gaussians, seed: int = 0, perturbation: Perturbation = Perturbation(),
              references: int = REFERENCES) -> Pair:
    """The pair of one camera: the vehicle's `splat` in the true video without it, and the true video with it.

    The clip's `mask` is what is seen of the splat, 0…1; its `actor_ids` are those of the clean frames. `seed` draws the
    perturbation. `references` photos are warped into each frame from others, as in reinsertion pairs.
    """
    name = truth.about["edits"]["inserted"]["actor"]
    before, after = truth.video("lane_0", camera), truth.video("inserted", camera)
    actor = next((actor for actor in after.actors if actor.name == name), None)
    if actor is None:
        raise UserError(f"The vehicle {name} is not among the actors of {truth.folder / 'inserted' / camera}; {REMEDY}.")
    drawn = perturbation.draw(splat, torch.Generator().manual_seed(seed))
    clip = put_back(drawn[:0], [(actor, drawn)], after.cameras)
    ahead = (clip.alpha > 0) & ((before.depth == 0) | (clip.depth < before.depth + STOOD_ON))
    mask = clip.alpha * ahead
    depth = torch.where(mask > 0.5, clip.depth, before.depth)
    clip = replace(clip, frames=(clip.frames * ahead + (1 - mask) * before.frames).clamp(0, 1), mask=mask, depth=depth,
                   alpha=torch.ones_like(mask), actor_ids=after.actor_ids)
    if references:
        views = Views(before.frames, before.cameras, torch.zeros(0, 3), torch.zeros(0, 3))
        clip = with_references(clip, views, _unsettled(before), references)
    return Pair(clip, clean=after.frames, name=f"{truth.about['name']}-{camera}")


def _unsettled(video: TrueVideo) -> Float[Tensor, "t 1 h w"]:
    """Where vehicles are that move, or their shadows may be: no other frame tells what is seen there."""
    moving = [k for k, actor in enumerate(video.actors) if actor.moves(STANDING * float(actor.size[0]))]
    ids = video.actor_ids * torch.isin(video.actor_ids, torch.tensor([k + 1 for k in moving], dtype=torch.uint8))
    return hidden_pixels([video.actors[k] for k in moving], ids, video.cameras, 0.7)
