"""Total loss of a batch: the loss on the labels and, with a teacher, the distillation loss.

Invariant: `parts` are of this batch and unweighted, except for "loss", the total, and "distillation".
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..detection.decode import HeadSpec
from .darknet_loss import HeadRules, darknet_loss
from .distillation import DistillationKind, Teacher, distillation_loss
from .features import FeatureMatch
from .losses import Losses, LossWeights, yolo_loss
from .processes import Processes

PARTS = ("loss", "box", "objectness", "classes", "distillation", "farther")


class Objective:
    """The loss of a batch.

    Attributes:
        specs: the student's heads.
        weights: of the modern loss; distillation uses its `iou_threshold` for positives too.
        rules: of Darknet's loss, one for each head; empty for the modern loss.
        teacher: a network to learn from, or None.
        kinds: of distillation.
        features: feature maps to compare with the teacher's, or None.
    """

    def __init__(
        self,
        specs: Sequence[HeadSpec],
        weights: LossWeights | None = None,
        *,
        rules: Sequence[HeadRules] = (),
        teacher: Teacher | None = None,
        kinds: Sequence[DistillationKind] = ("classic2",),
        features: FeatureMatch | None = None,
    ) -> None:
        self.specs, self.weights, self.rules = tuple(specs), weights or LossWeights(), tuple(rules)
        self.teacher, self.kinds, self.features = teacher, tuple(kinds), features
        if teacher is not None:
            teacher.check(specs)

    def __call__(
        self,
        heads: Sequence[Tensor],
        taught: Sequence[Tensor] | None,
        targets: Tensor,
        processes: Processes | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The total to minimise, and PARTS (detached, float32, on the heads' device).

        Args:
            heads: raw heads of the student.
            taught: those of the teacher for the same images, or None.
            targets: (M, 6) image index, class, x, y, w, h relative to the input.
            processes: those that train together; gradients are averaged over them.
        """
        processes = processes or Processes()
        losses = self._labels(heads, targets, processes)
        total = losses.total
        extra, farther = torch.zeros_like(total), torch.zeros_like(total)
        if taught is not None:
            threshold = self.weights.iou_threshold
            lesson = distillation_loss(heads, taught, targets, self.specs, threshold, self.kinds, processes)
            extra, farther = lesson.loss, lesson.farther / max(lesson.positives, 1)
            if self.features is not None:
                extra = extra + self.features.loss()
            total = total + extra
        parts = (total, losses.box, losses.objectness, losses.classes, extra, farther)
        return total, torch.stack([part.detach().float() for part in parts])

    def _labels(self, heads: Sequence[Tensor], targets: Tensor, processes: Processes) -> Losses:
        if self.rules:
            return darknet_loss(heads, targets, self.specs, self.rules)
        return yolo_loss(heads, targets, self.specs, self.weights, processes.average)
