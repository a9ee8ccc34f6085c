"""Distillation 2 against a restatement in numpy, and its two zeros."""

import numpy as np
import pytest
import torch
from torch import nn

from utils.detection.decode import HeadSpec
from utils.errors import ToolkitError
from utils.training.distillation import SIGMOID_WEIGHT, Teacher, distillation_loss, parse_kinds
from utils.training.processes import Processes

SPEC = HeadSpec(anchors=((30.0, 40.0), (60.0, 20.0)), classes=2, stride=32)
TARGETS = torch.tensor([[0, 1, 0.3, 0.4, 0.6, 0.9], [1, 0, 0.7, 0.2, 0.2, 0.5]])


def heads(seed: int) -> torch.Tensor:
    return torch.randn(2, 2, 2, 3, 7, generator=torch.Generator().manual_seed(seed))


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values)
    return powers / powers.sum(-1, keepdims=True)


def reference(student: np.ndarray, teacher: np.ndarray) -> tuple[float, int]:
    mine, other = (softmax(head[..., 4:].astype(np.float64) / 3) for head in (student, teacher))
    loss = 0.0001 * 9 * (other * np.log(other / mine)).sum() / 2
    worse = 0
    # TARGETS by hand: in an input of 96 x 64 both centres lie in row 0 or 1; the best anchor is named here
    for image, x, y, w, h, anchor in ((0, 28.8, 25.6, 57.6, 57.6, 0), (1, 67.2, 12.8, 19.2, 32.0, 0)):
        row, column = int(y // 32), int(x // 32)
        distances = []
        for head in (student, teacher):
            raw = head[image, anchor, row, column].astype(np.float64)
            centre = 1 / (1 + np.exp(-raw[:2])) + (column, row)
            size = np.exp(raw[2:4]) * np.array(SPEC.anchors[anchor]) / 32
            wanted = np.array([x, y, w, h]) / 32
            distances.append(((np.concatenate((centre, size)) - wanted) ** 2).sum())
        if distances[0] > distances[1]:
            loss += 0.001 * distances[0]
            worse += 1
    return loss, worse


@pytest.mark.parametrize("seed", range(4))
def test_it_equals_the_rule_restated_in_numpy(seed: int) -> None:
    student, teacher = heads(seed), heads(seed + 10)
    found = distillation_loss([student], [teacher], TARGETS, [SPEC], iou_threshold=1.0)
    loss, worse = reference(student.numpy(), teacher.numpy())
    assert found.loss.item() == pytest.approx(loss, rel=1e-4)
    assert (int(found.farther), found.positives) == (worse, 2)


def test_a_student_equal_to_its_teacher_pays_nothing() -> None:
    student = heads(1).requires_grad_()
    found = distillation_loss([student], [student.detach().clone()], TARGETS, [SPEC], iou_threshold=0.2)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(0, abs=1e-9)
    assert student.grad.abs().max().item() < 1e-7
    assert int(found.farther) == 0


@pytest.mark.parametrize("text", ["other", "", "sigmoid+", "sigmoid,feature"])
def test_an_unknown_kind_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="classic2"):
        parse_kinds(text)


def test_a_teacher_is_frozen_and_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 7, 1), nn.BatchNorm2d(7)).train()
    teacher = Teacher(model, [SPEC])
    mean = model[1].running_mean.clone()
    assert not teacher(torch.rand(2, 3, 4, 4)).requires_grad
    assert torch.equal(model[1].running_mean, mean)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_teacher_with_other_heads_is_refused_with_the_remedy() -> None:
    other = HeadSpec(anchors=SPEC.anchors, classes=5, stride=32)
    with pytest.raises(ToolkitError, match="pruned from"):
        Teacher(nn.Identity(), [other]).check([SPEC])


def test_distillation_1_is_the_divergence_of_all_raw_outputs() -> None:
    student, teacher = heads(1), heads(11)
    found = distillation_loss([student], [teacher], TARGETS, [SPEC], 1.0, ["classic1"])
    mine, other = (softmax(head.numpy().astype(np.float64) / 3) for head in (student, teacher))
    wanted = 0.001 * 9 * (other * np.log(other / mine)).sum() / len(student)
    assert found.loss.item() == pytest.approx(wanted, rel=1e-4)


def coin(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL divergence of two coins from its definition."""
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def test_sigmoid_weighs_classes_by_the_teachers_objectness() -> None:
    """Without truths, so without boxes: objectness of all cells, classes of the teacher's objects."""
    student, teacher = heads(2), heads(12)
    found = distillation_loss([student], [teacher], TARGETS[:0], [SPEC], 1.0, ["sigmoid"])
    mine, other = (1 / (1 + np.exp(-head[..., 4:].numpy().astype(np.float64))) for head in (student, teacher))
    objects = other[..., 0].sum()
    parts = coin(other[..., 0], mine[..., 0]).sum()
    parts += (other[..., :1] * coin(other[..., 1:], mine[..., 1:])).sum()
    assert found.loss.item() == pytest.approx(SIGMOID_WEIGHT * parts / objects, rel=1e-4)


@pytest.mark.parametrize("kind", ["classic1", "sigmoid"])
def test_an_equal_student_gets_neither_loss_nor_gradient(kind: str) -> None:
    student = heads(3).requires_grad_()
    kinds = parse_kinds(kind)
    found = distillation_loss([student], [student.detach().clone()], TARGETS, [SPEC], 0.2, kinds)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(0, abs=1e-7)
    assert student.grad.abs().max().item() < 1e-7


@pytest.mark.parametrize("kind", ["classic1", "classic2", "sigmoid"])
def test_a_step_along_the_gradient_lowers_the_loss(kind: str) -> None:
    student, teacher = heads(4).requires_grad_(), heads(14)
    kinds = parse_kinds(kind)
    before = distillation_loss([student], [teacher], TARGETS, [SPEC], 0.2, kinds).loss
    before.backward()
    after = distillation_loss([student - 0.1 * student.grad], [teacher], TARGETS, [SPEC], 0.2, kinds).loss
    assert after.item() < before.item()


def test_kinds_add_up() -> None:
    student, teacher = heads(5), heads(15)
    single = [
        distillation_loss([student], [teacher], TARGETS, [SPEC], 0.2, [kind]).loss.item()  # type: ignore[list-item]
        for kind in ("classic2", "sigmoid")
    ]
    both = distillation_loss([student], [teacher], TARGETS, [SPEC], 0.2, parse_kinds("classic2+sigmoid"))
    assert both.loss.item() == pytest.approx(sum(single), rel=1e-5)


def test_no_box_is_pulled_to_a_teacher_that_is_farther_from_the_truth() -> None:
    """The student stands on the truths; only confidences may learn."""
    student = heads(6)
    for image, x, y, w, h in ((0, 28.8, 25.6, 57.6, 57.6), (1, 67.2, 12.8, 19.2, 32.0)):
        row, column = int(y // 32), int(x // 32)
        inside = torch.tensor([x / 32 - column, y / 32 - row])
        student[image, 0, row, column, :2] = inside.logit()
        student[image, 0, row, column, 2:4] = (torch.tensor([w, h]) / torch.tensor(SPEC.anchors[0])).log()
    student.requires_grad_()
    distillation_loss([student], [heads(16)], TARGETS, [SPEC], 1.0, ["sigmoid"]).loss.backward()
    assert not student.grad[..., :4].any()
    assert student.grad[..., 4:].any()


def test_the_boxes_of_two_processes_count_as_much_as_those_of_one() -> None:
    """Gradients are averaged over processes, but the published sum is over the whole batch."""
    student, teacher = heads(5).requires_grad_(), heads(15)
    boxes = []
    for count in (1, 2):
        student.grad = None
        processes = Processes(0, count)
        distillation_loss([student], [teacher], TARGETS, [SPEC], 1.0, ["classic2"], processes).loss.backward()
        boxes.append(student.grad[..., :4].clone())
        confidences = student.grad[..., 4:].clone()
    assert boxes[0].any()
    assert torch.allclose(boxes[1], 2 * boxes[0])
    distillation_loss([student], [teacher], TARGETS, [SPEC], 1.0, ["classic2"]).loss.backward()
    assert torch.allclose(student.grad[..., 4:], 2 * confidences)
