"""Methods on clips of pairs that nothing was trained on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.evaluate.comparison import Comparison


@dataclass
class Judge:
    """A degraded clip, what it should have looked like, which frames count, and where its hole is, if it has any."""

    name: str
    clip: Clip
    truth: Float[Tensor, "t 3 h w"]
    counts: Bool[Tensor, "t"]
    mask: Bool[Tensor, "t 1 h w"] | None


def unseen(pair: Pair) -> Bool[Tensor, "t"]:
    """Frames that the splat was not fitted to: all, where a pair does not say."""
    return torch.ones(len(pair), dtype=torch.bool) if pair.valid is None else pair.valid.flatten(1).any(dim=1)


def judges_of(pairs: Sequence[StoredPair], most_frames: int) -> list[Judge]:
    """The first frames of each pair; of them those count that are `unseen`."""
    found = []
    for stored in pairs:
        pair = stored.read(slice(0, most_frames))
        mask = None if pair.degraded.mask is None else pair.degraded.mask > 0.5
        found.append(Judge(stored.name, pair.degraded, pair.clean, unseen(pair), mask))
    return found


def add_clips(comparison: Comparison, judges: Sequence[Judge]) -> None:
    for judge in judges:
        mask = None if judge.mask is None else judge.mask[judge.counts]
        comparison.add_clip(judge.name, judge.truth[judge.counts], mask=mask)


def add_method(comparison: Comparison, judges: Sequence[Judge], name: str, label: str, about: str,
               refine: Callable[[Clip], Float[Tensor, "t 3 h w"]], timed: bool = True) -> None:
    """What a method makes of each whole clip, and of that the frames that count."""
    comparison.add_method(name, label, about)
    for judge in judges:
        began = time.perf_counter()
        frames = refine(judge.clip)
        seconds = (time.perf_counter() - began) * judge.counts.float().mean().item()  # all frames took time, these are told
        comparison.add_frames(judge.name, name, frames[judge.counts], seconds if timed else None)
    comparison.finish()
