"""A larger network's opinion as a second teacher beside the labels.

"classic2" is the published "Distillation 2": classes by a softened KL divergence, boxes only where the
student is worse than the teacher, so that it may become better than it. Both networks must have the same
heads.
Invariant: a student equal to its teacher gets no class loss, and one nearer to every truth no box loss.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from utils.detection.decode import HeadSpec, decode_boxes
from utils.errors import ToolkitError
from utils.training.losses import confidence_logits
from utils.training.targets import assign_targets

DistillationKind = Literal["classic2"]
TEMPERATURE = 3.0
CLASS_WEIGHT = 0.0001
BOX_WEIGHT = 0.001


class Distillation(NamedTuple):
    """The extra loss (scalar), and of how many positives the student is farther from the truth."""

    loss: Tensor
    farther: Tensor
    positives: int


class Teacher:
    """A frozen network in evaluation mode: calling it gives raw heads without gradients."""

    def __init__(self, model: nn.Module, specs: Sequence[HeadSpec]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.specs = tuple(specs)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Raw heads for images (B, 3, H, W)."""
        return self.model(images)

    def check(self, specs: Sequence[HeadSpec]) -> None:
        """Raise ToolkitError unless a student with these heads can be compared with the teacher."""
        wanted = [(spec.anchors, spec.classes, spec.stride) for spec in specs]
        own = [(spec.anchors, spec.classes, spec.stride) for spec in self.specs]
        if own != wanted:
            raise ToolkitError(
                f"teacher: its heads (anchors, classes, stride) {own} are not the student's {wanted}; "
                "use the network that the student was pruned from"
            )


def distillation_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    targets: Tensor,
    specs: Sequence[HeadSpec],
    iou_threshold: float,
    kind: DistillationKind = "classic2",
) -> Distillation:
    """Distillation 2: sums over the batch, classes averaged over images.

    Args:
        student, teacher: raw heads (B, A, h, w, width) of the same images.
        targets: (M, 6) image index, class, x, y, w, h relative to the input.
        specs: the heads of both.
        iou_threshold: as in `targets.assign_targets`.
        kind: "classic2".

    Raises:
        ValueError: another kind.
    """
    if kind != "classic2":
        raise ValueError(f"distillation {kind!r}: use 'classic2'")
    assigned = assign_targets(
        targets, specs, [(head.shape[2], head.shape[3]) for head in student], iou_threshold
    )
    loss = student[0].new_zeros((), dtype=torch.float32)
    farther = loss.new_zeros((), dtype=torch.long)
    for mine, other, found, spec in zip(student, teacher, assigned, specs, strict=True):
        mine, other = mine.float(), other.float()
        divergence = _soft_divergence(confidence_logits(mine, spec), confidence_logits(other, spec))
        distance = _squared_distance(mine, found.boxes, found.cells, spec)
        worse = distance > _squared_distance(other, found.boxes, found.cells, spec)
        loss = loss + CLASS_WEIGHT * divergence / len(mine) + BOX_WEIGHT * distance[worse].sum()
        farther = farther + worse.sum()
    return Distillation(loss, farther, sum(len(found.image) for found in assigned))


def _soft_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over cells of KL(teacher || student) at TEMPERATURE, times its square (arXiv 1503.02531)."""
    mine = functional.log_softmax(student.flatten(0, 3) / TEMPERATURE, dim=1)
    other = functional.log_softmax(teacher.flatten(0, 3) / TEMPERATURE, dim=1)
    return functional.kl_div(mine, other, reduction="sum", log_target=True) * TEMPERATURE**2


def _squared_distance(
    head: Tensor, truths: Tensor, cells: tuple[Tensor, Tensor, Tensor, Tensor], spec: HeadSpec
) -> Tensor:
    """(n,) squared distance of the predicted to the true xywh at the positives, in cells of the head."""
    boxes = decode_boxes(head, spec)[cells]
    return ((boxes - truths) / spec.stride).square().sum(dim=1)
