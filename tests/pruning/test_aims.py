"""Aims: whatever the clock makes of predictions, the search ends close below what was asked for."""

from dataclasses import replace

import numpy as np
import pytest

from utils.errors import PruningError
from utils.pruning.aims import Aims, Try

START = Try(np.ones(1, dtype=np.bool_), 8.0, 0.0)


@pytest.mark.parametrize(
    "taken",
    [
        pytest.param(lambda predicted: 2 * predicted, id="twice"),
        pytest.param(lambda predicted: 0.3 * predicted, id="a third"),
        pytest.param(lambda predicted: 5 + 0.5 * predicted, id="what no width changes"),
        pytest.param(lambda predicted: 0.2 * predicted**2, id="steeper"),
        pytest.param(lambda predicted: 6 if predicted < 9 else 11 if predicted < 9.3 else 13, id="stairs"),
    ],
)
def test_the_clock_is_met(taken):
    aims, tries, predicted = Aims(12.0, "--max-ms"), [], START.predicted
    for _ in range(10):
        tries.append(replace(START, predicted=predicted, taken=taken(predicted)))
        if aims.reached(tries[-1]):
            break
        predicted = aims.next(tries[-1])
    assert 0.9 * 12 <= aims.best(tries).taken <= 12


def test_what_is_left_over_is_told():
    aims = Aims(12.0, "--max-ms")
    tries = [replace(START, taken=9.0), replace(START, taken=12.5)]
    note = aims.note(aims.best(tries), tries, "torch 2, threads 1")
    assert "9.00 ms of at most 12.00" in note
    assert note.endswith("; the next larger network found takes 12.50 ms")


@pytest.mark.parametrize("change", [{"taken": 12.1}, {"taken": 11.5, "within": False}])
def test_what_does_not_fit_is_not_taken(change):
    with pytest.raises(PruningError, match=r"--max-ms: 12\.00 ms not reached"):
        Aims(12.0, "--max-ms").best([replace(START, **change)])
