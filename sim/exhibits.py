"""Splats of real things, put into sample worlds before they are photographed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.sim.sample import Sample, find_points
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.render import render

BEFORE = 0.75
"""Of the way to what is seen in the middle of photos: there exhibits stand."""
SMALLEST, LARGEST = 0.4, 0.8
"""From one end to the other, as a share of what the photos' shorter side shows there."""
SOLID = 0.5
"""Alpha from which on depth is that of the splat."""


def exhibit(sample: Sample, splat: Gaussians, seed: int) -> Sample:
    """Put a splat where the cameras look, turned at random, as large as a thing is that one walks round.

    What of it lies behind the world's surfaces is hidden; it casts no shadow. Its brightness does not follow the exposure.
    """
    splat = splat.transformed(_pose(sample, splat, np.random.default_rng([seed, 4])))
    shown = render(splat, sample.cameras)
    world = torch.where(sample.depth > 0, sample.depth, torch.full_like(sample.depth, torch.inf))
    alpha = shown.alpha * (shown.depth < world)
    frames = sample.frames * (1 - alpha) + shown.rgb * (shown.depth < world)
    depth = torch.where(alpha > SOLID, shown.depth, sample.depth)
    points, colors = find_points(frames, sample.cameras, depth, seed)
    return replace(sample, frames=frames.clamp(0, 1), depth=depth, points=points, colors=colors, gains=None)


def _pose(sample: Sample, splat: Gaussians, rng: np.random.Generator) -> Float[Tensor, "4 4"]:
    """world_from_splat, of a splat whose y axis points down as COLMAP's worlds often do."""
    yaw, tilt = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.2)
    upright = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    about_z = torch.tensor([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]).float()
    about_x = torch.tensor([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]).float()
    height, width = sample.depth.shape[-2:]
    far = sample.depth[:, 0, height // 2, width // 2, None]
    far = torch.where(far > 0, far, sample.depth[sample.depth > 0].median())
    place = (sample.cameras.centers + BEFORE * far * sample.cameras.camera_from_world[:, 2, :3]).median(dim=0).values
    away = float((place - sample.cameras.centers).norm(dim=1).median())
    low, high = splat.bounding_box(0.98)
    shown = away * min(width, height) / float(sample.cameras.K[0, 0, 0])
    scale = shown * rng.uniform(SMALLEST, LARGEST) / float((high - low).max())
    pose = torch.eye(4)
    pose[:3, :3] = scale * about_z @ about_x @ upright
    pose[:3, 3] = place - pose[:3, :3] @ ((low + high) / 2)
    return pose
