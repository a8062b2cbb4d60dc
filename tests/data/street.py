"""A street seen exactly: ground, wall, a parked box and a moving one, with shadows, at the size of a test."""

import math

import torch

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.references import lift
from chopgrad_ns.data.views import Views
from chopgrad_ns.splat.cameras import Cameras

WIDTH, HEIGHT, FOCAL, WALL = 72, 48, 48.0, 7.0
LIGHT = torch.nn.functional.normalize(torch.tensor([-0.7, -0.1, 0.6]), dim=0)
"""Towards the sun: shadows fall forward, beside the boxes."""
SHADE = 0.45


def cameras(count: int) -> Cameras:
    """A car's side camera that drives 6 m forward, looking to the left, ahead and a little down."""
    forward = torch.nn.functional.normalize(torch.tensor([0.3, 1.0, -0.35]), dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0])), dim=0)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    poses = torch.eye(4).repeat(count, 1, 1)
    centers = torch.stack([torch.linspace(-3.5, 2.5, count), torch.full((count,), -4.0), torch.full((count,), 1.8)], 1)
    poses[:, :3, :3], poses[:, :3, 3] = rotation, -centers @ rotation.T
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]).repeat(count, 1, 1)
    return Cameras(poses, K, WIDTH, HEIGHT)


def actors(count: int) -> list[Actor]:
    """One parked, turned by 10°, and one that drives 4 m."""
    def poses(x, y, z, yaw):
        made = torch.eye(4).repeat(count, 1, 1)
        c, s = math.cos(yaw), math.sin(yaw)
        made[:, :2, :2] = torch.tensor([[c, -s], [s, c]])
        made[:, 0, 3], made[:, 1, 3], made[:, 2, 3] = x, y, z
        return made

    here = torch.ones(count, dtype=torch.bool)
    return [Actor("parked", "vehicle", torch.tensor([3.6, 1.7, 1.5]), poses(1.6, 2.6, 0.75, 0.17), here),
            Actor("moving", "vehicle", torch.tensor([1.8, 0.9, 1.0]),
                  poses(torch.linspace(-2.5, 1.5, count), 0.6, 0.5, 0.0), here)]


def _ground(p):
    x, y = p[:, 0], p[:, 1]
    base = 0.55 + 0.12 * torch.sin(2.1 * x) * torch.cos(1.7 * y + 0.5) + 0.08 * torch.sin(2.5 * x + 2 * y)
    return torch.stack([base, base * 0.95, base * 0.85], 1)


def _wall(p):
    x, z = p[:, 0], p[:, 2]
    return torch.stack([
        0.6 + 0.2 * torch.sin(1.1 * x), 0.5 + 0.2 * torch.sin(1.5 * z), 0.4 + 0.2 * torch.cos(0.7 * x + z)], 1)


def _paint(k, p):
    wave = 0.25 * torch.sin(5 * p[:, 0] + k) * torch.cos(4 * p[:, 2]) + 0.1 * torch.sin(9 * p[:, 1])
    tint = torch.tensor([[0.75, 0.2, 0.2], [0.15, 0.3, 0.8]])[k]
    return (tint + wave[:, None]).clamp(0.02, 1)


def _slabs(actor, t, origin, rays):
    """Distance along `rays` to the box, inf where it is missed; and origin and rays in the box's frame."""
    rotation, center = actor.world_from_actor[t, :3, :3], actor.world_from_actor[t, :3, 3]
    o, d = (origin - center) @ rotation, rays @ rotation
    d = torch.where(d.abs() < 1e-9, 1e-9, d)
    ends = torch.stack([(side * actor.size / 2 - o) / d for side in (-1, 1)])
    near, far = ends.amin(0).amax(1), ends.amax(0).amin(1)
    return torch.where((near <= far) & (near > 1e-4), near, torch.inf), o, d


def picture(camera: Cameras, t: int, boxes: list[Actor]):
    """Exact rgb [3, H, W], z depth [1, H, W], ids [1, H, W] of frame `t` with `boxes`."""
    origin = camera.centers[0]
    rays = lift(camera, torch.ones(1, HEIGHT, WIDTH)) - origin
    none = torch.full((len(rays),), torch.inf)
    ground = torch.where(rays[:, 2] < 0, -origin[2] / rays[:, 2], none)
    wall = torch.where(rays[:, 1] > 0, (WALL - origin[1]) / rays[:, 1], none)
    hits = [ground, wall, *(_slabs(box, t, origin, rays)[0] for box in boxes)]
    z, what = torch.stack(hits).min(0)
    points = origin + z[:, None] * rays
    normals = torch.tensor([[0.0, 0, 1], [0, -1, 0]])[what.clamp_max(1)]
    rgb = torch.where((what == 0)[:, None], _ground(points), _wall(points))
    for k, box in enumerate(boxes):
        pose = box.world_from_actor[t]
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        side = (local / box.size * 2).abs().argmax(1)
        normal = torch.nn.functional.one_hot(side, 3) * local.sign()
        own = (what == k + 2)[:, None]
        normals = torch.where(own, normal @ pose[:3, :3].T, normals)
        rgb = torch.where(own, _paint(["parked", "moving"].index(box.name), local), rgb)
    lit = normals @ LIGHT > 0
    for box in boxes:
        lit &= torch.isinf(_slabs(box, t, points + 1e-3 * normals, LIGHT.expand_as(points))[0])
    rgb = rgb * torch.where(lit, 1.0, SHADE)[:, None]
    shape = (-1, HEIGHT, WIDTH)
    return rgb.T.reshape(shape), z.reshape(shape), (what - 1).clamp_min(0).reshape(shape).to(torch.uint8)


def pictures(path: Cameras, boxes: list[Actor]):
    """Frames [T, 3, H, W], depth and ids [T, 1, H, W]."""
    return tuple(torch.stack(values) for values in zip(*(picture(path[t], t, boxes) for t in range(len(path)))))


def views(count: int, points: int = 1500) -> tuple[Views, list[Actor], torch.Tensor]:
    """Photos with points of what stands still, actors, and their ids."""
    path, boxes = cameras(count), actors(count)
    frames, depth, ids = pictures(path, boxes)
    still = torch.cat([lift(path[t], depth[t])[(ids[t] != 2).flatten()] for t in range(count)])
    rgb = torch.cat([frames[t].flatten(1).T[(ids[t] != 2).flatten()] for t in range(count)])
    some = torch.randperm(len(still), generator=torch.Generator().manual_seed(0))[:points]
    return Views(frames, path, still[some], rgb[some]), boxes, ids
