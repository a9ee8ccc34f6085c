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

from ..detection.boxes import box_overlap, pairwise_iou, xywh_to_xyxy
from ..detection.decode import HeadSpec, decode_boxes


class HeadTargets(NamedTuple):
    """The positives of one head; entry k of every tensor describes the k-th (truth, anchor) pair.

    Attributes:
        image, anchor, row, column: (n,) int64, indices in a head map (B, A, h, w, width).
        boxes: (n, 4) the truths, xywh in pixels of the network input.
        classes: (n,) int64.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    boxes: Tensor
    classes: Tensor

    @property
    def cells(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Index of the positives in a head map."""
        return self.image, self.anchor, self.row, self.column


def assign_targets(
    targets: Tensor,
    specs: Sequence[HeadSpec],
    grids: Sequence[tuple[int, int]],
    iou_threshold: float,
    neighbours: float = 0.0,
) -> list[HeadTargets]:
    """Find the positives of every head.

    Args:
        targets: (M, 6) image index, class, x, y, w, h relative to the network input (centre, 0..1).
        specs: one for each head.
        grids: (rows, columns) of each head's map.
        iou_threshold: width-height IoU above which an anchor is a positive too; 1 for the best one only.
        neighbours: distance outside a cell at which a centre is still assigned to it, in cells, at most 0.5.

    Returns:
        One HeadTargets for each head.
    """
    image_size = input_size(specs[0], grids[0])
    image, classes = targets[:, 0].long(), targets[:, 1].long()
    boxes = targets[:, 2:6] * targets.new_tensor(image_size * 2)
    anchors = targets.new_tensor([anchor for spec in specs for anchor in spec.anchors])
    overlap = shape_iou(boxes[:, 2:], anchors)
    # an anchor listed in two heads (yolov3-tiny with mask 1,2,3) is the best one in both
    chosen = (overlap > iou_threshold) | (overlap == overlap.amax(dim=1, keepdim=True))
    assigned = []
    first = 0
    for spec, grid in zip(specs, grids, strict=True):
        truth, anchor = chosen[:, first : first + len(spec.anchors)].nonzero(as_tuple=True)
        first += len(spec.anchors)
        column, row = (
            (boxes[truth, axis] / spec.pixels[axis]).long().clamp(0, grid[1 - axis] - 1) for axis in (0, 1)
        )
        if neighbours:
            pair, column, row = _with_neighbours(
                boxes[truth, :2] / boxes.new_tensor(spec.pixels), column, row, grid, neighbours
            )
            truth, anchor = truth[pair], anchor[pair]
        assigned.append(HeadTargets(image[truth], anchor, row, column, boxes[truth], classes[truth]))
    return assigned


def _with_neighbours(
    centres: Tensor, column: Tensor, row: Tensor, grid: tuple[int, int], reach: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The cells of n pairs, and the adjacent cells within `reach` of their centres (n, 2), in cells.

    Returns:
        For each of m >= n cells the index of its pair, its column and its row; the pairs' own cells first.
    """
    inside = centres - torch.stack((column, row), dim=1)
    pairs, columns, rows = [torch.arange(len(column), device=column.device)], [column], [row]
    for axis, step in ((0, -1), (0, 1), (1, -1), (1, 1)):
        near = inside[:, axis] < reach if step < 0 else inside[:, axis] > 1 - reach
        moved = (column, row)[axis] + step
        pair = (near & (moved >= 0) & (moved < grid[1 - axis])).nonzero()[:, 0]
        pairs.append(pair)
        columns.append(column[pair] + (step if axis == 0 else 0))
        rows.append(row[pair] + (step if axis == 1 else 0))
    return torch.cat(pairs), torch.cat(columns), torch.cat(rows)


def ignored_cells(
    boxes: Tensor, targets: Tensor, image_size: tuple[float, float], threshold: float
) -> Tensor:
    """Cells whose prediction overlaps a truth too well to be trained as background.

    Args:
        boxes: (B, A, h, w, 4) predicted xywh, pixels of the network input.
        targets: (M, 6) as in `assign_targets`.
        image_size: (width, height) of the network input.
        threshold: IoU with any truth of the image above which a cell is ignored (Darknet's `ignore_thresh`).

    Returns:
        (B, A, h, w) bool.
    """
    ignored = torch.zeros(boxes.shape[:4], dtype=torch.bool, device=boxes.device)
    truths = xywh_to_xyxy(targets[:, 2:6] * targets.new_tensor(image_size * 2))
    predicted = xywh_to_xyxy(boxes)
    for image in targets[:, 0].long().unique().tolist():
        overlap = pairwise_iou(predicted[image].reshape(-1, 4), truths[targets[:, 0] == image])
        ignored[image] = (overlap.amax(dim=1) > threshold).view(ignored.shape[1:])
    return ignored


def shape_iou(sizes: Tensor, anchors: Tensor) -> Tensor:
    """IoU of boxes with the same centre: sizes (M, 2), anchors (N, 2) -> (M, N).

    >>> shape_iou(torch.tensor([[2.0, 4.0]]), torch.tensor([[2.0, 2.0], [4.0, 4.0]])).tolist()
    [[0.5, 0.5]]
    """
    shared = torch.minimum(sizes[:, None], anchors[None]).prod(dim=2)
    union = sizes.prod(dim=1)[:, None] + anchors.prod(dim=1)[None] - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def input_size(spec: HeadSpec, grid: tuple[int, int]) -> tuple[float, float]:
    """Width and height in pixels of the network input behind a head map of (rows, columns)."""
    return grid[1] * spec.pixels[0], grid[0] * spec.pixels[1]


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
