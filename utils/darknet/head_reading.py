"""From the options of a detection head to its typed section; see `reading`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .cfg import Options
from .heads import GaussianYolo, Head, Region, Yolo

NMS_KINDS = ("default", "greedynms", "diounms")
Anchors = tuple[tuple[float, float], ...]


def _yolo(options: Options) -> Head:
    options.refuse(("embedding_layer",))
    return _masked_head(Yolo, options)


def _gaussian_yolo(options: Options) -> Head:
    if options.choice("yolo_point", "center", ("center", "left_top", "right_bottom")) != "center":
        options.refuse(("yolo_point",), "boxes are read by their centres here")
    return _masked_head(GaussianYolo, options)


def _masked_head(kind: type[Head], options: Options) -> Head:
    anchors = _anchors(options)
    mask = options.integers("mask") or tuple(range(_count(options, anchors, default=1)))
    if not all(0 <= number < len(anchors) for number in mask):
        fact = f"does not fit the {len(anchors)} anchors"
        options.fail("mask", fact, f"anchors are counted 0 .. {len(anchors) - 1}")
    return kind(
        sources=(options.index - 1,),
        line=options.section.line,
        options=options.section.options,
        mask=mask,
        anchors=anchors,
        classes=options.integer("classes", 20, least=1),
        scale_x_y=options.number("scale_x_y", 1.0),
        new_coords=kind is Yolo and options.flag("new_coords"),
        nms_kind=options.choice("nms_kind", "default", NMS_KINDS),
        beta_nms=options.number("beta_nms", 0.6),
        ignore_thresh=options.number("ignore_thresh", 0.5),
    )


def _region(options: Options) -> Head:
    options.refuse(("tree",), "its classes form a tree (YOLO9000)")
    if options.integer("coords", 4) != 4:
        options.fail("coords", "is not supported", "a box has 4")
    if not options.flag("softmax"):
        # Darknet takes the classes as they come then, so they are no probabilities.
        options.fail("softmax", "is not set, so class scores would not be probabilities", "write softmax=1")
    anchors = _anchors(options)
    return Region(
        sources=(options.index - 1,),
        line=options.section.line,
        options=options.section.options,
        mask=tuple(range(_count(options, anchors, default=1))),
        anchors=anchors,
        classes=options.integer("classes", 20, least=1),
        ignore_thresh=options.number("thresh", 0.5),
    )


HEAD_READERS: Mapping[str, Callable[[Options], Head]] = MappingProxyType(
    {"yolo": _yolo, "Gaussian_yolo": _gaussian_yolo, "region": _region}
)


def _anchors(options: Options) -> Anchors:
    values = options.numbers("anchors")
    if not values or len(values) % 2:
        options.fail("anchors", f"holds {len(values)} numbers", "give width,height pairs")
    if min(values) <= 0:
        options.fail("anchors", "holds a size that is not positive", "give sizes above 0")
    return tuple(zip(values[::2], values[1::2], strict=True))


def _count(options: Options, anchors: Anchors, default: int) -> int:
    """`num`, the number of anchors that count."""
    count = options.integer("num", default, least=1)
    if count > len(anchors):
        fact = f"does not fit the {len(anchors)} anchors"
        options.fail("num", fact, f"use at most {len(anchors)}, or give more anchors")
    return count
