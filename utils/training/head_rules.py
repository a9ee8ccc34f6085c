"""What [yolo] sections say of training, for Darknet's own loss.

Names and defaults are those of parse_yolo (parser.c).
"""

from dataclasses import dataclass

from ..darknet.cfg import Options, RawSection
from ..darknet.heads import Yolo
from ..darknet.network import Network
from ..detection.boxes import OVERLAP_KINDS
from ..errors import ToolkitError, UnsupportedSectionError


@dataclass(frozen=True)
class HeadRules:
    """The training keys of one [yolo] section.

    Attributes:
        anchors: (width, height) of all anchors of the section in pixels of the network input.
        mask: which of them the head predicts.
        ignore_thresh: IoU with a truth above which a prediction is not punished as background.
        iou_thresh: width-height IoU above which an anchor answers besides the best one; 1: none does.
        iou_thresh_kind: overlap that `iou_thresh` is compared with.
        iou_loss: "mse", or an overlap of `boxes.OVERLAP_KINDS`.
        iou_normalizer, obj_normalizer: factors of the box and the objectness part.
        max_delta: largest absolute gradient of a box value, for the overlaps; infinite: no limit.
        objectness_smooth: whether a prediction that overlaps a truth learns its IoU as objectness.
        label_smooth_eps: share of a class target that is spread.
    """

    anchors: tuple[tuple[float, float], ...]
    mask: tuple[int, ...]
    ignore_thresh: float = 0.5
    iou_thresh: float = 1.0
    iou_thresh_kind: str = "iou"
    iou_loss: str = "mse"
    iou_normalizer: float = 0.75
    obj_normalizer: float = 1.0
    max_delta: float = float("inf")
    objectness_smooth: bool = False
    label_smooth_eps: float = 0.0


def head_rules(network: Network) -> tuple[HeadRules, ...]:
    """The rules of each head, in cfg order.

    Raises:
        CfgError: a value cannot be read.
        UnsupportedSectionError: a head is no [yolo], or asks for what is not computed here.
    """
    return tuple(_rules(network, head) for head in network.heads)


def _rules(network: Network, index: int) -> HeadRules:
    section = network[index]
    if not isinstance(section, Yolo):
        fact = "has a loss of its own in Darknet, which is not supported"
        raise UnsupportedSectionError(network.place(index), f"{fact}", "train with --loss modern")
    raw = RawSection(section.kind, section.options, section.line)
    options = Options(raw, index, network.source)
    for key, plain in (("truth_thresh", 1.0), ("focal_loss", 0.0)):
        if options.number(key, plain) != plain:
            fact = f"{key}={options.number(key, plain)} is not supported by --loss darknet"
            raise UnsupportedSectionError(
                network.place(index), f"{fact}", f"write {plain:g} or train with --loss modern"
            )
    if "counters_per_class" in section.options:
        fact = "counters_per_class is not supported by --loss darknet"
        remedy = "remove it (--balanced draws rare classes more often) or train with --loss modern"
        raise UnsupportedSectionError(network.place(index), f"{fact}", remedy)
    return HeadRules(
        anchors=section.anchors,
        mask=section.mask,
        ignore_thresh=section.ignore_thresh,
        iou_thresh=options.number("iou_thresh", 1.0),
        iou_thresh_kind=options.choice("iou_thresh_kind", "iou", OVERLAP_KINDS),
        iou_loss=options.choice("iou_loss", "mse", ("mse", *OVERLAP_KINDS)),
        iou_normalizer=options.number("iou_normalizer", 0.75),
        obj_normalizer=options.number("obj_normalizer", 1.0),
        max_delta=options.number("max_delta", float("inf")),
        objectness_smooth=options.flag("objectness_smooth"),
        label_smooth_eps=options.number("label_smooth_eps", 0.0),
    )


def check_supported(network: Network) -> None:
    """Raise ToolkitError unless Darknet's loss can be computed for the network."""
    if not network.heads:
        raise ToolkitError(network.source, "has no [yolo] section to train", "give the cfg of a detector")
    head_rules(network)
