"""Smooth camera paths made of given cameras and nothing else."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.geometry import quaternions
from chopgrad_ns.splat.torch_backend import rotations

Direction = Literal["left", "right", "up", "down"]


def through(cameras: Cameras, frames: int) -> Cameras:
    """A path of `frames` cameras through `cameras` in order.

    Positions lie on a Catmull-Rom spline, rotations are slerped, times interpolated. It starts at the first and ends at the
    last; `frames` = k·(len(cameras) − 1) + 1 passes through all exactly.
    """
    poses = cameras.world_from_camera
    count = len(cameras)
    if count == 1:
        return cameras[[0] * frames]
    at = torch.linspace(0, count - 1, frames, dtype=poses.dtype, device=poses.device)
    left = at.floor().long().clamp_max(count - 2)
    fraction = (at - left)[:, None]
    world = torch.eye(4, dtype=poses.dtype, device=poses.device).repeat(frames, 1, 1)
    world[:, :3, 3] = _catmull_rom(poses[:, :3, 3], left, fraction)
    world[:, :3, :3] = rotations(_slerp(quaternions(poses[:, :3, :3]), left, fraction))
    K = torch.lerp(cameras.K[left], cameras.K[left + 1], fraction[..., None])
    times = cameras.times
    if times is not None:
        times = torch.lerp(times[left], times[left + 1], fraction[:, 0].to(times))
    return _from_world(world, K, cameras, times)


def beside(cameras: Cameras, frames: int, offset: float, look_ahead: float | None = None,
           direction: Direction | None = None) -> Cameras:
    """The path through `cameras` moved aside, turned so that it still sees the same things.

    Args:
        offset: in spacings between neighbouring cameras (their median); negative is the other way.
        look_ahead: distance along the optical axis of the point that stays in the middle of the picture; by
            default the distance at which the optical axes come closest to each other.
        direction: which way, in the picture; by default to the right and half as much up.
    """
    path = through(cameras, frames)
    world = path.world_from_camera.clone()
    spacing = float(cameras.centers.diff(dim=0).norm(dim=1).median()) if len(cameras) > 1 else 0.0
    distance = focus_distance(cameras) if look_ahead is None else look_ahead
    right, down, forward = world[:, :3, 0], world[:, :3, 1], world[:, :3, 2]
    target = world[:, :3, 3] + distance * forward
    aside = {None: right - 0.5 * down, "right": right, "left": -right, "up": -down, "down": down}[direction]
    center = world[:, :3, 3] + offset * spacing * F.normalize(aside, dim=-1)
    new_forward = F.normalize(target - center, dim=-1)
    new_right = F.normalize(torch.linalg.cross(down, new_forward), dim=-1)
    new_down = torch.linalg.cross(new_forward, new_right)
    world[:, :3, :3] = torch.stack([new_right, new_down, new_forward], dim=-1)
    world[:, :3, 3] = center
    return _from_world(world, path.K, path, path.times)


def shifted(cameras: Cameras, left: Float[Tensor, "n 3"], offset: float) -> Cameras:
    """Cameras moved by `offset` world units along `left` [T, 3], looking the same way: a drive in another lane."""
    world = cameras.world_from_camera.clone()
    world[:, :3, 3] += offset * left.to(world)
    return _from_world(world, cameras.K, cameras, cameras.times)


def focus_distance(cameras: Cameras) -> float:
    """Mean distance from the cameras to the point nearest to all optical axes.

    Where the axes run apart or side by side there is no such point well ahead, and the cameras' extent stands
    in for the distance.
    """
    centers, forward = cameras.centers, cameras.world_from_camera[:, :3, 2]
    eye = torch.eye(3, dtype=centers.dtype, device=centers.device)
    across = eye - forward[:, :, None] * forward[:, None, :]
    # A little pull to the middle of the cameras keeps parallel axes solvable.
    regular = across.sum(dim=0) + 1e-3 * eye
    wanted = (across @ centers[..., None]).sum(dim=0)[:, 0] + 1e-3 * centers.mean(dim=0)
    point = torch.linalg.solve(regular, wanted)
    ahead = ((point - centers) * forward).sum(dim=-1).mean()
    extent = torch.cdist(centers, centers).max()
    # Cameras on a circle look at its centre from half the extent.
    return float(torch.where(ahead > 0.4 * extent, ahead, extent).clamp_min(1e-3))


def _from_world(world: Tensor, K: Tensor, like: Cameras, times: Tensor | None) -> Cameras:
    return Cameras(Cameras(world, K, like.width, like.height).world_from_camera, K, like.width, like.height, times)


def _catmull_rom(points: Float[Tensor, "n 3"], left: Tensor, t: Float[Tensor, "f 1"]) -> Float[Tensor, "f 3"]:
    first, last = 2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1]  # ends continue straight on
    p = torch.cat([first, points, last])
    a, b, c, d = (p[left + k] for k in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def _slerp(quats: Float[Tensor, "n 4"], left: Tensor, t: Float[Tensor, "f 1"]) -> Float[Tensor, "f 4"]:
    a, b = quats[left], quats[left + 1]
    dot = (a * b).sum(dim=-1, keepdim=True)
    b, dot = torch.where(dot < 0, -b, b), dot.abs().clamp_max(1)
    angle = torch.acos(dot)
    near = angle < 1e-4  # the sines vanish; a straight line is the same to rounding
    sine = torch.where(near, torch.ones_like(angle), angle.sin())
    wa = torch.where(near, 1 - t, ((1 - t) * angle).sin() / sine)
    wb = torch.where(near, t, (t * angle).sin() / sine)
    return F.normalize(wa * a + wb * b, dim=-1)
