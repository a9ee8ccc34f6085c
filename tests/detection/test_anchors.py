"""Anchors against objects: planted clusters are found, and a suggestion is never a loss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from utils.detection.anchors import (
    CLUSTERED,
    RECALL_AT,
    AnchorFit,
    anchor_fit,
    judge_anchors,
    size_iou,
    suggest_anchors,
)

PLANTED = np.array([[10.0, 14.0], [30.0, 20.0], [60.0, 110.0], [150.0, 90.0], [300.0, 320.0]])


def objects_around(centres: np.ndarray, each: int = 40, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(1, 0.05, (each, len(centres), 2))
    return (centres * noise).reshape(-1, 2)


def sizes(least: int, most: int) -> st.SearchStrategy[np.ndarray]:
    return st.integers(least, most).flatmap(lambda n: arrays(float, (n, 2), elements=st.floats(1, 600)))


def test_overlap_is_that_of_boxes_on_one_centre():
    overlap = size_iou(np.array([[10.0, 10.0], [4.0, 20.0]]), np.array([[5.0, 10.0], [10.0, 10.0]]))
    np.testing.assert_allclose(overlap, [[0.5, 1.0], [40 / 90, 40 / 140]])


def test_fit_counts_what_each_anchor_fits_best():
    fit = anchor_fit(np.array([[10.0, 10.0], [11.0, 10.0], [100.0, 3.0]]), np.array([[10.0, 10.0], [80, 80]]))
    assert fit.objects == (3, 0)
    assert fit.recall == (2 / 3, 2 / 3)
    assert fit.mean_iou == pytest.approx((1 + 100 / 110 + 30 / 370) / 3)


def test_planted_clusters_are_found():
    found = suggest_anchors(objects_around(PLANTED), np.full((5, 2), 100.0))
    assert (size_iou(PLANTED, found).max(1) > 0.95).all()


def test_a_suggestion_is_ordered_by_area():
    found = suggest_anchors(objects_around(PLANTED), PLANTED[::-1].copy())
    assert (np.diff(found.prod(1)) >= 0).all()


def test_a_suggestion_is_the_same_every_time():
    objects = objects_around(PLANTED, each=CLUSTERED // 4)
    first, second = (suggest_anchors(objects, PLANTED * 1.5, seed=3, restarts=2) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@settings(max_examples=60)
@given(sizes(1, 60), sizes(1, 9))
def test_a_suggestion_is_never_a_loss(objects, current):
    before, after = anchor_fit(objects, current), anchor_fit(objects, suggest_anchors(objects, current))
    assert after.mean_iou >= before.mean_iou
    assert len(before.recall) == len(RECALL_AT)
    assert all(new >= old for new, old in zip(after.recall, before.recall, strict=True))


def test_fewer_objects_than_anchors_leave_the_anchors_alone():
    np.testing.assert_array_equal(suggest_anchors(PLANTED[:2], PLANTED), PLANTED)


@pytest.mark.parametrize(
    ("mean_iou", "recall", "objects", "severities"),
    [
        (0.8, (1.0, 0.95), (3, 4), []),
        (0.76, (1.0, 0.91), (3, 4), []),
        (0.74, (1.0, 0.95), (3, 4), ["warning"]),
        (0.8, (0.94, 0.95), (3, 4), ["warning"]),
        (0.8, (1.0, 0.95), (7, 0), ["note"]),
    ],
    ids=["as good", "nearly", "mean IoU", "recall", "idle anchor"],
)
def test_only_a_gain_worth_it_is_a_warning(mean_iou, recall, objects, severities):
    best = AnchorFit(0.8, (1.0, 0.95), (3, 4))
    findings = judge_anchors(AnchorFit(mean_iou, recall, objects), best, "x.cfg")
    assert [finding.severity for finding in findings] == severities
