"""Box layouts and overlaps.

Layouts: `xywh` is centre and size, `xyxy` is the top left and bottom right corner; any unit, but one.
Invariant: an overlap never divides by zero; a box without area has overlap 0, and gradients are finite.
"""

import math

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
