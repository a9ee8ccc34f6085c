"""The detection heads: sections whose input holds boxes.

Invariant: a head has `len(mask) * width` input channels: for each anchor its `box_values`, then one
objectness and one value for each class, in the order of `detection.decode`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .sections import Section, Shape, ShapeError


@dataclass(frozen=True, kw_only=True)
class Head(Section):
    """A detection head.

    Attributes:
        mask: which of `anchors` this head predicts, in channel order.
        anchors: (width, height) of all anchors in pixels of the network input; in cells for `Region`.
    """

    box_values: ClassVar[int] = 4
    mask: tuple[int, ...] = ()
    anchors: tuple[tuple[float, float], ...] = ()
    classes: int = 20
    scale_x_y: float = 1.0
    new_coords: bool = False
    nms_kind: str = "default"
    beta_nms: float = 0.6
    ignore_thresh: float = 0.5

    @property
    def width(self) -> int:
        """Values for each anchor: box, objectness and one per class."""
        return self.box_values + 1 + self.classes

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the input, which must have `width` channels for each anchor."""
        wanted = len(self.mask) * self.width
        if inputs[0].channels != wanted:
            per_anchor = f"({self.box_values + 1} + {self.classes} classes)"
            needs = f"needs {wanted} channels = {len(self.mask)} anchors x {per_anchor}"
            fact = f"{needs} but section #{self.sources[0]} gives {inputs[0].channels}"
            raise ShapeError(fact, f"set filters={wanted} there, or correct mask or classes")
        return inputs[0]


@dataclass(frozen=True, kw_only=True)
class Yolo(Head):
    """Head of YOLOv3 and later: a sigmoid for each class (yolo_layer.c)."""

    kind: ClassVar[str] = "yolo"


@dataclass(frozen=True, kw_only=True)
class GaussianYolo(Head):
    """`Yolo` with an uncertainty after each of x, y, w, h (gaussian_yolo_layer.c, arXiv 1904.04620)."""

    kind: ClassVar[str] = "Gaussian_yolo"
    box_values: ClassVar[int] = 8


@dataclass(frozen=True, kw_only=True)
class Region(Head):
    """Head of YOLOv2: anchors in cells, one softmax over the classes (region_layer.c)."""

    kind: ClassVar[str] = "region"
