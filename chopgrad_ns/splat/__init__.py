"""Gaussians as data and one way to draw them."""

from chopgrad_ns.splat.cameras import Cameras
from chopgrad_ns.splat.gaussians import Gaussians
from chopgrad_ns.splat.rasterize import rasterize
from chopgrad_ns.splat.render import Rendered, render, render_frames

__all__ = ["Cameras", "Gaussians", "Rendered", "rasterize", "render", "render_frames"]
