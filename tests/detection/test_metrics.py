import numpy as np
import pytest

from utils.detection.metrics import average_precision, match_image, merge


def c_program_ap(probabilities, truth_of, truths: int, points: int) -> float:
    """The loops of validate_detector_map (detector.c) for one class: claims by score, then the area."""
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    claimed, tp, fp, curve = set(), 0, 0, []
    for i in order:
        if truth_of[i] is not None and truth_of[i] not in claimed:
            claimed.add(truth_of[i])
            tp += 1
        else:
            fp += 1
        curve.append((tp / truths, tp / (tp + fp)))
    if points == 0:
        area, (last_recall, last_precision) = 0.0, curve[-1]
        for recall, precision in reversed(curve[:-1]):
            area += (last_recall - recall) * last_precision
            last_recall, last_precision = recall, max(last_precision, precision)
        return area + last_recall * last_precision
    total = 0.0
    for point in range(points):
        total += max((p for r, p in curve if r >= point / (points - 1)), default=0.0)
    return total / points


@pytest.mark.parametrize("points", [0, 11, 101])
@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_the_c_programs(points, seed):
    rng = np.random.default_rng(seed)
    truths = int(rng.integers(1, 15))
    count = int(rng.integers(1, 40))
    scores = rng.permutation(count) / count
    claims = [None if draw < 0.4 else int(draw * 1000) % truths for draw in rng.random(count)]
    seen, right = set(), []
    for i in np.argsort(-scores):
        right.append(claims[i] is not None and claims[i] not in seen)
        seen.add(claims[i])
    expected = c_program_ap(scores, claims, truths, points)
    assert average_precision(np.array(right), truths, points) == pytest.approx(expected, abs=1e-12)


def boxes(*rows) -> np.ndarray:
    return np.array(rows, float).reshape(-1, 4)


def test_a_worked_example():
    """Two images, two classes, each case once.

    Image 0 has truths A (class 0) and B (class 1), image 1 has truth C (class 0).
    Scores: .9 hits A, .8 hits A again (wrong), .7 misses C by half, .6 hits C; class 1: .5 hits B's place
    with class 0 (wrong).
    """
    first = match_image(
        boxes([0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]),
        np.array([0.9, 0.8, 0.5]),
        np.array([0, 0, 0]),
        boxes([0, 0, 10, 10], [20, 20, 30, 30]),
        np.array([0, 1]),
    )
    second = match_image(
        boxes([5, 0, 15, 10], [1, 0, 11, 10]),
        np.array([0.7, 0.6]),
        np.array([0, 0]),
        boxes([0, 0, 10, 10]),
        np.array([0]),
    )
    matches = merge([first, second], classes=3)
    assert matches.truths.tolist() == [2, 1, 0]
    assert matches.scores.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert matches.true_positives(0.5).tolist() == [True, False, False, True, False]
    # recall .5 at precision 1, recall 1 at precision 2/4
    np.testing.assert_allclose(matches.average_precisions(0.5), [0.5 + 0.5 * 0.5, 0, 0])
    counts = matches.counts(score=0.65)
    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (1, 2, 2)
    assert (counts.precision, counts.recall) == (1 / 3, 1 / 3)


def test_an_iou_exactly_at_the_threshold_is_no_match():
    half = match_image(
        boxes([0, 0, 10, 5]), np.array([0.9]), np.array([0]), boxes([0, 0, 10, 10]), np.array([0])
    )
    matches = merge([half], 1)
    assert not matches.true_positives(0.5).any()
    assert matches.true_positives(0.4999).all()


def test_a_detection_claims_its_best_truth_even_if_that_is_taken():
    """No second choice: step 3 of `detector map`."""
    image = match_image(
        boxes([0, 0, 10, 10], [0, 0, 10, 9]),
        np.array([0.9, 0.8]),
        np.array([0, 0]),
        boxes([0, 0, 10, 10], [0, 2, 10, 10]),
        np.array([0, 0]),
    )
    assert merge([image], 1).true_positives(0.5).tolist() == [True, False]


def test_without_detections_or_truths_figures_are_zero():
    nothing = match_image(boxes(), np.zeros(0), np.zeros(0, int), boxes(), np.zeros(0, int))
    for images in ([], [nothing]):
        matches = merge(images, 2)
        assert matches.average_precisions().tolist() == [0, 0]
        assert (matches.counts(0.25).precision, matches.counts(0.25).recall) == (0, 0)
