"""Knowledge distillation from a larger network with the same heads, in addition to the labels.

    classic1  the published "Distillation 1": softened KL divergence over all raw outputs
    classic2  the published "Distillation 2": the same over objectness and classes, boxes only where the
              student is worse than the teacher, so that it can become better than it
    sigmoid   binary KL divergence on objectness and, weighted by the teacher's objectness, on classes; boxes
              towards the teacher's where that one is nearer to the truth (the bounded regression of Chen et
              al., NeurIPS 2017, with an overlap as distance)
    feature   the feature maps before the heads, see `features`

Invariant: for a student equal to its teacher, loss and gradient are 0, except for the box part of classic2.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..detection.boxes import box_overlap, xywh_to_xyxy
from ..detection.decode import HeadSpec, decode_boxes
from ..errors import ToolkitError
from ..pruning.soft_loss import soft_divergence
from .losses import HeadTargets, assign_targets, confidence_logits
from .processes import Processes

DistillationKind = Literal["classic1", "classic2", "sigmoid", "feature"]
KINDS: tuple[DistillationKind, ...] = get_args(DistillationKind)
# values of the published programs
TEMPERATURE = 3.0
RAW_WEIGHT = 0.001
CLASS_WEIGHT = 0.0001
BOX_WEIGHT = 0.001
# "sigmoid": as the parts of the loss, since they are per object as well
SIGMOID_BOX_WEIGHT = 1.0
SIGMOID_WEIGHT = 1.0


class Distillation(NamedTuple):
    """Distillation loss (scalar), and the number of positives where the student is worse than the teacher."""

    loss: Tensor
    farther: Tensor
    positives: int


class Teacher:
    """A frozen network in evaluation mode; calling it returns raw heads without gradients."""

    def __init__(self, model: nn.Module, specs: Sequence[HeadSpec]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.specs = tuple(specs)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Raw heads for images (B, 3, H, W)."""
        return self.model(images)

    def check(self, specs: Sequence[HeadSpec]) -> None:
        """Raise ToolkitError unless a student with these heads can be compared with the teacher."""
        own, wanted = ([_compared(spec) for spec in each] for each in (self.specs, specs))
        if own != wanted:
            raise ToolkitError(
                "teacher",
                f"its heads {own} differ from the student's {wanted}",
                "use the network that the student was pruned from",
            )


def _compared(spec: HeadSpec) -> dict[str, object]:
    names = ("anchors", "classes", "stride", "cell", "kind", "scale_x_y", "new_coords")
    return {name: getattr(spec, name) for name in names}


def parse_kinds(text: str) -> tuple[DistillationKind, ...]:
    """Read a sum of kinds.

    >>> parse_kinds("sigmoid+feature")
    ('sigmoid', 'feature')

    Raises:
        ValueError: a kind is unknown.
    """
    words = [word.strip() for word in text.split("+")]
    kinds = tuple(kind for word in words for kind in KINDS if kind == word)
    if len(kinds) != len(words):
        raise ValueError(f"{text!r} is not a sum of {', '.join(KINDS)}")
    return kinds


def distillation_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    targets: Tensor,
    specs: Sequence[HeadSpec],
    iou_threshold: float,
    kinds: Sequence[DistillationKind] = ("classic2",),
    processes: Processes | None = None,
) -> Distillation:
    """Sum of the losses of the kinds on the heads ("feature" adds nothing here).

    Args:
        student, teacher: raw heads (B, A, h, w, width) of the same images.
        targets: (M, 6) image index, class, x, y, w, h relative to the input.
        specs: the heads of both.
        iou_threshold: as in `targets.assign_targets`.
        kinds: of KINDS.
        processes: those that train together; gradients are averaged over them.
    """
    processes = processes or Processes()
    assigned = assign_targets(
        targets, specs, [(head.shape[2], head.shape[3]) for head in student], iou_threshold
    )
    pairs = [
        _Pair(mine.float(), other.float(), found, spec)
        for mine, other, found, spec in zip(student, teacher, assigned, specs, strict=True)
    ]
    loss = torch.stack(
        [_LOSSES[kind](pairs, processes) for kind in kinds if kind != "feature"] or [_zero(pairs)]
    )
    farther = torch.stack([pair.worse().sum() for pair in pairs]).sum()
    return Distillation(loss.sum(), farther, sum(len(found.image) for found in assigned))


class _Pair(NamedTuple):
    """A head of the student, the same of the teacher, and its positives."""

    student: Tensor
    teacher: Tensor
    found: HeadTargets
    spec: HeadSpec

    def logits(self) -> tuple[Tensor, Tensor]:
        """Objectness and classes (B, A, h, w, 1 + classes) of both."""
        return confidence_logits(self.student, self.spec), confidence_logits(self.teacher, self.spec)

    def boxes(self) -> tuple[Tensor, Tensor]:
        """(n, 4) decoded boxes of both at the positives, xywh in pixels."""
        return tuple(decode_boxes(head, self.spec)[self.found.cells] for head in self[:2])  # type: ignore[return-value]

    def distances(self) -> tuple[Tensor, Tensor]:
        """(n,) squared distance of both boxes to the truths, in cells."""
        cells = self.student.new_tensor(self.spec.pixels * 2)
        return tuple(  # type: ignore[return-value]
            ((boxes - self.found.boxes) / cells).square().sum(dim=1) for boxes in self.boxes()
        )

    def worse(self) -> Tensor:
        """(n,) whether the student is farther from the truth than the teacher is."""
        mine, other = self.distances()
        return mine > other


def _classic1(pairs: Sequence[_Pair], _: Processes) -> Tensor:
    """Divergence over the raw outputs of each anchor, summed over cells, per image."""
    sums = [_softened(pair.student, pair.teacher) / len(pair.student) for pair in pairs]
    return RAW_WEIGHT * torch.stack(sums).sum()


def _classic2(pairs: Sequence[_Pair], processes: Processes) -> Tensor:
    """Divergence over objectness and classes per image, squared distances of the boxes that are worse.

    The distances are summed over the batch of all processes, as published; therefore they weigh less in a
    batch that is split to accumulate gradients.
    """
    parts, box_weight = [], BOX_WEIGHT * processes.count
    for pair in pairs:
        divergence = _softened(*pair.logits()) / len(pair.student)
        parts.append(CLASS_WEIGHT * divergence + box_weight * pair.distances()[0][pair.worse()].sum())
    return torch.stack(parts).sum()


def _sigmoid(pairs: Sequence[_Pair], processes: Processes) -> Tensor:
    """Binary divergences over the teacher's objects, overlaps with the teacher's boxes over the positives."""
    confidence, boxes, objects = [], [], []
    for pair in pairs:
        mine, other = pair.logits()
        sure = other[..., 0].sigmoid()
        objects.append(sure.sum())
        classes = _class_divergence(mine[..., 1:], other[..., 1:], pair.spec)
        confidence.append(_binary_divergence(mine[..., 0], other[..., 0]).sum() + (sure * classes).sum())
        boxes.append(_bounded_boxes(pair))
    positives = mine.new_tensor(sum(len(pair.found.image) for pair in pairs))
    per_object = torch.stack(confidence).sum() / processes.average(torch.stack(objects).sum()).clamp(min=1)
    per_positive = torch.stack(boxes).sum() / processes.average(positives).clamp(min=1)
    return SIGMOID_WEIGHT * per_object + SIGMOID_BOX_WEIGHT * per_positive


def _zero(pairs: Sequence[_Pair]) -> Tensor:
    return pairs[0].student.new_zeros(())


_LOSSES: dict[str, Callable[[Sequence[_Pair], Processes], Tensor]] = {
    "classic1": _classic1,
    "classic2": _classic2,
    "sigmoid": _sigmoid,
}


def _bounded_boxes(pair: _Pair) -> Tensor:
    """Sum of 1 - CIoU with the teacher's box over the positives where that one is nearer to the truth."""
    mine, other = (xywh_to_xyxy(boxes) for boxes in pair.boxes())
    truths = xywh_to_xyxy(pair.found.boxes.to(mine.dtype))
    nearer = box_overlap(other, truths) > box_overlap(mine.detach(), truths)
    return (1 - box_overlap(mine, other, "ciou"))[nearer].sum()


def _class_divergence(student: Tensor, teacher: Tensor, spec: HeadSpec) -> Tensor:
    """KL(teacher || student) of class logits (..., classes), by the head's activation -> (...)."""
    if spec.kind != "region":
        return _binary_divergence(student, teacher).sum(dim=-1)
    mine, other = functional.log_softmax(student, dim=-1), functional.log_softmax(teacher, dim=-1)
    return functional.kl_div(mine, other, reduction="none", log_target=True).sum(dim=-1)


def _binary_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of Bernoulli variables, by logits l: log p = l - softplus(l)."""
    apart = functional.softplus(student) - functional.softplus(teacher)
    return teacher.sigmoid() * (teacher - student) + apart


def _softened(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of outputs (B, A, h, w, n) at TEMPERATURE, summed over the cells."""
    return soft_divergence(student.flatten(0, 3), teacher.flatten(0, 3), TEMPERATURE)
