"""The learning rate of a training, step by step."""

import math
from typing import Literal

LAST = 0.02
"""Of the highest learning rate, where a cosine ends."""


def factor(share: float, warmup: float, schedule: Literal["cosine", "constant"]) -> float:
    """Learning rate, as a part of the highest, by the share 0…1 of the training done: up, then as the schedule says."""
    if share < warmup:
        return share / warmup
    if schedule == "constant":
        return 1.0
    return LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * min((share - warmup) / max(1 - warmup, 1e-9), 1.0)))
