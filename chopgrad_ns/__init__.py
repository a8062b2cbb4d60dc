"""ChopGrad for nerfstudio: pixel losses through causal video decoders, and the path from sparse views to a better splat."""

__version__ = "0.1.0"
