"""Distillation of classifiers: the softened distribution of a teacher (Hinton et al., arXiv 1503.02531).

A network may have several heads: classifiers of different sizes on the same features. The teacher may have
any architecture with the same heads.

    soft = KLSoftLoss(temperature=5)
    loss = taught_loss(student(images), teacher(images), targets, soft)

Invariant: for a student equal to its teacher the soft loss and its gradient are 0 at any temperature.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import PruningError


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Sum over the rows of KL(teacher || student) at a temperature, times its square.

    The square compensates for the gradients, which shrink by it (section 2 of the paper).

    Args:
        student, teacher: (N, classes) logits.
        temperature: divisor of both, above 0.

    Returns:
        Scalar, without gradient for the teacher.
    """
    mine = functional.log_softmax(student / temperature, dim=1)
    other = functional.log_softmax(teacher.detach() / temperature, dim=1)
    return functional.kl_div(mine, other, reduction="sum", log_target=True) * temperature**2


class KLSoftLoss(nn.Module):
    """Mean over the batch of the softened divergence of one head."""

    def __init__(self, temperature: float = 5.0) -> None:
        """Raise PruningError unless the temperature is above 0."""
        super().__init__()
        if not temperature > 0:
            raise PruningError(
                f"temperature {temperature}", "out of range", "give a number above 0, such as 5"
            )
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Scalar for logits (B, classes) of both; PruningError if their shapes differ."""
        if student.shape != teacher.shape:
            shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
            raise PruningError(
                "KLSoftLoss", f"logits of student and teacher are {shapes}", "give heads of the same classes"
            )
        return soft_divergence(student, teacher, self.temperature) / len(student)


def taught_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    targets: Sequence[Tensor],
    soft: KLSoftLoss,
    soft_weight: float = 1.0,
) -> Tensor:
    """Sum over the heads of cross entropy and `soft_weight` times the soft loss.

    Args:
        student, teacher: (B, classes) logits of each head; classes may differ from head to head.
        targets: (B,) class numbers for each head.
        soft: the soft loss.
        soft_weight: weight of the soft loss, relative to the cross entropy; 0 for cross entropy only.

    Returns:
        Scalar.

    Raises:
        PruningError: the numbers or shapes of heads differ, or they are not lists.
    """
    if any(isinstance(heads, Tensor) for heads in (student, teacher, targets)):
        fact = "got a tensor, expected lists with one entry per head"
        raise PruningError("taught_loss", fact, "put a single head in a list, such as [student(images)]")
    if not len(student) == len(teacher) == len(targets):
        counts = f"{len(student)} heads of the student, {len(teacher)} of the teacher, {len(targets)} targets"
        raise PruningError("taught_loss", counts, "give the same number of each")
    return torch.stack(
        [
            functional.cross_entropy(mine, target) + soft_weight * soft(mine, other)
            for mine, other, target in zip(student, teacher, targets, strict=True)
        ]
    ).sum()
