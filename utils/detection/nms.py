"""Non-maximum suppression as in the C program, on blocks of boxes at once.

Invariant: `suppress` keeps exactly what the plain loop keeps: in descending order of the scores of one class,
a box is kept unless a box kept before overlaps it too much.
"""

from typing import Protocol

import torch
from torch import Tensor

from .boxes import center_distance, elementwise_iou, xywh_to_xyxy


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
