"""How a refiner is fine-tuned."""

from dataclasses import dataclass
from typing import Optional


@dataclass
class FinetuneSettings:
    """How to train. The defaults take about a second a step on two cores."""

    steps: int = 240
    lr: Optional[float] = None
    """highest learning rate of AdamW; it rises over 5 % of the training and falls along a cosine; None: 1e-3 for an
    untrained refiner, 2e-4 for a trained one"""
    max_seconds: Optional[float] = None
    """stop by then, even if `steps` are not reached; the learning rate falls with whichever runs out first"""
    crop: int = 48
    """pixels, width and height"""
    clip_frames: Optional[int] = 9
    """frames of an ordinary example; None: whole trajectories always, one pair a step"""
    batch: int = 3
    """ordinary examples a step, each from another pair where there are enough"""
    whole_every: int = 8
    """every k-th step trains on one whole trajectory instead; 0: never"""
    losses: str = "robust_l1=1,ssim=0.2"
    """weights of `chopgrad_ns.losses`, as `parse_losses` reads them; a loss may start late, or its weight rise slowly"""
    reference_dropout: float = 0.1
    """chance that a step's examples come with fewer references"""
    # Measured on a real capture not trained on, whose render has 36.83 dB: at 0 photos are trusted too much (36.63), at
    # 0.7 they are hardly used, even where they are right; at 0.3 they help (36.96).
    reference_disorder: float = 0.3
    """chance that a reference is bent by a pixel or so and exposed differently, as photos of real captures are"""
    min_alpha: float = 0.5
    """pixels less opaque than this are not trained on: nothing is there to mend"""
    ema: float = 0.99
    """decay of the averaged weights, which are the result; 0 for none"""
    clip_gradient: float = 1.0
    """largest norm of the gradient"""
    checkpoint_every: int = 50
    """steps"""
    seed: int = 0
    """of crops, flips and order"""
