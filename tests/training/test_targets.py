"""Positives against a plain restatement of the rule, and the cells at the borders."""

import pytest
import torch
from torch import Tensor

from utils.detection.decode import HeadSpec, decode_head
from utils.training.losses import assign_targets, ignored_cells, shape_iou

SPECS = (
    HeadSpec(anchors=((60.0, 60.0), (90.0, 35.0)), classes=3, stride=32),
    HeadSpec(anchors=((10.0, 10.0), (20.0, 40.0)), classes=3, stride=16),
)
GRIDS = ((2, 3), (4, 6))  # an input of 96 x 64
SIZE = (96, 64)


def naive_positives(targets: Tensor, threshold: float) -> set[tuple[int, ...]]:
    """(head, image, anchor, row, column, class) by loops over plain numbers."""
    found = set()
    for image, kind, x, y, width, height in targets.tolist():
        width, height = width * SIZE[0], height * SIZE[1]
        fits = {}
        for head, spec in enumerate(SPECS):
            for anchor, (w, h) in enumerate(spec.anchors):
                shared = min(width, w) * min(height, h)
                fits[head, anchor] = shared / (width * height + w * h - shared)
        best = max(fits, key=fits.__getitem__)
        for head, anchor in fits:
            if (head, anchor) == best or fits[head, anchor] > threshold:
                stride = SPECS[head].stride
                cell = int(y * SIZE[1] / stride), int(x * SIZE[0] / stride)
                found.add((head, int(image), anchor, *cell, int(kind)))
    return found


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_positives_equal_the_rule_spelled_out(threshold: float) -> None:
    generator = torch.Generator().manual_seed(1)
    boxes = torch.rand(40, 4, generator=generator) * 0.9 + 0.05
    targets = torch.cat((torch.randint(0, 2, (40, 1)), torch.randint(0, 3, (40, 1)), boxes), dim=1)
    found = {
        (head, *place)
        for head, part in enumerate(assign_targets(targets, SPECS, GRIDS, threshold))
        for place in zip(*(column.tolist() for column in (*part.cells, part.classes)), strict=True)
    }
    assert found == naive_positives(targets, threshold)


@pytest.mark.parametrize("corner", [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0)])
def test_a_centre_on_the_image_border_stays_inside_the_map(corner: tuple[float, float]) -> None:
    targets = torch.tensor([[0, 1, *corner, 0.5, 0.5]])
    for found, (rows, columns) in zip(assign_targets(targets, SPECS, GRIDS, 0.0), GRIDS, strict=True):
        assert len(found.image) == 2
        assert bool(((found.row < rows) & (found.column < columns) & (found.row >= 0)).all())


def test_an_anchor_listed_in_two_heads_answers_in_both() -> None:
    specs = (HeadSpec(((30.0, 30.0),), 1, 32), HeadSpec(((30.0, 30.0), (5.0, 5.0)), 1, 16))
    targets = torch.tensor([[0, 0, 0.5, 0.5, 29 / 96, 29 / 64]])
    first, second = assign_targets(targets, specs, GRIDS, 1.0)
    assert first.anchor.tolist() == [0]
    assert second.anchor.tolist() == [0]


def test_no_truths_give_no_positives() -> None:
    assert [len(found.image) for found in assign_targets(torch.zeros(0, 6), SPECS, GRIDS, 0.2)] == [0, 0]


def test_shape_iou_is_the_iou_of_concentric_boxes() -> None:
    assert shape_iou(torch.tensor([[4.0, 2.0]]), torch.tensor([[2.0, 4.0]])).item() == pytest.approx(4 / 12)


def test_only_predictions_near_a_truth_of_their_own_image_are_ignored() -> None:
    boxes = decode_head(torch.zeros(2, 2, 4, 6, 4), SPECS[1])
    row, column, anchor = 2, 4, 1
    x, y, width, height = boxes[1, anchor, row, column].tolist()
    targets = torch.tensor([[1, 0, x / SIZE[0], y / SIZE[1], width / SIZE[0], height / SIZE[1]]])
    ignored = ignored_cells(boxes, targets, SIZE, 0.7)
    assert ignored.nonzero().tolist() == [[1, anchor, row, column]]
