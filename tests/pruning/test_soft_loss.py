"""The soft loss against its formula written out by hand."""

import pytest
import torch
from torch.nn import functional

from slim import KLSoftLoss, taught_loss
from utils.errors import PruningError

SIZES = (10, 2, 3)


def heads(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(6, size, generator=generator, dtype=torch.float64) for size in SIZES]


def by_hand(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """Mean over rows of sum p log(p / q), in exponentials."""
    p, q = ((each / temperature).exp() for each in (teacher, student))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return float((p * (p / q).log()).sum(1).mean() * temperature**2)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_it_is_the_divergence_written_out(temperature):
    for student, teacher in zip(heads(0), heads(1), strict=True):
        found = KLSoftLoss(temperature)(student, teacher)
        assert float(found) == pytest.approx(by_hand(student, teacher, temperature), rel=1e-12)


def test_it_is_torchs_batchmean_times_the_square():
    student, teacher = heads(0)[0], heads(1)[0]
    logs, probabilities = functional.log_softmax(student / 5, 1), functional.softmax(teacher / 5, 1)
    expected = 25 * functional.kl_div(logs, probabilities, reduction="batchmean")
    assert torch.allclose(KLSoftLoss(5)(student, teacher), expected, rtol=1e-12)


def test_a_student_like_its_teacher_has_nothing_to_learn_from_it():
    student = heads(0)[0].requires_grad_()
    loss = KLSoftLoss(5)(student, student.detach().clone())
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert student.grad.abs().max() < 1e-12


def test_the_teacher_gets_no_gradient():
    student, teacher = heads(0)[0].requires_grad_(), heads(1)[0].requires_grad_()
    KLSoftLoss(5)(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_gradients_keep_their_size_at_high_temperatures():
    """They tend to those of half the squared distance of centred logits, over classes (section 2.1)."""
    student, teacher = heads(0)[0].requires_grad_(), heads(1)[0]
    KLSoftLoss(1e4)(student, teacher).backward()
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    assert torch.allclose(student.grad, (centred / 10 / len(student)).detach(), atol=1e-4)


def test_heads_of_different_sizes_are_summed_hard_and_soft_one_to_one():
    student, teacher = heads(0), heads(1)
    targets = [torch.arange(6) % size for size in SIZES]
    hard = sum(
        float(-head.log_softmax(1)[range(6), target].mean())
        for head, target in zip(student, targets, strict=True)
    )
    soft = sum(by_hand(*pair, 5.0) for pair in zip(student, teacher, strict=True))
    loss = KLSoftLoss(5)
    assert float(taught_loss(student, teacher, targets, loss)) == pytest.approx(hard + soft)
    assert float(taught_loss(student, teacher, targets, loss, soft_weight=0)) == pytest.approx(hard)


def test_what_does_not_fit_is_refused():
    with pytest.raises(PruningError, match="give a number above 0"):
        KLSoftLoss(0)
    with pytest.raises(PruningError, match="heads of the same classes"):
        KLSoftLoss(5)(heads(0)[0], heads(1)[1])
    with pytest.raises(PruningError, match="3 heads of the student, 2 of the teacher, 3 targets"):
        taught_loss(heads(0), heads(1)[:2], [torch.zeros(6).long()] * 3, KLSoftLoss(5))


def test_a_single_head_that_is_not_in_a_list_is_refused():
    head, targets = heads(0)[0], torch.arange(6)
    with pytest.raises(PruningError, match=r"put a single head in a list"):
        taught_loss(head, head, targets, KLSoftLoss())
    assert taught_loss([head], [head], [targets], KLSoftLoss()) > 0
