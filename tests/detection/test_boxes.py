import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.detection.boxes import (
    OVERLAP_KINDS,
    box_area,
    box_overlap,
    pairwise_iou,
    xywh_to_xyxy,
    xyxy_to_xywh,
)


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    """xyxy boxes that overlap often, float64."""
    generator = torch.Generator().manual_seed(seed)
    return xywh_to_xyxy(torch.rand(count, 4, generator=generator, dtype=torch.float64))


def counted_iou(first: list[int], second: list[int]) -> float:
    """IoU by counting unit cells."""
    cells = [
        {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])} for box in (first, second)
    ]
    union = len(cells[0] | cells[1])
    return len(cells[0] & cells[1]) / union if union else 0.0


def scalar_overlap(a: list[float], b: list[float], kind: str) -> float:
    """The papers' formulas for one pair."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    iou = width * height / union
    outer = [max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])]
    if kind == "giou":
        return iou - (outer[0] * outer[1] - union) / (outer[0] * outer[1])
    far = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    diou = iou - far / (outer[0] ** 2 + outer[1] ** 2)
    if kind == "diou":
        return diou
    angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    return diou - v * v / (1 - iou + v)


corner = st.integers(0, 8)


@given(st.tuples(corner, corner, corner, corner), st.tuples(corner, corner, corner, corner))
def test_iou_is_the_share_of_cells(first, second):
    boxes = [[min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])] for b in (first, second)]
    iou = pairwise_iou(*(torch.tensor([box], dtype=torch.float64) for box in boxes))
    assert iou.item() == pytest.approx(counted_iou(*boxes), abs=1e-12)


def test_pairwise_entry_i_j_is_first_i_with_second_j():
    first, second = random_boxes(5), random_boxes(3, seed=1)
    table = pairwise_iou(first, second)
    for i, j in np.ndindex(5, 3):
        assert table[i, j] == box_overlap(first[i], second[j])


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_the_other_overlaps_are_the_papers_formulas(kind):
    first, second = random_boxes(200), random_boxes(200, seed=1)
    ours = box_overlap(first, second, kind).tolist()
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    np.testing.assert_allclose(ours, [scalar_overlap(a, b, kind) for a, b in pairs], atol=1e-12)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])
def test_gradients_are_those_of_the_value(kind):
    first, second = random_boxes(6).requires_grad_(), random_boxes(6, seed=1)
    assert torch.autograd.gradcheck(lambda boxes: box_overlap(boxes, second, kind), first)


@pytest.mark.parametrize("kind", OVERLAP_KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_boxes_without_area_give_finite_values_and_gradients(kind, dtype):
    empty = torch.tensor([[2, 2, 2, 2], [2, 2, 2, 5], [0, 0, 0, 0], [2, 2, 5, 5]], dtype=dtype)
    target = torch.tensor([[2, 2, 2, 2], [2, 2, 2, 5], [1, 1, 4, 4], [5, 5, 5, 5]], dtype=dtype)
    empty.requires_grad_()
    overlap = box_overlap(empty, target, kind)
    overlap.sum().backward()
    assert overlap.isfinite().all()
    assert empty.grad.isfinite().all()


@pytest.mark.parametrize("kind", OVERLAP_KINDS)
def test_equal_boxes_overlap_fully_and_distance_lowers_all_kinds_but_iou(kind):
    box = torch.tensor([10.0, 10.0, 20.0, 40.0])
    assert box_overlap(box, box, kind).item() == pytest.approx(1)
    near, far = (box_overlap(box, box + distance, kind).item() for distance in (50.0, 90.0))
    assert (near, far) == (0, 0) if kind == "iou" else 0 > near > far


def test_layouts_convert_back_and_forth():
    boxes = random_boxes(50)
    torch.testing.assert_close(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes)


def test_an_inverted_box_has_no_area():
    assert box_area(torch.tensor([[5.0, 5.0, 2.0, 8.0]])).item() == 0


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="iou, giou, diou, ciou"):
        box_overlap(random_boxes(1), random_boxes(1), "siou")
