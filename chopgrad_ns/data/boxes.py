"""Where actors' boxes, and the ground that they stand on, are in pictures."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.references import lift
from chopgrad_ns.splat.cameras import Cameras


def from_actor(actor: Actor, cameras: Cameras) -> Cameras:
    """The cameras in the frame of the actor's box: camera_from_actor in the place of camera_from_world, T of both."""
    return replace(cameras, camera_from_world=cameras.camera_from_world @ actor.world_from_actor.to(cameras.camera_from_world))


def box_depth(size: Float[Tensor, "3"], cameras: Cameras) -> Float[Tensor, "t 1 h w"]:
    """z at which each pixel's ray enters the box of `size` around the origin; inf where it misses it."""
    frames = []
    for index in range(len(cameras)):
        origin, rays = _rays(cameras[index])
        rays = torch.where(rays.abs() < 1e-9, 1e-9, rays)
        ends = torch.stack([(side * size.to(rays) / 2 - origin) / rays for side in (-1, 1)])
        enters, leaves = ends.amin(dim=0).amax(dim=1), ends.amax(dim=0).amin(dim=1)
        frames.append(torch.where((enters <= leaves) & (leaves > 0), enters.clamp_min(0), torch.inf))
    return torch.stack(frames).reshape(-1, 1, cameras.height, cameras.width)


def footprint(size: Float[Tensor, "3"], cameras: Cameras, margin: float) -> Bool[Tensor, "t 1 h w"]:
    """Pixels whose rays meet the plane of the box's bottom no farther than `margin` (world units) from the box."""
    frames = []
    reach = size[:2] / 2 + margin
    for index in range(len(cameras)):
        origin, rays = _rays(cameras[index])
        z = (-float(size[2]) / 2 - origin[2]) / torch.where(rays[:, 2].abs() < 1e-9, 1e-9, rays[:, 2])
        inside = ((origin[:2] + z[:, None] * rays[:, :2]).abs() <= reach.to(rays)).all(dim=1)
        frames.append(inside & (z > 0))
    return torch.stack(frames).reshape(-1, 1, cameras.height, cameras.width)


def _rays(camera: Cameras) -> tuple[Float[Tensor, "3"], Float[Tensor, "hw 3"]]:
    """Centre of one camera, and its pixels' rays, as long as they are at z = 1."""
    origin = camera.centers[0]
    return origin, lift(camera, torch.ones(1, camera.height, camera.width).to(origin)) - origin
