"""The modern loss: boxes by an IoU measure, objectness and classes by binary cross-entropy.

    box         mean over positives of 1 - CIoU(prediction, truth)            (arXiv 1911.08287)
    objectness  sum over cells of BCE, without cells that nearly match a truth, per positive of the batch
    classes     mean over positives of the BCE summed over classes; softmax cross-entropy for [region]

All three are per positive (at least one per image), so their ratio depends neither on the input size nor on
the number of heads. Where several processes train, the positives of all of them are counted.
Invariant: box and class logits of cells that are not positives of `assign_targets` get no gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ..detection.boxes import box_overlap, xywh_to_xyxy
from ..detection.decode import HeadSpec, decode_boxes
from .targets import HeadTargets, assign_targets, ignored_cells, input_size

LossKind = Literal["modern", "darknet"]
LOSSES: tuple[LossKind, ...] = get_args(LossKind)
# Only the deviations get gradients from this part; the weight balances them against the other outputs.
UNCERTAINTY_WEIGHT = 0.1


class Losses(NamedTuple):
    """Scalars; `total` is minimised, the parts are unweighted."""

    total: Tensor
    box: Tensor
    objectness: Tensor
    classes: Tensor


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts, and thresholds of positives.

    Attributes:
        box_weight, objectness_weight, classes_weight: factors on the parts. Their ratio matters, and their
            size relative to the sparsity penalty.
        box_kind: overlap that the box part maximises, one of `boxes.OVERLAP_KINDS`.
        iou_threshold, neighbours: thresholds of positives, see `assign_targets`.
        balance: exponent of (mean cells of a head / its own cells), the weight of its objectness: with 0 all
            cells have equal weight, so the finest head has most; with 1 all heads have equal weight.
        iou_objectness: share of the IoU in a positive's objectness target, the rest is 1.
        label_smoothing: share of a class target that is spread over all classes (arXiv 1512.00567).
    """

    box_weight: float = 1.0
    objectness_weight: float = 1.0
    classes_weight: float = 1.0
    box_kind: str = "ciou"
    iou_threshold: float = 0.6
    neighbours: float = 0.3
    balance: float = 0.5
    iou_objectness: float = 0.5
    label_smoothing: float = 0.0


def itself(count: Tensor) -> Tensor:
    """Number of positives where one process trains alone."""
    return count


def yolo_loss(
    heads: Sequence[Tensor],
    targets: Tensor,
    specs: Sequence[HeadSpec],
    weights: LossWeights | None = None,
    average: Callable[[Tensor], Tensor] = itself,
) -> Losses:
    """Loss of one batch, averaged as described above.

    Args:
        heads: raw maps (B, A, h, w, width), any floating dtype; computed in float32.
        targets: (M, 6) image index, class, x, y, w, h relative to the input.
        specs: one for each head.
        weights: factors and thresholds, default LossWeights().
        average: from this process's number of positives (scalar) to the mean over all processes, since the
            gradients are averaged over them.

    Returns:
        Losses of float32 scalars.
    """
    weights = weights or LossWeights()
    grids = [(head.shape[2], head.shape[3]) for head in heads]
    assigned = assign_targets(targets, specs, grids, weights.iou_threshold, weights.neighbours)
    mean_cells = sum(rows * columns for rows, columns in grids) / len(grids)
    parts = []
    for head, found, spec in zip(heads, assigned, specs, strict=True):
        box, objectness, classes = _head_loss(head.float(), targets, found, spec, weights)
        share = (mean_cells / (head.shape[2] * head.shape[3])) ** weights.balance
        parts.append((box, share * objectness, classes))
    count = heads[0].new_tensor(sum(len(found.image) for found in assigned), dtype=torch.float32)
    # at least one per image, so that images without objects weigh no more than others
    positives = average(count).clamp(min=len(heads[0]))
    box, objectness, classes = (torch.stack(part).sum() / positives for part in zip(*parts, strict=True))
    total = weights.box_weight * box + weights.objectness_weight * objectness
    return Losses(total + weights.classes_weight * classes, box, objectness, classes)


def _head_loss(
    head: Tensor, targets: Tensor, found: HeadTargets, spec: HeadSpec, weights: LossWeights
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over one head: box, objectness, classes."""
    boxes = decode_boxes(head, spec)
    logits = confidence_logits(head, spec)
    overlap = box_overlap(
        xywh_to_xyxy(boxes[found.cells]), xywh_to_xyxy(found.boxes.to(boxes.dtype)), weights.box_kind
    )
    image_size = input_size(spec, (head.shape[2], head.shape[3]))
    counted = ~ignored_cells(boxes.detach(), targets, image_size, spec.ignore_thresh)
    counted[found.cells] = True
    present = torch.zeros_like(logits[..., 0])
    share = weights.iou_objectness
    present[found.cells] = 1 - share + share * overlap.detach().clamp(0, 1)
    objectness = functional.binary_cross_entropy_with_logits(logits[..., 0], present, reduction="none")
    box = (1 - overlap).sum()
    if spec.kind == "gaussian_yolo":
        box = box + UNCERTAINTY_WEIGHT * _uncertainty_loss(head, boxes, found, spec)
    return (
        box,
        objectness[counted].sum(),
        _class_loss(logits[found.cells][:, 1:], found.classes, spec, weights.label_smoothing),
    )


def _class_loss(logits: Tensor, classes: Tensor, spec: HeadSpec, smoothing: float) -> Tensor:
    """Sum over positives; logits (n, classes), classes (n,)."""
    if spec.kind == "region":
        return functional.cross_entropy(logits, classes, reduction="sum", label_smoothing=smoothing)
    wanted = functional.one_hot(classes, spec.classes).to(logits.dtype)
    wanted = wanted * (1 - smoothing) + smoothing / spec.classes
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")


def _uncertainty_loss(head: Tensor, boxes: Tensor, found: HeadTargets, spec: HeadSpec) -> Tensor:
    """Negative log-likelihood of the truths under the predicted deviations (arXiv 1904.04620, section 3.2).

    Boxes get no gradient here: they learn from their overlap, the deviations from the error of the boxes.
    """
    deviation = head[found.cells][:, 1:8:2].sigmoid()
    predicted, true = boxes.detach()[found.cells], found.boxes.to(boxes.dtype)
    anchors = predicted.new_tensor(spec.anchors)[found.anchor]
    # in the head's units: centres in cells, sizes as logarithms of their ratio to the anchor
    centre = (predicted[:, :2] - true[:, :2]) / predicted.new_tensor(spec.pixels)
    size = (predicted[:, 2:] / anchors).log() - (true[:, 2:] / anchors).log()
    error = torch.cat((centre, size), dim=1)
    zero = torch.zeros_like(error)
    return functional.gaussian_nll_loss(error, zero, deviation.square(), reduction="sum", eps=1e-3)


def confidence_logits(head: Tensor, spec: HeadSpec) -> Tensor:
    """Objectness and class logits (..., 1 + classes) of a raw map; `new_coords` maps hold probabilities."""
    logits = head[..., spec.box_values :]
    return logits.logit(eps=1e-6) if spec.new_coords else logits
