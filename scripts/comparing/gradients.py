"""What ways through the decoder do to the gradient, and what they cost."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.chopgrad import Backprop
from chopgrad_ns.chopgrad.meter import peak_bytes
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.refiner import FinetuneSettings, Refiner
from chopgrad_ns.refiner.finetune.run import Run


@dataclass(frozen=True)
class Measured:
    """Gradients of some batches, one after the other, and the median of seconds of a step."""

    gradients: list[Float[Tensor, "n"]]
    seconds: float


def measured(refiner: Refiner, pairs: Sequence[StoredPair], settings: FinetuneSettings, backprop: Backprop,
             batches: int) -> Measured:
    """Of the losses of a training at the refiner's present weights, by all that is trained, before any clipping."""
    gradients, seconds = [], []
    with Run(refiner, pairs, settings, backprop) as run:
        for number in range(batches):
            examples, _ = run.examples.draw(settings.steps + number)  # of the same pairs, but no crops of the training
            began = time.perf_counter()
            for parameter in run.trained.values():
                parameter.grad = None
            run.loss(examples).backward()
            seconds.append(time.perf_counter() - began)
            gradients.append(torch.cat([(torch.zeros_like(value) if value.grad is None else value.grad).flatten()
                                        for value in run.trained.values()]))
    return Measured(gradients, statistics.median(seconds))


def peak_of(refiner: Refiner, pairs: Sequence[StoredPair], settings: FinetuneSettings, backprop: Backprop) -> int:
    """The most bytes that a step of a training takes at once."""
    with Run(refiner, pairs, settings, backprop) as run:
        examples, _ = run.examples.draw(settings.steps)
        return peak_bytes(lambda: run.loss(examples).backward(), refiner.device)


def cosine_and_ratio(found: Measured, exact: Measured) -> tuple[float, float]:
    """Means over batches: cosine of the angle to the exact gradient, and length in units of its length."""
    both = [(one.double(), two.double()) for one, two in zip(found.gradients, exact.gradients, strict=True)]
    cosines = [float(one @ two / (one.norm() * two.norm()).clamp_min(1e-300)) for one, two in both]
    ratios = [float(one.norm() / two.norm().clamp_min(1e-300)) for one, two in both]
    return statistics.mean(cosines), statistics.mean(ratios)
