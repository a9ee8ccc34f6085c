"""Limits of int8, against plain numpy."""

import numpy as np
import pytest

from utils.errors import ExportError
from utils.exporters.calibration import BINS, Histogram, best_limits


def filled(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def test_a_range_that_grows_counts_as_if_it_had_been_known() -> None:
    """Powers of 2 as limits, so that the bins' edges agree."""
    rng = np.random.default_rng(0)
    parts = [(rng.random(5000, dtype="f4") - 0.5) * 2 * limit for limit in (1, 4, 2)]
    for part, limit in zip(parts, (1, 4, 2), strict=True):
        part[0] = limit
    histogram = filled(*parts)
    wanted, _ = np.histogram(np.abs(np.concatenate(parts)), BINS, (0, 4))
    assert histogram.limit == 4
    # the largest value itself lies on an edge, and belongs to the bin below while it is the largest
    assert np.abs(histogram.counts - wanted).sum() == 2


@pytest.mark.parametrize("outlier", [1.0, 40.0])
def test_the_limit_costs_least_in_mean_square(outlier: float) -> None:
    values = np.random.default_rng(0).normal(size=20000).astype("f4")
    values[0] = outlier

    def error(limit: float) -> float:
        step = limit / 127
        return float(np.square(values - np.clip(np.rint(values / step), -127, 127) * step).mean())

    found = filled(values).best_limit()
    best = min(error(limit) for limit in np.linspace(0.5, 40, 400))
    assert error(found) < 1.05 * best


def test_an_outlier_does_not_set_the_limit() -> None:
    values = np.random.default_rng(0).normal(size=1_000_000).astype("f4")
    values[0] = 40
    assert filled(values).best_limit() < 25


def test_nothing_but_zeros_has_the_limit_0() -> None:
    assert best_limits([{"x": np.zeros((2, 3), "f4")}]) == {"x": 0}


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ExportError, match="contain NaN or inf; export fp32"):
        filled(np.array([1, np.nan], "f4"))
