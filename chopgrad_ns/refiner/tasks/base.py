"""What one application asks of a refiner. The four differ only in this."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip, Pair

if TYPE_CHECKING:
    from chopgrad_ns.data.stored import StoredPair
    from chopgrad_ns.refiner.finetune.settings import FinetuneSettings


class Task:
    """A kind of degraded clip: what goes with its frames, where they may change, and what is learnt from.

    Subclass it, give it a `name`, override what differs, and `register` it: `Refiner.from_pretrained(…, task=name)` and
    `chopgrad finetune --task name` then know it. A task has no weights; all it hands over beside the frames enters the
    refiner through layers that start at zero.
    """

    name: str
    prompt: str = ""
    """text whose embedding a base with a text encoder is asked with"""
    extra_channels: int = 0
    """channels of `extra`"""
    losses: str = "l1=1,ssim=0.2"
    """what it is trained with unless told otherwise"""
    trains_decoder: bool = False
    """whether large bases have their decoder trained for this unless told otherwise"""

    def fits(self, pair: Pair | StoredPair) -> bool:
        """Whether a pair is for this task, from what it `carries`."""
        return pair.scale == (1, 1)

    def prepare(self, clip: Clip, size: tuple[int, int] | None = None) -> Clip:
        """The clip as the refiner takes it, of the output's height and width `size` (pixels; None: the task's choice).

        All frames of a window and the whole picture are seen here, and not yet cut into tiles or crops.
        """
        return clip

    def redraw(self, pair: Pair, draw: random.Random, settings: FinetuneSettings) -> Pair:
        """Degrade the clean frames anew for a step of training, where that can be done; else the pair as it is."""
        return pair

    def photos(self, pair: Pair | StoredPair, draw: random.Random) -> Float[Tensor, "p 3 h w"] | None:
        """Photos to train with in place of references, unaligned with the frames; None where the pair has none."""
        return None

    def extra(self, clip: Clip) -> Float[Tensor, "t e h w"]:
        """What goes with the frames of a prepared clip, about 0…1, `extra_channels` of it."""
        return clip.frames[:, :0]

    def gate(self, clip: Clip) -> Float[Tensor, "t 1 h w"] | None:
        """Where output may differ from input, 0…1: at 0 it does not, by a bit; None: everywhere."""
        return None

    def target(self, pair: Pair, settings: FinetuneSettings) -> Float[Tensor, "t 3 h w"]:
        """What a prepared pair's frames are trained to become, 0…1; it is judged by the clean frames as they are."""
        return pair.clean

    def weight(self, pair: Pair, settings: FinetuneSettings) -> Float[Tensor, "t 1 h w"]:
        """How much each pixel of a prepared pair counts in losses, 0…1."""
        return torch.ones_like(pair.clean[:, :1]) if pair.valid is None else pair.valid
