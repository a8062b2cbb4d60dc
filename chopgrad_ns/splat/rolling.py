"""Rolling shutters: Gaussians where the line of the picture that shows them was exposed.

A camera that moves while its lines are exposed, one after the other, sees each thing from a place of its own. To first order
that is as if each thing were elsewhere and the camera stood: its mean is moved against the camera's motion, by the time
between its line and the middle one (as SplatAD does, Hess et al. 2025, who move means in the picture). What moves itself is
`carried` on by that time first.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.splat.cameras import Cameras

ROUNDS = 3
"""Of finding the line that shows a place; each is tens of times nearer than the one before."""
OUTSIDE = 0.6
"""How far from the middle of the picture, in picture sizes, lines are told apart: a little beyond its borders."""


def line_delays(means: Float[Tensor, "n 3"], camera: Cameras, velocity: Float[Tensor, "n 3"] | None = None
                ) -> Float[Tensor, "n"]:
    """Seconds between the middle line and the one in which the first camera shows each place; 0 behind it. No gradient flows.

    `velocity`, of places that move, is in world units a second; they are at `means` when the middle line is exposed. Raises
    ValueError for a camera without a rolling shutter.
    """
    if camera.readout is None:
        raise ValueError("the camera has no rolling shutter")
    with torch.no_grad():
        seen, delay = _into(means, camera), means.new_zeros(len(means))
        drift = torch.zeros_like(seen) if velocity is None else velocity @ camera.camera_from_world[0, :3, :3].T
        for _ in range(ROUNDS):
            delay = _delay(_as_seen(seen + delay[:, None] * drift, delay, camera), camera)
    return delay


def carried(means: Float[Tensor, "n 3"], velocity: Float[Tensor, "n 3"], camera: Cameras) -> Float[Tensor, "n 3"]:
    """Moving places where they are when the line that shows them is exposed: what `as_shown`, which takes all to stand, is to
    be given of them. `velocity` in world units a second. The means themselves for a camera without a rolling shutter.
    """
    if camera.readout is None:
        return means
    return means + line_delays(means, camera.to(means), velocity)[:, None] * velocity


def as_shown(means: Float[Tensor, "n 3"], camera: Cameras) -> Float[Tensor, "n 3"]:
    """Where the first camera, standing still, would have to see places to show them as it does while it moves.

    Differentiable in the means. The means themselves for a camera without a rolling shutter.
    """
    if camera.readout is None:
        return means
    camera = camera.to(means)
    seen = _as_seen(_into(means, camera), line_delays(means, camera), camera)
    return (seen - camera.camera_from_world[0, :3, 3]) @ camera.camera_from_world[0, :3, :3]


def _into(means: Float[Tensor, "n 3"], camera: Cameras) -> Float[Tensor, "n 3"]:
    return means @ camera.camera_from_world[0, :3, :3].T + camera.camera_from_world[0, :3, 3]


def _as_seen(local: Float[Tensor, "n 3"], delay: Float[Tensor, "n"], camera: Cameras) -> Float[Tensor, "n 3"]:
    """Places in the frame of the camera as it is so much later; rotations of hundredths of a radian to second order."""
    velocity, (x, y, z) = camera.motion[0, :3], camera.motion[0, 3:].tolist()
    cross = local.new_tensor([[0.0, -z, y], [z, 0, -x], [-y, x, 0]])  # `torch.linalg.cross` is many times slower
    delay = delay[:, None]
    away = local - delay * velocity
    across = -delay * (away @ cross.T)
    return away + across - 0.5 * delay * (across @ cross.T)


def _delay(local: Float[Tensor, "n 3"], camera: Cameras) -> Float[Tensor, "n"]:
    z = local[:, 2]
    ahead = z > 1e-6
    plane = local[:, :2] / torch.where(ahead, z, 1)[:, None]
    size = plane.new_tensor([camera.width, camera.height])
    share = (plane * camera.K[0].diagonal()[:2] + camera.K[0, :2, 2]) / size - 0.5
    return (share.clamp(-OUTSIDE, OUTSIDE) @ camera.readout[0]) * ahead
