"""Decode raw head maps to boxes: the only place that knows the meaning of a head's values.

Invariant: a head with all-zero box logits decodes to its anchors, centred in the cells.
The formulas are Darknet's `get_yolo_box` (yolo_layer.c), `get_region_box` (region_layer.c) and
`get_gaussian_yolo_box` (gaussian_yolo_layer.c).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

HeadKind = Literal["yolo", "region", "gaussian_yolo"]


@dataclass(frozen=True)
class HeadSpec:
    """Specification of one detection head, all that decoding needs.

    Attributes:
        anchors: (width, height) of this head's anchors in pixels of the network input, in channel order.
        classes: number of classes.
        stride: pixels of the network input per cell, rounded.
        cell: (width, height) of a cell in pixels if that is not `stride` both ways: the network's own size is
            not a multiple of the stride, or its strides differ.
        kind: "yolo": a sigmoid for each class; "region": one softmax over the classes; "gaussian_yolo": as
            "yolo", with an uncertainty after each of x, y, w, h.
        scale_x_y: how far the centre may leave its cell; 1 keeps it inside.
        new_coords: the map already has probabilities, and sizes are squared instead of exponentiated.
        nms_kind: "default", "greedynms" or "diounms", see `nms.suppress`.
        beta_nms: exponent of the distance term for "diounms".
        ignore_thresh: IoU with a ground truth above which a prediction is not trained as background.
    """

    anchors: tuple[tuple[float, float], ...]
    classes: int
    stride: int
    scale_x_y: float = 1.0
    new_coords: bool = False
    nms_kind: str = "default"
    beta_nms: float = 0.6
    ignore_thresh: float = 0.5
    cell: tuple[float, float] | None = None
    kind: HeadKind = "yolo"

    @property
    def box_values(self) -> int:
        """Values for each anchor before its objectness: x, y, w, h, with or without uncertainties."""
        return 8 if self.kind == "gaussian_yolo" else 4

    @property
    def pixels(self) -> tuple[float, float]:
        """Width and height of a cell in pixels of the network input."""
        return self.cell or (self.stride, self.stride)

    @property
    def width(self) -> int:
        """Values for each anchor: box, objectness and one per class."""
        return self.box_values + 1 + self.classes


def decode_heads(heads: Sequence[Tensor], specs: Sequence[HeadSpec]) -> Tensor:
    """Decode all heads into one list of candidate boxes.

    The dtype is kept, so convert half precision maps to float32 first: bfloat16 has no pixel positions above
    256.

    Args:
        heads: raw maps (B, A, h, w, width), before any sigmoid.
        specs: one for each head, in the same order.

    Returns:
        (B, N, 5 + classes) with N over heads, then anchors, rows and columns. An entry is the box as
        xywh (centre, pixels of the network input), objectness and class probabilities in 0..1; objectness
        is not multiplied into the classes.
    """
    decoded = [decode_head(head, spec).flatten(1, 3) for head, spec in zip(heads, specs, strict=True)]
    return torch.cat(decoded, dim=1)


def decode_head(head: Tensor, spec: HeadSpec) -> Tensor:
    """Decode one raw map (B, A, h, w, width) to (B, A, h, w, 5 + classes): box, objectness, classes.

    The classes of "gaussian_yolo" are weighted by the certainty of the box, 1 - mean uncertainty.
    """
    logits = head[..., spec.box_values :]
    if spec.new_coords:
        probabilities = logits
    elif spec.kind == "region":
        probabilities = torch.cat((logits[..., :1].sigmoid(), logits[..., 1:].softmax(dim=-1)), dim=-1)
    else:
        probabilities = logits.sigmoid()
    if spec.kind == "gaussian_yolo":
        certainty = 1 - head[..., 1:8:2].sigmoid().mean(dim=-1, keepdim=True)
        probabilities = torch.cat((probabilities[..., :1], probabilities[..., 1:] * certainty), dim=-1)
    return torch.cat((decode_boxes(head, spec), probabilities), dim=-1)


def decode_boxes(head: Tensor, spec: HeadSpec) -> Tensor:
    """Decode only the boxes of a raw map (B, A, h, w, width): xywh (B, A, h, w, 4) in pixels of the input."""
    logits = head[..., : spec.box_values : spec.box_values // 4]
    anchors = head.new_tensor(spec.anchors).view(1, -1, 1, 1, 2)
    scale = spec.scale_x_y
    if spec.new_coords:
        centre, size = logits[..., :2], (2 * logits[..., 2:]) ** 2
    else:
        centre, size = logits[..., :2].sigmoid(), logits[..., 2:].exp()
    # Darknet divides by the grid and multiplies by the input size; this is the same for any grid.
    pixels = head.new_tensor(spec.cell) if spec.cell else spec.stride
    centre = (centre * scale - (scale - 1) / 2 + _cell_grid(head)) * pixels
    return torch.cat((centre, size * anchors), dim=-1)


def _cell_grid(head: Tensor) -> Tensor:
    """(h, w, 2): column and row of each cell of a (B, A, h, w, width) map."""
    rows = torch.arange(head.shape[2], dtype=head.dtype, device=head.device)
    columns = torch.arange(head.shape[3], dtype=head.dtype, device=head.device)
    grid_y, grid_x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=-1)
