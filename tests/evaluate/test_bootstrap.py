"""Intervals of means against scipy called another way, plain loops, and how often they hold the truth."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import bootstrap

from chopgrad_ns.evaluate import interval_of_mean, interval_of_series


def test_interval_of_mean_is_scipys():
    values = np.random.default_rng(0).gamma(2.0, size=25)
    expected = bootstrap((values,), np.mean, n_resamples=20000, method="percentile",
                         random_state=np.random.default_rng(1)).confidence_interval
    low, high = interval_of_mean(values)
    assert [low, high] == pytest.approx(list(expected), abs=0.05 * (expected.high - expected.low))
    assert low < values.mean() < high and interval_of_mean(values) == (low, high), "the same each time"
    assert interval_of_mean(values, level=0.5)[0] > low


def test_interval_of_series_is_a_plain_loop_over_blocks():
    values = lfilter([1.0], [1.0, -0.8], np.random.default_rng(0).normal(size=53))
    blocks = np.array_split(values, 7)  # √53 ≈ 7, and 7 go into 53 seven times
    generator, means = np.random.default_rng(3), []
    for _ in range(4000):
        drawn = [blocks[i] for i in generator.integers(7, size=7)]
        means.append(sum(part.sum() for part in drawn) / sum(map(len, drawn)))
    low, high = interval_of_series(values)
    expected = np.quantile(means, [0.025, 0.975])
    assert [low, high] == pytest.approx(expected.tolist(), abs=0.06 * (expected[1] - expected[0]))


def test_how_often_they_hold_the_truth():
    """95 % of the time for independent values; frames that are alike need blocks to come near."""
    generator = np.random.default_rng(5)
    held = [low < 0 < high for low, high in (interval_of_mean(generator.normal(size=40)) for _ in range(150))]
    assert 0.88 <= np.mean(held) <= 0.99
    by_block, by_frame = [], []
    for _ in range(100):
        series = lfilter([1.0], [1.0, -0.7], generator.normal(size=300))[60:]
        (low, high), (lower, higher) = interval_of_series(series), interval_of_mean(series)
        by_block.append(low < 0 < high)
        by_frame.append(lower < 0 < higher)
    assert np.mean(by_block) > 0.82 and np.mean(by_frame) < 0.7


def test_too_few_and_all_alike():
    assert interval_of_mean(np.array([1.0, 2.0])) is None and interval_of_mean(np.array([])) is None
    assert interval_of_series(np.arange(5.0)) is None and interval_of_series(np.array([])) is None
    assert interval_of_series(np.arange(5.0), block=1) is not None
    assert interval_of_mean(np.full(4, 120.0)) == (120.0, 120.0)
    assert math.isfinite(interval_of_mean(np.array([1.0, 2.0, 3.0]))[0])
