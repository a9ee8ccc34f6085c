import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.detection import boxes as nms
from utils.detection.boxes import NMS_KINDS, suppress, xywh_to_xyxy


def overlap(a: list[float], b: list[float], kind: str, beta: float) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    iou = width * height / union if union > 0 else 0.0
    if kind == "default":
        return iou
    far = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    c = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    return iou - (far / c) ** (0.6 if kind == "greedynms" else beta)


def plain_nms(predictions: torch.Tensor, confidence: float, most: float, kind: str, beta: float) -> set:
    """do_nms_sort / diounms_sort: for each class zero the scores of what a better box overlaps."""
    boxes = xywh_to_xyxy(predictions[:, :4]).tolist()
    kept = set()
    for number in range(predictions.shape[1] - 5):
        scores = {}
        for index, row in enumerate(predictions):
            score = (row[4] * row[5 + number]).item()
            if row[4] > confidence and score > confidence:
                scores[index] = score
        order = sorted(scores, key=lambda index: -scores[index])
        while order:
            best, *rest = order
            kept.add((best, number))
            order = [index for index in rest if overlap(boxes[best], boxes[index], kind, beta) <= most]
    return kept


def found(predictions: torch.Tensor, detections: torch.Tensor) -> set:
    """(box, class) of each detection, found by its corners."""
    corners = xywh_to_xyxy(predictions[:, :4])
    pairs = [((corners == row[:4]).all(1).nonzero()[0].item(), int(row[5])) for row in detections]
    assert len(pairs) == len(set(pairs))
    return set(pairs)


def random_predictions(count: int, classes: int, seed: int, size: float = 0.4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, 5 + classes, generator=generator, dtype=torch.float64)
    values[:, 2:4] = 0.05 + values[:, 2:4] * size
    return values


@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 40),
    classes=st.integers(1, 4),
    kind=st.sampled_from(NMS_KINDS),
    confidence=st.sampled_from([0.005, 0.3]),
    beta=st.sampled_from([0.2, 0.6, 1.0]),
)
@settings(max_examples=60)
def test_it_keeps_what_the_plain_loop_keeps(seed, count, classes, kind, confidence, beta):
    predictions = random_predictions(count, classes, seed)
    detections = suppress(predictions, confidence, 0.45, kind, beta)
    assert found(predictions, detections) == plain_nms(predictions, confidence, 0.45, kind, beta)


@pytest.mark.parametrize("block", [2, 7, 256])
@pytest.mark.parametrize("pairs", [50, 1 << 22])
def test_the_cutting_into_blocks_does_not_show(monkeypatch, block, pairs):
    """Chains of boxes that remove one another cross the borders of the blocks."""
    predictions = random_predictions(120, 3, seed=4, size=0.2)
    expected = plain_nms(predictions, 0.1, 0.3, "default", 0.6)
    monkeypatch.setattr(nms, "BLOCK", block)
    monkeypatch.setattr(nms, "MOST_PAIRS", pairs)
    assert found(predictions, suppress(predictions, 0.1, 0.3)) == expected


def test_detections_come_best_first_with_score_and_class():
    predictions = torch.tensor([[0.5, 0.5, 0.2, 0.4, 0.5, 0.1, 0.8], [0.1, 0.1, 0.1, 0.1, 1.0, 0.9, 0.0]])
    expected = [[0.05, 0.05, 0.15, 0.15, 0.9, 0], [0.4, 0.3, 0.6, 0.7, 0.4, 1], [0.4, 0.3, 0.6, 0.7, 0.05, 0]]
    torch.testing.assert_close(suppress(predictions, 0.01), torch.tensor(expected))


def test_the_middle_of_a_chain_saves_the_end():
    """a removes b, b would remove c: c stays, since only survivors remove."""
    row = [[0.0, 0.5, 0.4, 0.4, 1, 0.9], [0.1, 0.5, 0.4, 0.4, 1, 0.8], [0.2, 0.5, 0.4, 0.4, 1, 0.7]]
    kept = suppress(torch.tensor(row), 0.1, 0.45)
    torch.testing.assert_close(kept[:, 4], torch.tensor([0.9, 0.7]))


def test_a_box_exactly_at_the_threshold_stays():
    # IoU of exactly one half
    pair = torch.tensor([[1.0, 1.0, 2.0, 2.0, 1, 0.9], [1.0, 0.5, 2.0, 1.0, 1, 0.8]])
    assert len(suppress(pair, 0.1, 0.5)) == 2
    assert len(suppress(pair, 0.1, 0.499)) == 1


def test_objectness_and_score_must_both_pass_strictly():
    # scores are products of powers of two, so that nothing is rounded
    rows = torch.tensor([[0, 0, 1, 1, 0.25, 1.0], [5, 5, 1, 1, 1.0, 0.25], [9, 9, 1, 1, 0.5, 1.0]])
    assert suppress(rows.float(), 0.25)[:, 4].tolist() == [0.5]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_boxes_that_are_not_finite_are_dropped(bad):
    predictions = random_predictions(4, 2, seed=0)
    predictions[1, 2] = bad
    detections = suppress(predictions, 0.0, 1.0)
    assert detections.isfinite().all()
    assert len(detections) == 6


def test_nothing_in_nothing_out():
    for predictions in (torch.zeros(0, 8), torch.zeros(5, 8)):
        assert suppress(predictions).shape == (0, 6)


def test_the_best_candidates_take_part_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(nms, "MOST_CANDIDATES", 10)
    predictions = random_predictions(50, 3, seed=1)
    scores = (predictions[:, 4:5] * predictions[:, 5:]).flatten().sort(descending=True).values
    torch.testing.assert_close(suppress(predictions, 0.0, 1.0)[:, 4], scores[:10])


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="greedynms"):
        suppress(torch.zeros(1, 6), kind="soft")
