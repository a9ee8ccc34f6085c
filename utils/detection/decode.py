"""From raw head maps to boxes: the one place that knows what a head's numbers mean.

Invariant: a head with all-zero box logits decodes to its anchors, centred in their cells.
The formulas are Darknet's `get_yolo_box` (yolo_layer.c).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadSpec:
    """What one detection head's numbers stand for.

    Attributes:
        anchors: (width, height) of this head's anchors in pixels of the network input, in channel order.
        classes: number of classes.
        stride: pixels of the network input per cell, rounded.
        cell: (width, height) of a cell in pixels where that is not `stride` both ways: the network's own
            size is no multiple of the stride, or its strides differ.
        scale_x_y: how far the centre may leave its cell; 1 keeps it inside.
        new_coords: the map already holds probabilities, and sizes are squared instead of exponentiated.
        nms_kind: "default", "greedynms" or "diounms", see `nms.suppress`.
        beta_nms: exponent of the distance term for "diounms".
        ignore_thresh: IoU with a truth above which a prediction is not punished as background in training.
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

    @property
    def width(self) -> int:
        """Numbers for each anchor: x, y, w, h, objectness and one per class."""
        return 5 + self.classes


def decode_heads(heads: Sequence[Tensor], specs: Sequence[HeadSpec]) -> Tensor:
    """Decode all heads into one list of candidate boxes.

    The dtype is kept, so half precision maps should be made float32 first: bfloat16 cannot hold a pixel
    position above 256.

    Args:
        heads: raw maps (B, A, h, w, 5 + classes), before any sigmoid.
        specs: one for each head, in the same order.

    Returns:
        (B, N, 5 + classes) with N over heads, then anchors, rows and columns. An entry is the box as
        xywh (centre, pixels of the network input), objectness and class probabilities in 0..1; objectness
        is not multiplied into the classes.
    """
    decoded = [decode_head(head, spec).flatten(1, 3) for head, spec in zip(heads, specs, strict=True)]
    return torch.cat(decoded, dim=1)


def decode_head(head: Tensor, spec: HeadSpec) -> Tensor:
    """Decode one raw map (B, A, h, w, 5 + classes) into boxes and probabilities of the same shape."""
    anchors = head.new_tensor(spec.anchors).view(1, -1, 1, 1, 2)
    cells = _cell_grid(head)
    scale = spec.scale_x_y
    if spec.new_coords:
        centre, size, probabilities = head[..., :2], (2 * head[..., 2:4]) ** 2, head[..., 4:]
    else:
        centre, size, probabilities = head[..., :2].sigmoid(), head[..., 2:4].exp(), head[..., 4:].sigmoid()
    # Darknet divides by the grid and multiplies by the input size, which is this also where they do not fit.
    pixels = head.new_tensor(spec.cell) if spec.cell else spec.stride
    centre = (centre * scale - (scale - 1) / 2 + cells) * pixels
    return torch.cat((centre, size * anchors, probabilities), dim=-1)


def _cell_grid(head: Tensor) -> Tensor:
    """(h, w, 2): column and row of each cell of a (B, A, h, w, width) map."""
    rows = torch.arange(head.shape[2], dtype=head.dtype, device=head.device)
    columns = torch.arange(head.shape[3], dtype=head.dtype, device=head.device)
    grid_y, grid_x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=-1)
