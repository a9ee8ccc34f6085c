"""What a student learns from a teacher: its softened distribution (Hinton et al., arXiv 1503.02531).

A network may have several heads, classifiers of different sizes on the same features; a teacher of any other
architecture will do that has the same ones.

    soft = KLSoftLoss(temperature=5)
    loss = taught_loss(student(images), teacher(images), targets, soft)

Invariant: a student equal to its teacher gets no soft loss and no gradient of it, at any temperature.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import PruningError


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Sum over the rows of KL(teacher || student) at a temperature, times its square.

    The square keeps the size of gradients, which fall with it (section 2 of the paper).

    Args:
        student, teacher: (N, classes) logits.
        temperature: what both are divided by, above 0.

    Returns:
        Scalar; the teacher gets no gradient.
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
                f"temperature {temperature}", "divides logits", "give a number above 0, such as 5"
            )
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Scalar for logits (B, classes) of both; PruningError where they differ in shape."""
        if student.shape != teacher.shape:
            shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
            raise PruningError(
                "", f"a head of student and teacher gives {shapes}", "give heads of the same classes"
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
        soft: the loss towards the teacher.
        soft_weight: of the soft loss, where the hard one has 1; 0 for the hard one alone.

    Returns:
        Scalar.

    Raises:
        PruningError: the networks differ in their heads, or these are not lists.
    """
    if any(isinstance(heads, Tensor) for heads in (student, teacher, targets)):
        fact = "was given a tensor, but takes lists with an entry for each head"
        raise PruningError(
            "taught_loss", fact, "put that of a single head in a list, such as [student(images)]"
        )
    if not len(student) == len(teacher) == len(targets):
        counts = f"{len(student)} heads of the student, {len(teacher)} of the teacher, {len(targets)} targets"
        raise PruningError("", counts, "give as many of each")
    return torch.stack(
        [
            functional.cross_entropy(mine, target) + soft_weight * soft(mine, other)
            for mine, other, target in zip(student, teacher, targets, strict=True)
        ]
    ).sum()
