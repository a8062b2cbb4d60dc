"""Weighted sums of losses by name, with weights that start late or rise slowly."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.losses.flow import warped_flicker
from chopgrad_ns.losses.frames import charbonnier, frame_difference, l1, ms_ssim_loss, mse, robust_l1, ssim_loss
from chopgrad_ns.losses.perceptual import lpips_loss, perceptual_loss
from chopgrad_ns.losses.textures import dists_loss, vgg_gram_loss

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1, "mse": mse, "charbonnier": charbonnier, "robust_l1": robust_l1, "ssim": ssim_loss, "ms_ssim": ms_ssim_loss,
    "perceptual": perceptual_loss, "lpips": lpips_loss, "dists": dists_loss, "vgg_gram": vgg_gram_loss,
    "frame_difference": frame_difference, "warped_flicker": warped_flicker,
}
FORM = re.compile(r"(?P<name>\w+)=(?P<value>[^@]+)(@(?P<start>\d+)(\+(?P<ramp>\d+))?)?")


@dataclass(frozen=True)
class Weight:
    """A weight that is 0 before step `start`, and from there on rises evenly over `ramp` steps to `value`."""

    value: float
    start: int = 0
    ramp: int = 0

    def at(self, step: int) -> float:
        """The weight in a step, counted from 0."""
        if step < self.start:
            return 0.0
        return self.value * min((step - self.start + 1) / max(self.ramp, 1), 1.0)


class Weighted:
    """Weighted sum of losses by name, such as `Weighted({"l1": 1.0, "dists": Weight(0.1, start=2000)})`.

    Called, it is the sum with all weights at their full value; `at(step)` is the one for a step of training. Losses of
    weight 0 cost nothing.

    Raises:
        ValueError: for a name that is not in `LOSSES`, or if no loss has a weight from step 0.
    """

    def __init__(self, weights: Mapping[str, float | Weight]):
        unknown = sorted(set(weights) - set(LOSSES))
        if unknown:
            raise ValueError(f"there is no loss {unknown[0]!r}; choose among {', '.join(LOSSES)}")
        given = {name: weight if isinstance(weight, Weight) else Weight(weight) for name, weight in weights.items()}
        self.weights = {name: weight for name, weight in given.items() if weight.value}
        if not self.weights:
            raise ValueError("all weights are zero; give one loss a weight")
        if all(weight.start for weight in self.weights.values()):
            raise ValueError(f"no loss has started at step 0; let one of {', '.join(self.weights)} start there")
        self.context_frames = max(getattr(LOSSES[name], "context_frames", 0) for name in self.weights)

    def at(self, step: int) -> "Weighted":
        """The sum with the weights of a step, counted from 0."""
        return Weighted({name: weight.at(step) for name, weight in self.weights.items()})

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return sum(weight.value * LOSSES[name](prediction, target) for name, weight in self.weights.items())


def parse_losses(text: str) -> Weighted:
    """The sum that a command line asks for: `mse=1,dists=0.1,lpips=1@2000,vgg_gram=0.5@2000+500`.

    Raises:
        UserError: for what `parse_weights` refuses, or if it makes no `Weighted`.
    """
    weights = parse_weights(text)
    try:
        return Weighted(weights)
    except ValueError as error:
        raise UserError(f"the losses {text!r} make no sum: {error}.") from error


def parse_weights(text: str) -> dict[str, Weight]:
    """The weights in a text such as `mse=1,lpips=1@2000,vgg_gram=0.5@2000+500`, by name; whether there are such losses is
    not looked at.

    Each is `name=weight`, then `@step` for a loss that starts there, then `+steps` for a weight that rises over so
    many steps.

    Raises:
        UserError: if it is not of that form, or names a loss twice.
    """
    weights: dict[str, Weight] = {}
    for part in (part.strip() for part in text.split(",")):
        match = FORM.fullmatch(part)
        if match is None:
            raise UserError(f"{part!r} in the losses {text!r} is not of the form name=weight, name=weight@start or "
                            "name=weight@start+ramp.")
        name, value, start, ramp = match["name"], match["value"], match["start"], match["ramp"]
        if name in weights:
            raise UserError(f"the losses {text!r} name {name} twice; give it one weight.")
        weights[name] = Weight(_number(value, text), int(start or 0), int(ramp or 0))
    return weights


def _number(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UserError(f"{value!r} in the losses {text!r} is not a weight; give a number of 0 or more.")
    return number
