"""Darknet's own loss of [yolo] sections (process_batch, yolo_layer.c), and the cfg keys that it reads.

Darknet computes no loss but a *delta* for each number of a head, which it adds to the gradient of the map
before the section, without the derivative of the logistic: for x, y, objectness and classes that is the
gradient of cross-entropy. Here the deltas are computed without autograd and handed to it as the gradient.

    objectness  obj_normalizer * (target - p); target 0; 1 at positives; none where the box overlaps a truth
                by more than ignore_thresh and some class is above .25, or that overlap (objectness_smooth)
    classes     target - p at positives, one-hot, several-hot where truths share a cell
    box         "mse": iou_normalizer * (2 - w h) * (t - value); else iou_normalizer * the derivative of the
                overlap by the box as a fraction of the image, times e^w for w (new_coords omits this factor),
                clipped to max_delta; as in dx_box_iou, w and h count for both of their sides. The
                derivative is exact; dx_box_iou omits the factor 1 / (w^2 + h^2) of CIoU's aspect term

Positives are the best anchor of all the section's anchors, if the head has it, and all its anchors above
iou_thresh. cls_normalizer has an effect only with counters_per_class, which is unsupported.
Invariant: d total / d head == -delta / images, exactly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..darknet.cfg import Options, RawSection
from ..darknet.heads import Yolo
from ..darknet.network import Network
from ..detection.boxes import OVERLAP_KINDS, box_overlap, pairwise_iou, xywh_to_xyxy
from ..detection.decode import HeadSpec, decode_boxes
from ..errors import UnsupportedSectionError
from .losses import Losses, input_size, shape_iou

# compare_yolo_class: minimum class probability for a prediction not to count as background
_LIKELY = 0.25


@dataclass(frozen=True)
class HeadRules:
    """The training keys of one [yolo] section; names and defaults as in parse_yolo (parser.c).

    Attributes:
        anchors: (width, height) of all anchors of the section in pixels of the network input.
        mask: which of them the head predicts.
        ignore_thresh: IoU with a truth above which a prediction does not count as background.
        iou_thresh: width-height IoU above which an anchor is a positive besides the best one; 1: off.
        iou_thresh_kind: overlap measure that `iou_thresh` is compared with.
        iou_loss: "mse", or an overlap of `boxes.OVERLAP_KINDS`.
        iou_normalizer, obj_normalizer: factors on the box and the objectness part.
        max_delta: largest absolute gradient of a box value, for the overlaps; infinite: no limit.
        objectness_smooth: whether the objectness target of a prediction that overlaps a truth is its IoU.
        label_smooth_eps: share of a class target that is spread over all classes.
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
        UnsupportedSectionError: a head is not a [yolo] section, or uses an unsupported key.
    """
    return tuple(_rules(network, head) for head in network.heads)


def _rules(network: Network, index: int) -> HeadRules:
    section = network[index]
    if not isinstance(section, Yolo):
        fact = "its Darknet loss is unsupported"
        raise UnsupportedSectionError(network.place(index), fact, "train with --loss modern")
    raw = RawSection(section.kind, section.options, section.line)
    options = Options(raw, index, network.source)
    for key, plain in (("truth_thresh", 1.0), ("focal_loss", 0.0)):
        if options.number(key, plain) != plain:
            fact = f"{key}={options.number(key, plain)} is unsupported by --loss darknet"
            raise UnsupportedSectionError(
                network.place(index), fact, f"write {plain:g} or train with --loss modern"
            )
    if "counters_per_class" in section.options:
        fact = "counters_per_class is unsupported by --loss darknet"
        remedy = "remove it (--balanced draws rare classes more often) or train with --loss modern"
        raise UnsupportedSectionError(network.place(index), fact, remedy)
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


class _Pairs(NamedTuple):
    """n positives: indices in a head map, in the section's anchors, and in the truths."""

    cells: tuple[Tensor, Tensor, Tensor, Tensor]
    anchors: Tensor
    truths: Tensor


def darknet_loss(
    heads: Sequence[Tensor], targets: Tensor, specs: Sequence[HeadSpec], rules: Sequence[HeadRules]
) -> Losses:
    """Loss of one batch, per image.

    Args:
        heads: raw maps (B, A, h, w, width), any floating dtype; computed in float32 or better.
        targets: (M, 6) image index, class, x, y, w, h relative to the input.
        specs: one for each head.
        rules: one for each head.

    Returns:
        The parts are sums of squared deltas per image, as Darknet prints them. `total` is their sum, with the
        gradient described above.
    """
    surrogates, parts = [], []
    for head, spec, rule in zip(heads, specs, rules, strict=True):
        head = head if head.dtype == torch.float64 else head.float()
        delta = head_delta(head.detach(), targets, spec, rule)
        surrogates.append(-(delta * head).sum() / len(head))
        squares = delta.square() / len(head)
        parts.append(torch.stack((squares[..., :4].sum(), squares[..., 4].sum(), squares[..., 5:].sum())))
    box, objectness, classes = torch.stack(parts).sum(dim=0)
    surrogate = torch.stack(surrogates).sum()
    value = box + objectness + classes
    return Losses(value + surrogate - surrogate.detach(), box, objectness, classes)


def head_delta(head: Tensor, targets: Tensor, spec: HeadSpec, rules: HeadRules) -> Tensor:
    """Darknet's delta for each number of one raw head (B, A, h, w, width), of the same shape."""
    values = _activated(head, spec)
    size = head.new_tensor([*input_size(spec, (head.shape[2], head.shape[3]))] * 2)
    boxes = decode_boxes(head, spec) / size
    delta = torch.zeros_like(head)
    delta[..., 4] = _background(boxes, values, targets, rules)
    pairs = _positives(targets, rules, (head.shape[2], head.shape[3]), size[:2])
    truths = targets[pairs.truths]
    if rules.iou_loss == "mse":
        moves = _squared_deltas(values, truths, pairs, spec, rules, size[:2])
    else:
        moves = _overlap_deltas(head, boxes, truths, pairs, spec, rules)
    delta[..., :4] = delta[..., :4].index_put(pairs.cells, moves, accumulate=True)
    confidence = rules.obj_normalizer * (1 - values[..., 4])[pairs.cells]
    if rules.objectness_smooth:
        known = delta[..., 4][pairs.cells]
        confidence = torch.where(known == 0, confidence, known)
    delta[..., 4][pairs.cells] = confidence
    hit = torch.zeros_like(values[..., 5:])
    hit[(*pairs.cells, truths[:, 1].long())] = 1
    smooth = rules.label_smooth_eps
    answers = hit.any(dim=-1, keepdim=True)
    delta[..., 5:] = torch.where(answers, hit * (1 - smooth) + smooth / 2 - values[..., 5:], delta[..., 5:])
    if rules.iou_thresh < 1:  # averages_yolo_deltas
        shared = (delta[..., 5:] > 0).sum(dim=-1, keepdim=True).clamp(min=1)
        delta[..., :4] /= torch.where(delta[..., 4:5] != 0, shared, 1)
    return delta


def _activated(head: Tensor, spec: HeadSpec) -> Tensor:
    """The map behind the section: logistic but for w and h, centres scaled by scale_x_y."""
    values = head.clone() if spec.new_coords else head.sigmoid()
    values[..., :2] = values[..., :2] * spec.scale_x_y - (spec.scale_x_y - 1) / 2
    values[..., 2:4] = head[..., 2:4]
    return values


def _background(boxes: Tensor, values: Tensor, targets: Tensor, rules: HeadRules) -> Tensor:
    """(B, A, h, w) deltas of objectness as if there were no positives."""
    best = torch.zeros_like(values[..., 4])
    predicted, truths = xywh_to_xyxy(boxes), xywh_to_xyxy(targets[:, 2:6].to(boxes.dtype))
    for image in targets[:, 0].long().unique().tolist():
        overlap = pairwise_iou(predicted[image].reshape(-1, 4), truths[targets[:, 0] == image])
        best[image] = overlap.amax(dim=1).view(best.shape[1:])
    spared = (best > rules.ignore_thresh) & (values[..., 5:] > _LIKELY).any(dim=-1)
    punished = rules.obj_normalizer * (0 - values[..., 4])
    if rules.objectness_smooth:
        return torch.where(
            spared, torch.maximum(punished, rules.obj_normalizer * (best - values[..., 4])), punished
        )
    return torch.where(spared, 0.0, punished)


def _positives(targets: Tensor, rules: HeadRules, grid: tuple[int, int], size: Tensor) -> _Pairs:
    """Assign the truths to cells and anchors of the head."""
    anchors = targets.new_tensor(rules.anchors)
    sides = targets[:, 4:6] * size.to(targets)
    best = shape_iou(sides, anchors).argmax(dim=1)
    chosen = torch.nn.functional.one_hot(best, len(anchors)).bool()
    if rules.iou_thresh < 1:
        shapes = torch.cat((torch.zeros_like(sides), sides), dim=1)
        candidates = torch.cat((torch.zeros_like(anchors), anchors), dim=1)
        overlap = box_overlap(xywh_to_xyxy(candidates), xywh_to_xyxy(shapes)[:, None], rules.iou_thresh_kind)
        chosen = chosen | (overlap > rules.iou_thresh)
    truth, place = chosen[:, list(rules.mask)].nonzero(as_tuple=True)
    column, row = (
        (targets[truth, 2 + axis] * grid[1 - axis]).long().clamp(0, grid[1 - axis] - 1) for axis in (0, 1)
    )
    numbers = torch.tensor(rules.mask, device=targets.device)[place]
    return _Pairs((targets[truth, 0].long(), place, row, column), numbers, truth)


def _squared_deltas(
    values: Tensor, truths: Tensor, pairs: _Pairs, spec: HeadSpec, rules: HeadRules, size: Tensor
) -> Tensor:
    """(n, 4) deltas of iou_loss=mse: differences in the head's units, weighted towards small truths."""
    grid = size / size.new_tensor(spec.pixels)
    cells = torch.stack((pairs.cells[3], pairs.cells[2]), dim=1)
    centre = truths[:, 2:4] * grid - cells
    sides = truths[:, 4:6] * size / truths.new_tensor(rules.anchors)[pairs.anchors]
    wanted = torch.cat((centre, sides.log()), dim=1)
    if spec.new_coords:
        wanted = torch.cat((centre, sides.sqrt() / 2), dim=1)
    scale = rules.iou_normalizer * (2 - truths[:, 4] * truths[:, 5])
    return scale[:, None] * (wanted.to(values.dtype) - values[..., :4][pairs.cells])


def _overlap_deltas(
    head: Tensor, boxes: Tensor, truths: Tensor, pairs: _Pairs, spec: HeadSpec, rules: HeadRules
) -> Tensor:
    """(n, 4) deltas of the overlap losses: derivative by the box in fractions, by the chain rule for w, h."""
    with torch.enable_grad():
        predicted = boxes[pairs.cells].clone().requires_grad_()
        true = xywh_to_xyxy(truths[:, 2:6].to(boxes.dtype))
        overlap = box_overlap(xywh_to_xyxy(predicted), true, rules.iou_loss)
        (slope,) = torch.autograd.grad(overlap.sum(), predicted)
    logits = head[..., 2:4][pairs.cells]
    stretch = torch.ones_like(logits) if spec.new_coords else logits.exp()  # as in delta_yolo_box
    slope = torch.cat((slope[:, :2], 2 * slope[:, 2:] * stretch), dim=1) * rules.iou_normalizer
    slope = torch.where(slope.isfinite(), slope, 0.0)
    return slope.clamp(-rules.max_delta, rules.max_delta) if math.isfinite(rules.max_delta) else slope
