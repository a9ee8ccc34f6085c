"""The knee of a curve, its steepest part, and a closer look that ends."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.pruning.knee import Drop, knee, next_share, steepest

FLAT = {0.0: 0.6, 0.5: 0.6, 0.9: 0.6}


@pytest.mark.parametrize(
    ("curve", "tolerance", "expected"),
    [
        ({0.0: 0.62, 0.8: 0.615, 0.9: 0.48}, 0.01, 0.8),
        ({0.0: 0.62, 0.8: 0.615, 0.9: 0.48}, 0.2, 0.9),  # all are good
        ({0.0: 0.62, 0.8: 0.3, 0.9: 0.2}, 0.01, 0.0),  # none is
        ({0.0: 0.62, 0.5: 0.60, 0.7: 0.62, 0.9: 0.1}, 0.01, 0.7),  # a dip below the knee
        ({0.0: 0.62, 0.8: 0.61}, 0.01, 0.8),  # exactly the tolerance; 0.62 - 0.01 is not 0.61 in binary
        ({0.0: 0.62, 0.8: 0.7}, 0.0, 0.8),  # better than unpruned
        ({0.0: 0.62}, 0.01, 0.0),
        ({0.0: 0.0, 0.5: 0.0, 0.9: 0.0}, 0.01, 0.0),  # what finds nothing loses nothing
        ({0.0: 0.0, 0.5: 0.3}, 0.01, 0.0),
        ({0.0: math.nan, 0.5: math.nan}, 0.01, 0.0),
    ],
)
def test_the_knee_is_the_largest_share_within_the_tolerance(curve, tolerance, expected) -> None:
    assert knee(curve, tolerance) == expected


def test_steepness_is_loss_per_share() -> None:
    curve = {0.0: 0.8, 0.8: 0.5, 0.85: 0.4, 0.95: 0.25}
    drop = steepest(curve)  # 0.1 within 0.05 is steeper than 0.3 within 0.8 and 0.15 within 0.1
    assert drop is not None
    assert (drop.before, drop.after) == (0.8, 0.85)
    assert drop.lost == pytest.approx(0.1)


def test_what_does_not_fall_has_no_steepest_part() -> None:
    assert steepest(FLAT) is None
    assert steepest({0.0: 0.5}) is None
    assert steepest({0.0: 0.5, 0.5: 0.6}) is None
    assert steepest({0.0: 0.5, 0.5: 0.4}) == Drop(0.0, 0.5, 0.5 - 0.4)


def test_nothing_is_looked_at_where_all_is_good() -> None:
    assert next_share(FLAT, 0.01, 0.01) is None


@pytest.mark.parametrize("unpruned", [0.0, math.nan])
def test_nothing_is_looked_at_where_nothing_is_found(unpruned) -> None:
    assert next_share({0.0: unpruned, 0.5: 0.0, 0.9: 0.0}, 0.01, 0.01) is None


@st.composite
def cliffs(draw):
    """A falling function of the share with one step in it, and rungs to begin with."""
    edge, height = draw(st.floats(0.02, 0.98)), draw(st.floats(0.2, 0.5))
    slope = draw(st.floats(0, 0.02))
    rungs = draw(st.lists(st.integers(1, 19), min_size=1, max_size=10, unique=True))

    def curve(share: float) -> float:
        return 0.7 - slope * share - (height if share > edge else 0.0)

    return curve, edge, sorted(rung / 20 for rung in rungs)


@given(cliffs(), st.sampled_from([0.01, 0.02, 0.05]))
def test_a_closer_look_brackets_the_cliff_and_ends(made, step) -> None:
    function, edge, rungs = made
    curve = {share: function(share) for share in (0.0, *rungs)}
    looks = 0
    while (share := next_share(curve, 0.03, step)) is not None:
        assert share not in curve
        assert 0 < share < max(rungs)
        curve[share] = function(share)
        looks += 1
    # a bisection of the cliff's interval, and one of the steepest where there is no cliff among the rungs
    assert looks <= 2 * math.ceil(math.log2(1 / step)) + 2
    if edge < max(rungs):
        good = knee(curve, 0.03)
        bad = min(share for share in curve if share > good)
        assert good <= edge < bad
        assert bad - good <= step + 1e-6
        drop = steepest(curve)
        assert drop is not None
        assert drop.before <= edge < drop.after


@given(st.dictionaries(st.integers(1, 99), st.floats(0, 1), min_size=1), st.integers(1, 10))
def test_any_curve_is_looked_at_until_its_intervals_are_narrow(points, steps) -> None:
    step = steps / 100
    curve = {0.0: 0.5} | {share / 100: value for share, value in points.items()}
    random = iter(range(10**6))
    while (share := next_share(curve, 0.05, step)) is not None:
        curve[share] = (next(random) * 0.37) % 1  # as unlike a curve as can be
    good = knee(curve, 0.05)
    above = [share for share in curve if share > good]
    assert not above or min(above) - good <= step + 1e-6
    drop = steepest(curve)
    assert drop is None or drop.after - drop.before <= step + 1e-6
