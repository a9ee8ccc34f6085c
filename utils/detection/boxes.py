"""Box layouts, overlaps, and non-maximum suppression as the C program does it.

Layouts: `xywh` is centre and size, `xyxy` is the top left and bottom right corner; any unit, but one.
Invariant: an overlap never divides by zero; a box without area has overlap 0, and gradients are finite.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

OVERLAP_KINDS = ("iou", "giou", "diou", "ciou")


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size (..., 4) -> corners (..., 4).

    >>> xywh_to_xyxy(torch.tensor([5.0, 5.0, 4.0, 2.0])).tolist()
    [3.0, 4.0, 7.0, 6.0]
    """
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corners (..., 4) -> centre and size (..., 4); the inverse of `xywh_to_xyxy` up to rounding.

    >>> xyxy_to_xywh(torch.tensor([3.0, 4.0, 7.0, 6.0])).tolist()
    [5.0, 5.0, 4.0, 2.0]
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def box_area(boxes: Tensor) -> Tensor:
    """Area of xyxy boxes (..., 4) -> (...); 0 for an inverted box."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def elementwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of xyxy boxes (..., 4), broadcast -> (...) in 0..1."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    sides = (high - low).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    union = box_area(first) + box_area(second) - shared
    return shared / union.clamp(min=_least_area(union))


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of every pair of two lists of xyxy boxes.

    Args:
        first: (N, 4).
        second: (M, 4).

    Returns:
        (N, M): entry [i, j] is the IoU of first[i] and second[j], 0 if neither has an area.
    """
    return elementwise_iou(first[:, None], second[None])


def box_overlap(predicted: Tensor, target: Tensor, kind: str = "iou") -> Tensor:
    """IoU, GIoU, DIoU or CIoU of box pairs; differentiable.

    "giou" subtracts the empty share of the enclosing box (arXiv 1902.09630), "diou" the squared distance of
    the centres over the squared diagonal of the enclosing box, "ciou" adds a penalty on the aspect ratio
    (both arXiv 1911.08287; the trade-off alpha is a constant, as there).

    Args:
        predicted: xyxy (..., 4).
        target: xyxy (..., 4), broadcast against `predicted`.
        kind: one of OVERLAP_KINDS.

    Returns:
        (...): 1 for equal boxes; "iou" is in 0..1, the others go down to -1 or a little below.

    Raises:
        ValueError: `kind` is not one of OVERLAP_KINDS.
    """
    if kind not in OVERLAP_KINDS:
        raise ValueError(f"unknown overlap {kind!r}; use one of {', '.join(OVERLAP_KINDS)}")
    iou = elementwise_iou(predicted, target)
    if kind == "iou":
        return iou
    if kind == "giou":
        outer = box_area(_enclosing(predicted, target))
        union = (box_area(predicted) + box_area(target)) / (1 + iou)
        return iou - (outer - union) / outer.clamp(min=_least_area(outer))
    distance = center_distance(predicted, target)
    if kind == "diou":
        return iou - distance
    aspect = _aspect_penalty(predicted, target)
    with torch.no_grad():
        alpha = aspect / (1 - iou + aspect).clamp(min=torch.finfo(iou.dtype).eps)
    return iou - distance - alpha * aspect


def center_distance(first: Tensor, second: Tensor) -> Tensor:
    """Squared distance of the centres over that of the enclosing corners, xyxy (..., 4) -> (...)."""
    enclosing = _enclosing(first, second)
    diagonal = (enclosing[..., 2:] - enclosing[..., :2]).square().sum(-1)
    apart = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2
    return apart.square().sum(-1) / diagonal.clamp(min=_least_area(diagonal))


def _enclosing(first: Tensor, second: Tensor) -> Tensor:
    low = torch.minimum(first[..., :2], second[..., :2])
    return torch.cat((low, torch.maximum(first[..., 2:], second[..., 2:])), dim=-1)


def _aspect_penalty(predicted: Tensor, target: Tensor) -> Tensor:
    sides = (predicted[..., 2:] - predicted[..., :2]).clamp(min=0)
    wanted = (target[..., 2:] - target[..., :2]).clamp(min=0)
    tiny = torch.finfo(sides.dtype).eps
    # atan2 has no gradient at (0, 0), so sizes are kept off zero
    angle = torch.atan2(sides[..., 0], sides[..., 1].clamp(min=tiny))
    wanted_angle = torch.atan2(wanted[..., 0], wanted[..., 1].clamp(min=tiny))
    return (wanted_angle - angle).square() * (4 / math.pi**2)


def _least_area(areas: Tensor) -> float:
    """Areas below this count as 0: small enough for any box, large enough that 1 / area is finite."""
    return torch.finfo(areas.dtype).eps ** 2


class Suppression(Protocol):
    """Settings of the suppression, such as a head, see `suppress`."""

    @property
    def nms_kind(self) -> str:
        """One of NMS_KINDS."""

    @property
    def beta_nms(self) -> float:
        """Exponent of the distance for "diounms"."""


NMS_KINDS = ("default", "greedynms", "diounms")
# exponent of the distance term of greedynms, fixed in box_diou (box.c)
_GREEDY_BETA = 0.6
# (box, class) pairs of one image; a trained detector has far fewer, an untrained one would take minutes
MOST_CANDIDATES = 30_000
# overlaps computed at once, which bounds the memory
MOST_PAIRS = 1 << 22
BLOCK = 256


def suppress(
    predictions: Tensor,
    confidence: float = 0.005,
    overlap: float = 0.45,
    kind: str = "default",
    beta: float = 0.6,
) -> Tensor:
    """Turn the decoded candidates of one image into detections.

    A box counts with objectness > confidence, and then once for every class with objectness * probability >
    confidence (get_yolo_detections); each class is suppressed by itself (do_nms_sort, diounms_sort). Boxes
    with a coordinate that is not finite are dropped.

    Args:
        predictions: (N, 5 + classes): xywh, objectness, class probabilities. The two distance kinds depend on
            the unit of the boxes; the C program has fractions of the original image.
        confidence: lowest score.
        overlap: a box is removed if its overlap with a better one is larger.
        kind: "default": the overlap is the IoU; "greedynms": IoU - (d^2 / c^2)^0.6, d being the distance of
            the centres, c the diagonal of the enclosing box; "diounms": the same with exponent `beta`.
        beta: see `kind`.

    Returns:
        (M, 6) xyxy in the unit of `predictions`, score and class, best score first. At most the
        MOST_CANDIDATES best pairs of box and class are used.

    Raises:
        ValueError: `kind` is not one of NMS_KINDS.
    """
    if kind not in NMS_KINDS:
        raise ValueError(f"unknown nms_kind {kind!r}; use one of {', '.join(NMS_KINDS)}")
    candidates = _candidates(predictions, confidence)
    exponent = {"default": None, "greedynms": _GREEDY_BETA, "diounms": beta}[kind]
    return candidates[survivors(candidates[:, :4], candidates[:, 5], overlap, exponent)]


def survivors(boxes: Tensor, classes: Tensor, overlap: float, exponent: float | None = None) -> Tensor:
    """Which boxes survive suppression within their class.

    Args:
        boxes: (N, 4) xyxy, best first.
        classes: (N,) class of each box.
        overlap: largest overlap with a surviving better box.
        exponent: of the distance term; None for plain IoU.

    Returns:
        (N,) bool.
    """
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if not len(boxes):
        return keep
    # stable: inside a class the order stays that of the scores
    order = classes.argsort(stable=True)
    _, counts = classes[order].unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    by_size = counts.argsort(descending=True)
    for rows in _similar(counts[by_size].tolist()):
        chosen = by_size[rows]
        length = int(counts[chosen[0]])
        column = torch.arange(length, device=boxes.device)
        real = column < counts[chosen, None]
        member = order[(starts[chosen, None] + column).clamp(max=len(boxes) - 1)]
        kept = _suppress_rows(boxes[member], real, overlap, exponent)
        keep[member[kept]] = True
    return keep


def _candidates(predictions: Tensor, confidence: float) -> Tensor:
    """(M, 6) xyxy, score, class of all pairs above the confidence, best first."""
    predictions = predictions[predictions[:, 4] > confidence]
    predictions = predictions[predictions[:, :4].isfinite().all(1)]
    scores = predictions[:, 5:] * predictions[:, 4:5]
    box, kind = (scores > confidence).nonzero(as_tuple=True)
    score, order = scores[box, kind].sort(descending=True, stable=True)
    order, score = order[:MOST_CANDIDATES], score[:MOST_CANDIDATES]
    corners = xywh_to_xyxy(predictions[box[order], :4])
    return torch.cat((corners, score[:, None], kind[order, None].to(corners.dtype)), dim=1)


def _similar(counts: list[int]) -> list[slice]:
    """Cut descending counts into runs, padded to their first: every row is at least half full."""
    runs, start = [], 0
    for end in range(1, len(counts) + 1):
        full = (end - start + 1) * counts[start] * min(counts[start], BLOCK) > MOST_PAIRS
        if end == len(counts) or full or 2 * counts[end] < counts[start]:
            runs.append(slice(start, end))
            start = end
    return runs


def _suppress_rows(boxes: Tensor, real: Tensor, overlap: float, exponent: float | None) -> Tensor:
    """Suppress each row of (R, K, 4) boxes, best first, by itself; `real` (R, K) is False for padding.

    Block by block: a block is settled inside, then removes the boxes of the rest that it overlaps.
    """
    keep = real.clone()
    for start in range(0, boxes.shape[1], BLOCK):
        end = start + BLOCK
        block = boxes[:, start:end]
        inside = _overlapping(block, block, overlap, exponent)
        settled = _settle(keep[:, start:end], inside.triu(1))
        keep[:, start:end] = settled
        if end < boxes.shape[1]:
            removed = _overlapping(block, boxes[:, end:], overlap, exponent)
            keep[:, end:] &= ~(removed & settled[:, :, None]).any(1)
    return keep


def _settle(alive: Tensor, removes: Tensor) -> Tensor:
    """The survivors (R, B) of a block: the fixed point of "alive and removed by no survivor".

    Entry [r, i, j] of `removes` is only set for i < j, so entry j is right once all before it are; the loop
    ends after as many rounds as the longest chain of boxes that remove one another.
    """
    weights = removes.to(torch.float32)
    keep = alive
    while True:
        removed = torch.bmm(keep[:, None, :].to(torch.float32), weights)[:, 0] > 0
        after = alive & ~removed
        if torch.equal(after, keep):
            return keep
        keep = after


def _overlapping(first: Tensor, second: Tensor, overlap: float, exponent: float | None) -> Tensor:
    """(R, N, M): which pairs of boxes (R, N, 4) and (R, M, 4) of a row overlap by more than `overlap`."""
    iou = elementwise_iou(first[:, :, None], second[:, None])
    found = iou > overlap
    if exponent is not None:  # the distance only lowers the overlap, and few pairs need it
        row, one, other = found.nonzero(as_tuple=True)
        distance = center_distance(first[row, one], second[row, other])
        found[row, one, other] = iou[row, one, other] - distance**exponent > overlap
    return found
