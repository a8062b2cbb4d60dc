"""The losses of a training: those of decoded frames, and that of latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool3d

from chopgrad_ns.chopgrad import Backprop, Exact
from chopgrad_ns.errors import UserError
from chopgrad_ns.losses import LOSSES, Weight, Weighted
from chopgrad_ns.losses.weighted import parse_weights
from chopgrad_ns.refiner.condition import pool_time

LATENT = "latent"
"""Name of `latent_loss`."""


@dataclass(frozen=True)
class TrainingLosses:
    """Weights by name, of `chopgrad_ns.losses` and `latent`."""

    weights: Mapping[str, Weight]

    def at(self, step: int) -> tuple[Recorded | None, float]:
        """Of a step, counted from 0: the sum of the losses of frames, None where none has a weight, and latent's weight."""
        now = {name: weight.at(step) for name, weight in self.weights.items()}
        latent = now.pop(LATENT, 0.0)
        return Recorded(now) if any(now.values()) else None, latent

    def greatest(self) -> Weighted | None:
        """All losses of frames at their full weight: what takes most memory."""
        full = {name: weight.value for name, weight in self.weights.items() if name != LATENT}
        return Weighted(full) if full else None


class Recorded(Weighted):
    """A weighted sum that notes each loss while `recording`, for one forward through a clip of `pixel_loss`.

    Frames that the loss is only shown as context of a group are left out, and calls that backward makes.
    """

    def __init__(self, weights: Mapping[str, float]):
        super().__init__(weights)
        self.recording = False
        self.factors: Float[Tensor, "b"] | None = None
        """what the loss of each clip is multiplied by; notes are without it"""

    def record(self, frames: int, strategy: Backprop) -> None:
        """Begin to note the losses of a clip of so many frames."""
        self.recording, self._whole = True, frames
        # Tiles are gone through backward before the next one, and `Exact` then calls again for all groups but the last.
        self._again = isinstance(strategy, Exact) and strategy.tiles is not None
        self._frames, self._calls, self._ignored, self._pixels = 0, 0, 0, 0
        self._sums: dict[str, float | Tensor] = {name: 0.0 for name in self.weights}

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        values = {name: LOSSES[name](prediction, target) for name in self.weights}
        if self.recording:
            self._note(values, *prediction.shape[2:])
        total = sum(weight.value * values[name] for name, weight in self.weights.items())
        return total if self.factors is None else self.factors[:, None] * total

    def _note(self, values: Mapping[str, Tensor], frames: int, height: int, width: int) -> None:
        if self._ignored:
            self._ignored -= 1
            return
        seen = min(self.context_frames, self._frames)
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value.detach()[:, seen:].mean(dim=0).sum() * height * width
        self._pixels += (frames - seen) * height * width
        self._frames, self._calls = self._frames + frames - seen, self._calls + 1
        if self._frames == self._whole:  # the next tile begins
            self._ignored = self._calls - 1 if self._again else 0
            self._frames = self._calls = 0

    def means(self) -> dict[str, Tensor]:
        """Mean over frames of each loss, without its weight; tiles count by their area, as in the loss of the clip."""
        return {name: value / self._pixels for name, value in self._sums.items()}


def latent_loss(z: Float[Tensor, "b c tz hz wz"], wanted: Float[Tensor, "b c tz hz wz"], weight: Float[Tensor, "b t 1 h w"],
                temporal: int, spatial: int) -> Float[Tensor, ""]:
    """Mean square of the difference of normalised latents, refined − those of the clean frames.

    Each latent counts as its pixels do on average; the mean is over a clip, and then over clips. A clip without any weight
    gives 0.

    Args:
        temporal, spatial: frames a latent, after the first, and pixels a latent in both directions of the picture.
    """
    there = avg_pool3d(pool_time(weight, temporal), (1, spatial, spatial))
    error = torch.where(there > 0, z - wanted, 0).square().mean(dim=1, keepdim=True)
    clips = (error * there).flatten(1).sum(dim=1) / there.flatten(1).sum(dim=1).clamp_min(1e-9)
    return clips.mean()


def training_losses(text: str) -> TrainingLosses:
    """The losses of `FinetuneSettings`, each tried once: one that starts late must not fail only then.

    Raises:
        UserError: for what is not of the form `name=weight@start+ramp`, for a name that is unknown or named twice, where no
            loss starts at step 0, for a loss that needs optical flow, and for one whose weights are not to be had.
    """
    weights = {name: weight for name, weight in parse_weights(text).items() if weight.value}
    unknown = sorted(set(weights) - set(LOSSES) - {LATENT})
    if unknown:
        raise UserError(f"the losses {text!r} make no sum: there is no loss {unknown[0]!r}; choose among {', '.join(LOSSES)}, "
                        f"{LATENT}.")
    if not weights:
        raise UserError(f"the losses {text!r} make no sum: all weights are zero; give one loss a weight.")
    if all(weight.start for weight in weights.values()):
        raise UserError(f"the losses {text!r} make no sum: no loss has started at step 0; let one of {', '.join(weights)} "
                        "start there.")
    for name in weights:
        if getattr(LOSSES.get(name), "needs_flow", False):
            raise UserError(f"The loss {name} needs optical flow, which pairs to fine-tune on do not have; leave it out.")
    losses, picture = TrainingLosses(weights), torch.zeros(1, 4, 1, 16, 16)
    together = losses.greatest()
    if together is not None:
        together(picture[:, :3], picture)
    return losses
