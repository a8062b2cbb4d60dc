"""What a drive adds to a nerfstudio scene: actors and sky for the model, a rig and lidar depth for the views."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.views import Rig, Views
from chopgrad_ns.splat.cameras import Cameras

LEAST_BOXES = 2
"""Frames in which an actor must have a box to become a thing of its own."""
HAZE = torch.tensor([0.7, 0.75, 0.8])
"""The colour that a sky's training begins with."""


def in_metres(metadata: dict) -> tuple[Float[Tensor, "3"], float]:
    """Translation and scale of nerfstudio's world: scale · (x + translation) for x in the drive's, in metres."""
    moved = metadata["world"]
    return moved[:3, 3].float(), float(metadata["scale"])


def seconds_of(metadata: dict) -> float:
    """How many seconds 1 is in the times of nerfstudio's cameras."""
    return float(metadata.get("seconds", 1.0))


def seeded_actors(metadata: dict) -> list:
    """`sim.fit_scene.SeededActor` for each actor of the drive in a scene's metadata that is in a training photo and has boxes in
    a few frames, with points of its lidar, coloured by training photos.
    """
    from chopgrad_ns.data.drives.boxes import boxes_in
    from chopgrad_ns.data.drives.derived import actor_points
    from chopgrad_ns.sim.fit_scene import SeededActor

    drive = metadata["training"]
    known = [index for index, actor in enumerate(drive.actors) if int(actor.present.sum()) >= LEAST_BOXES]
    chosen = sorted({box.actor for photo in drive.photos for box in boxes_in(drive, photo, known)})
    return [SeededActor(drive.actors[index], torch.from_numpy(seed.xyz).float(), torch.from_numpy(seed.rgb).float())
            for index, seed in zip(chosen, actor_points(drive, chosen))]


def actors_and_sky(metadata: dict):
    """`sim.fit_scene.ActorsAndSky` of a drive, drawn in nerfstudio's world."""
    from chopgrad_ns.sim.fit_scene import ActorsAndSky
    from chopgrad_ns.sim.sky import Sky

    translation, scale = in_metres(metadata)
    times = torch.from_numpy(metadata["drive"].times)
    return ActorsAndSky(seeded_actors(metadata), times, Sky.of_one_color(HAZE), translation=translation, scale=scale)


def fit_drive(manager, settings, progress=None):
    """The `sim.scene_graph.SceneGraph` of a drive, in its world and metres, without nerfstudio's trainer.

    `manager`: a `SparseViewsDataManager` whose scene is a drive; its training views are all that is looked at. `settings`: a
    `splat.fit.FitSettings`.
    """
    from chopgrad_ns.sim.fit_scene import fit_scene

    metadata = manager.train_dataset.metadata
    views = views_in_metres(manager.training_views(), metadata)
    return fit_scene(views, seeded_actors(metadata), torch.from_numpy(metadata["drive"].times), settings, progress)


def views_in_metres(views: Views, metadata: dict) -> Views:
    """Views of a drive in its own world."""
    translation, scale = in_metres(metadata)
    depths = None if views.depths is None else views.depths / scale
    return replace(views, cameras=unplaced(views.cameras, translation, scale), points=views.points / scale - translation,
                   depths=depths, rig=replace(views.rig, metre=1.0))


def scaled_and_moved(translation: Float[Tensor, "3"], scale: float) -> Float[Tensor, "4 4"]:
    """The motion x ↦ scale · x + translation."""
    matrix = torch.diag(torch.tensor([scale, scale, scale, 1.0]))
    matrix[:3, 3] = translation
    return matrix


def rig_of(metadata: dict) -> Rig:
    """The cameras of a drive's photos, and which way is left of its vehicle."""
    photos = metadata["photos"]
    left = torch.stack([torch.from_numpy(photo.vehicle_at(photo.middle)[:3, 1]).float() for photo in photos])
    return Rig([photo.camera for photo in photos], left, in_metres(metadata)[1])


def lidar_depths(metadata: dict, cameras: Cameras) -> Float[Tensor, "n 1 h w"]:
    """z in the units of `cameras`, one for each of the drive's photos, where its lidar points fall; 0 elsewhere."""
    from chopgrad_ns.data.drives.derived import lidar_depth

    translation, scale = in_metres(metadata)
    return scale * lidar_depth(metadata["training"], metadata["photos"], unplaced(cameras, translation, scale))


def unplaced(cameras: Cameras, translation: Float[Tensor, "3"], scale: float) -> Cameras:
    """Cameras of nerfstudio's world in the drive's, in metres."""
    poses = cameras.camera_from_world.clone()
    poses[:, :3, 3] = poses[:, :3, 3] / scale + poses[:, :3, :3] @ translation.to(poses)
    return replace(cameras, camera_from_world=poses, motion=_scaled(cameras.motion, 1 / scale))


def placed(cameras: Cameras, translation: Float[Tensor, "3"], scale: float) -> Cameras:
    """Cameras of a drive's world (metres) in nerfstudio's."""
    poses = cameras.camera_from_world.clone()
    poses[:, :3, 3] = scale * (poses[:, :3, 3] - poses[:, :3, :3] @ translation.to(poses))
    return replace(cameras, camera_from_world=poses, motion=_scaled(cameras.motion, scale))


def _scaled(motion: Float[Tensor, "n 6"] | None, scale: float) -> Float[Tensor, "n 6"] | None:
    """Velocities in other units; turning stays."""
    return None if motion is None else motion * motion.new_tensor([scale] * 3 + [1.0] * 3)
