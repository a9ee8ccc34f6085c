"""Target assignment: the cells and anchors that predict each truth.

A truth is assigned to the cell that contains its centre, and there to the anchors of similar shape: always
the best one over all heads, and all others whose width-height IoU exceeds `iou_threshold` (Darknet's
`iou_thresh`). If its centre is within `neighbours` of a cell's border, the adjacent cell is a positive too,
as in YOLOv5. Invariant: every truth with an area has at least one positive.
Example: for a truth of 30x30 and anchors 10x10, 28x28, 33x33 the second is the best (IoU .87); the third has
IoU .83 and is a positive too if the threshold is below that.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..detection.boxes import pairwise_iou, xywh_to_xyxy
from ..detection.decode import HeadSpec


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
