"""Geometry of the charts, against positions worked out by hand."""

import itertools

import numpy as np
import pytest

from utils.reporting.charts import badge_centers, histogram, strands


def test_members_of_a_group_are_joined_from_first_to_last():
    rows = strands([None, 5, None, 5, None])
    assert [len(row) for row in rows] == [0, 1, 1, 1, 0]
    drawn = [(s.above, s.below, s.member, s.group) for row in rows for s in row]
    assert drawn == [(False, True, True, 5), (True, True, False, 5), (True, False, True, 5)]


def test_a_group_of_one_draws_nothing():
    assert strands([1, 2, 3]) == ((), (), ())


def test_groups_that_cross_lie_side_by_side_and_others_share_a_lane():
    rows = strands([1, 2, 1, 2, 3, 3])
    lanes = {strand.group: strand.lane for row in rows for strand in row}
    assert lanes == {1: 0, 2: 1, 3: 0}


@pytest.mark.parametrize("seed", range(20))
def test_no_two_groups_share_a_lane_in_a_row(seed):
    groups = np.random.default_rng(seed).integers(0, 6, 40).tolist()
    for row in strands(groups):
        assert len({strand.lane for strand in row}) == len(row)


def test_every_channel_is_in_one_bin():
    scores = np.random.default_rng(0).exponential(size=5000).astype(np.float32)
    kept = scores > 0.7
    chart = histogram(scores, kept, 0.7)
    assert sum(one.count for one in chart.bins) == 5000
    assert sum(one.kept for one in chart.bins) == kept.sum()


def test_the_threshold_lies_between_two_bins():
    """So that a plan that follows the threshold alone leaves no bin mixed."""
    scores = np.random.default_rng(0).uniform(size=5000)
    chart = histogram(scores, scores >= 0.37, 0.37)
    assert all(one.kept in (0, one.count) for one in chart.bins)
    assert chart.threshold == pytest.approx(0.37 / chart.bins[-1].high)


def test_heights_are_logarithmic_and_start_at_zero():
    chart = histogram(np.array([0.0] * 99 + [1.0] * 9))
    heights = {one.count: one.height for one in chart.bins}
    assert heights[0] == 0
    assert heights[99] / heights[9] == pytest.approx(2)  # log(1 + 99) to log(1 + 9)


def test_outliers_are_counted_in_the_last_bin():
    scores = np.append(np.linspace(0, 1, 999), 50.0)
    chart = histogram(scores)
    assert chart.bins[-1].high < 2
    assert chart.beyond == 1
    assert chart.bins[-1].count >= 1


@pytest.mark.parametrize("scores", [[], [np.nan, np.inf]], ids=["none", "not finite"])
def test_without_scores_there_is_no_chart(scores):
    assert histogram(np.array(scores)) is None


@pytest.mark.parametrize("threshold", [None, 0.0, 1e-9, 3.0])
def test_scores_that_are_all_zero_make_a_chart(threshold):
    chart = histogram(np.zeros(10), None, threshold)
    assert chart.bins[0].count == 10
    assert len(chart.bins) <= 60


def test_badges_stay_where_they_are_wished_if_nothing_is_there():
    wished = [(0.2, 0.3), (0.7, 0.8)]
    np.testing.assert_allclose(badge_centers(wished, 1.5), wished)


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.2])
def test_badges_in_one_place_come_apart(aspect):
    centers = badge_centers([(0.99, 0.5)] * 10, aspect)
    for (x, y), (other_x, other_y) in itertools.combinations(centers, 2):
        assert max(abs(x - other_x), abs(y - other_y) / aspect) > 0.0749
    assert all(0.03 < x < 0.97 and 0 < y < 1 for x, y in centers)
