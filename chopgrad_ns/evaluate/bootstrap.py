"""Confidence intervals of means by the bootstrap (Efron 1979; scipy's)."""

import math
from typing import Optional

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap

Interval = Optional[tuple[float, float]]
FEWEST = 3
"""An interval is given for at least so many things to resample; from so few it is too narrow all the same."""
RESAMPLES = 2000
SEED = 0


def interval_of_mean(values: Float[np.ndarray, "n"], level: float = 0.95) -> Interval:
    """Percentile interval of the mean of independent values, such as the means of clips; None for fewer than 3."""
    return _interval(np.asarray(values, dtype=np.float64), np.ones(len(values)), level)


def interval_of_series(values: Float[np.ndarray, "n"], level: float = 0.95, block: int | None = None) -> Interval:
    """Percentile interval of the mean of a series whose neighbours are alike, such as the frames of one clip.

    Blocks of `block` neighbours are resampled (Carlstein 1986: a series cut into blocks that do not overlap), by
    default about √n long: frames by themselves would pass for more evidence than they are. It tells how much the mean
    of this clip is owed to which frames it has, not how other clips would do. None for fewer than 3 blocks.
    """
    values = np.asarray(values, dtype=np.float64)
    blocks = np.array_split(values, block_count(len(values), block))
    return _interval(np.array([part.sum() for part in blocks]), np.array([len(part) for part in blocks]), level)


def block_count(length: int, block: int | None = None) -> int:
    """Into how many blocks a series is cut, one at least; a block is about √length long if not told otherwise."""
    return max(length // (block or max(round(math.sqrt(length)), 1)), 1)


def _interval(sums: np.ndarray, counts: np.ndarray, level: float) -> Interval:
    """Of Σ sums / Σ counts, both drawn together."""
    if len(sums) < FEWEST:
        return None
    ratio = lambda sums, counts, axis: sums.sum(axis=axis) / counts.sum(axis=axis)  # noqa: E731
    found = bootstrap((sums, counts), ratio, paired=True, vectorized=True, n_resamples=RESAMPLES, method="percentile",
                      confidence_level=level, random_state=np.random.default_rng(SEED)).confidence_interval
    return float(found.low), float(found.high)
