"""What real captures have and sample worlds lack: soft lenses, grain, haze, and cameras that are not quite where they are said
to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.sim.sample import Sample
from chopgrad_ns.splat.cameras import Cameras

SOFTEST, GRAINIEST, LEAST_CONTRAST = 0.9, 0.012, 0.6
"""Standard deviation of a lens's blur in pixels, that of grain in 0…1, and the contrast that haze leaves."""
WORST_TURN, WORST_STEP = 0.05, 0.0015
"""Standard deviation of poses: degrees, and shares of how far away what is seen lies."""


def with_flaws(sample: Sample, seed: int) -> Sample:
    """The same photos, less perfect and with cameras a little off; how much is drawn, the same for the same seed."""
    rng = np.random.default_rng([seed, 3])
    frames = soften(sample.frames, rng.uniform(0.2, SOFTEST))
    contrast = rng.uniform(LEAST_CONTRAST, 1)
    haze = rng.uniform(0, 1 - contrast)
    noise = torch.from_numpy(rng.standard_normal(frames.shape, np.float32)) * rng.uniform(0, GRAINIEST)
    far = float(sample.depth[sample.depth > 0].median()) if (sample.depth > 0).any() else 1.0
    cameras = _moved(sample.cameras, rng, np.deg2rad(rng.uniform(0, WORST_TURN)), far * rng.uniform(0, WORST_STEP))
    return replace(sample, frames=(haze + contrast * frames + noise).clamp(0, 1), colors=haze + contrast * sample.colors,
                   cameras=cameras, gains=None)


def soften(frames: Float[Tensor, "t 3 h w"], sigma: float) -> Float[Tensor, "t 3 h w"]:
    """Gaussian blur of `sigma` pixels."""
    at = torch.arange(-3, 4, dtype=frames.dtype)
    kernel = torch.exp(-at**2 / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    rows = F.conv2d(F.pad(frames, (3, 3, 0, 0), mode="replicate"), kernel, groups=3)
    return F.conv2d(F.pad(rows, (0, 0, 3, 3), mode="replicate"), kernel.mT, groups=3)


def _moved(cameras: Cameras, rng: np.random.Generator, turn: float, step: float) -> Cameras:
    """Cameras turned and moved at random, `turn` radians and `step` metres (standard deviations along each axis)."""
    axis = torch.from_numpy(rng.normal(0, turn, (len(cameras), 3)))
    cross = torch.zeros(len(cameras), 3, 3, dtype=axis.dtype)
    cross[:, [2, 0, 1], [1, 2, 0]], cross[:, [1, 2, 0], [2, 0, 1]] = axis, -axis
    off = torch.eye(4, dtype=axis.dtype).repeat(len(cameras), 1, 1)
    off[:, :3, :3] = torch.linalg.matrix_exp(cross)
    off[:, :3, 3] = torch.from_numpy(rng.normal(0, step, (len(cameras), 3)))
    return replace(cameras, camera_from_world=(off @ cameras.camera_from_world.double()).to(cameras.camera_from_world.dtype))
