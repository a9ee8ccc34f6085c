"""What the loss must be zero, small, finite or blind for."""

import math

import pytest
import torch
from torch import Tensor

from utils.detection.decode import HeadSpec, decode_boxes, decode_heads
from utils.training.darknet_loss import HeadRules, darknet_loss
from utils.training.losses import LossWeights, assign_targets, yolo_loss

SPECS = (
    HeadSpec(anchors=((60.0, 60.0), (90.0, 40.0)), classes=3, stride=32),
    HeadSpec(anchors=((10.0, 10.0), (20.0, 40.0)), classes=3, stride=16),
)
GRIDS = ((2, 3), (4, 6))
SIZE = torch.tensor([96.0, 64.0])
TARGETS = torch.tensor([[0, 1, 0.3, 0.4, 0.6, 0.9], [1, 0, 0.7, 0.2, 0.2, 0.5], [1, 2, 0.1, 0.9, 0.1, 0.15]])


def random_heads(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, 2, *grid, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for grid in GRIDS
    ]


def perfect_heads() -> list[Tensor]:
    """Raw maps that say exactly what TARGETS say (threshold 1: best anchor only)."""
    heads = []
    for spec, grid, found in zip(SPECS, GRIDS, assign_targets(TARGETS, SPECS, GRIDS, 1.0), strict=True):
        head = torch.full((2, 2, *grid, 8), -30.0)
        cells = torch.stack((found.column, found.row), dim=1)
        head[(*found.cells, slice(0, 2))] = (found.boxes[:, :2] / spec.stride - cells).logit()
        head[(*found.cells, slice(2, 4))] = (
            found.boxes[:, 2:] / torch.tensor(spec.anchors)[found.anchor]
        ).log()
        head[(*found.cells, 4)] = 30.0
        head[(*found.cells, 5 + found.classes)] = 30.0
        heads.append(head)
    return heads


def test_heads_that_say_the_truth_cost_nothing() -> None:
    losses = yolo_loss(perfect_heads(), TARGETS, SPECS, LossWeights(iou_threshold=1.0, neighbours=0))
    assert [loss.item() for loss in losses] == pytest.approx([0, 0, 0, 0], abs=1e-4)


@pytest.mark.parametrize("channel", [0, 2, 4, 5])
def test_every_kind_of_mistake_costs_something(channel: int) -> None:
    heads = perfect_heads()
    heads[0][..., channel] += 40.0 if channel >= 4 else 1.0
    assert yolo_loss(heads, TARGETS, SPECS, LossWeights(iou_threshold=1.0)).total.item() > 0.01


def test_box_and_class_gradients_live_in_positive_cells_only() -> None:
    heads = random_heads()
    weights = LossWeights(objectness_weight=0.0, iou_threshold=0.3, neighbours=0)
    yolo_loss(heads, TARGETS, SPECS, weights).total.backward()
    for head, found in zip(heads, assign_targets(TARGETS, SPECS, GRIDS, 0.3), strict=True):
        touched = (head.grad != 0).any(dim=-1)
        expected = torch.zeros_like(touched)
        expected[found.cells] = True
        assert torch.equal(touched, expected)


def test_gradient_is_that_of_finite_differences() -> None:
    heads = [head.detach().float().requires_grad_() for head in random_heads(3)]
    weights = LossWeights(box_kind="iou", iou_threshold=0.3, iou_objectness=0.0)
    yolo_loss(heads, TARGETS, SPECS, weights).total.backward()
    index = tuple(int(part[0]) for part in assign_targets(TARGETS, SPECS, GRIDS, 0.3)[0].cells)
    for channel in range(8):
        moved = []
        for step in (0.01, -0.01):
            changed = [head.detach().clone() for head in heads]
            changed[0][(*index, channel)] += step
            moved.append(yolo_loss(changed, TARGETS, SPECS, weights).total.item())
        slope = (moved[0] - moved[1]) / 0.02
        assert heads[0].grad[(*index, channel)].item() == pytest.approx(slope, abs=2e-3)


def test_without_truths_only_objectness_is_left() -> None:
    heads = random_heads()
    losses = yolo_loss(heads, torch.zeros(0, 6), SPECS)
    losses.total.backward()
    assert losses.box.item() == losses.classes.item() == 0
    assert losses.objectness.item() > 0
    assert all(bool(torch.isfinite(head.grad).all()) for head in heads)


def test_predictions_near_a_truth_are_not_punished_as_background() -> None:
    """The second anchor is the best; the first one's box there fits too and must get no gradient."""
    spec = HeadSpec(anchors=((40.0, 40.0), (44.0, 44.0)), classes=1, stride=32, ignore_thresh=0.7)
    head = torch.zeros(1, 2, 2, 3, 6, requires_grad=True)
    targets = torch.tensor([[0, 0, 0.5, 0.25, 44 / 96, 44 / 64]])
    yolo_loss([head], targets, (spec,), LossWeights(iou_threshold=1.0)).objectness.backward()
    assert head.grad[0, 0, 0, 1, 4] == 0
    assert head.grad[0, 1, 0, 1, 4] < 0
    assert head.grad[0, 0, 1, 1, 4] > 0


def test_new_coords_heads_hold_probabilities() -> None:
    """A map of probabilities costs what the map of its logits costs in objectness and classes."""
    (plain,) = (HeadSpec(((60.0, 60.0),), 3, 32, ignore_thresh=1.0),)
    probability = HeadSpec(((60.0, 60.0),), 3, 32, new_coords=True, ignore_thresh=1.0)
    logits = torch.randn(2, 1, 2, 3, 8)
    weights = LossWeights(iou_objectness=0.0)  # sizes are decoded differently
    expected = yolo_loss([logits], TARGETS, (plain,), weights)
    found = yolo_loss([logits.sigmoid()], TARGETS, (probability,), weights)
    assert found.objectness.item() == pytest.approx(expected.objectness.item(), rel=1e-4)
    assert found.classes.item() == pytest.approx(expected.classes.item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["yolo", "region", "gaussian_yolo"])
def test_every_kind_of_head_learns_its_truths(kind) -> None:
    """Descending the loss alone, the best box of each image becomes its truth, with its class."""
    spec = HeadSpec(((40.0, 40.0), (20.0, 60.0)), 3, 32, ignore_thresh=0.7, kind=kind)
    torch.manual_seed(0)
    head = (torch.randn(2, 2, 2, 3, spec.width) * 0.1).requires_grad_()
    targets = torch.tensor([[0, 1, 0.4, 0.4, 0.5, 0.6], [1, 2, 0.7, 0.2, 0.3, 0.9]])
    optimizer = torch.optim.Adam([head], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        yolo_loss([head], targets, (spec,)).total.backward()
        optimizer.step()
    decoded = decode_heads([head.detach()], [spec])
    for image, row in enumerate(targets.tolist()):
        scores = decoded[image, :, 4:5] * decoded[image, :, 5:]
        box, found = divmod(int(scores.argmax()), 3)
        assert found == row[1]
        assert scores.max() > 0.8
        expected = torch.tensor(row[2:]) * torch.tensor([96, 64, 96, 64])
        torch.testing.assert_close(decoded[image, box, :4], expected, atol=1, rtol=0.05)


def test_a_deviation_learns_how_wrong_its_box_is() -> None:
    """The likelihood of an error e is largest at the deviation |e|; the boxes get no gradient from it."""
    spec = HeadSpec(((32.0, 32.0),), 1, 32, ignore_thresh=1.0, kind="gaussian_yolo")
    head = torch.zeros(1, 1, 2, 3, spec.width)
    targets = torch.tensor([[0, 0, 56 / 96, 16 / 64, 32 / 96, 32 / 64]])  # 8 pixels, .25 cells, off in x
    gradients = []
    for deviation in (0.2, 0.25, 0.3):
        logits = head.clone()
        logits[..., 1] = math.log(deviation / (1 - deviation))
        logits.requires_grad_()
        yolo_loss([logits], targets, (spec,)).total.backward()
        gradients.append(logits.grad[0, 0, 0, 1, 1].item())
    assert gradients[0] < 0 < gradients[2]
    assert abs(gradients[1]) < 1e-3


def test_bfloat16_heads_are_computed_in_float32() -> None:
    heads = [head.detach().bfloat16() for head in random_heads()]
    assert yolo_loss(heads, TARGETS, SPECS).total.dtype == torch.float32


def test_objectness_of_a_positive_aims_at_its_overlap() -> None:
    """The gradient of the objectness logit is sigmoid(logit) - CIoU, per positive."""
    spec = HeadSpec(anchors=((40.0, 40.0),), classes=1, stride=32, ignore_thresh=1.0)
    head = torch.zeros(1, 1, 2, 3, 6, requires_grad=True)
    targets = torch.tensor([[0, 0, 48 / 96, 16 / 64, 32 / 96, 40 / 64]])  # centred in its cell, as wide as .8
    losses = yolo_loss([head], targets, (spec,), LossWeights(iou_objectness=1.0))
    losses.objectness.backward()
    overlap = 1 - losses.box.item()
    assert 0.7 < overlap < 0.8
    assert head.grad[0, 0, 0, 1, 4].item() == pytest.approx(0.5 - overlap, abs=1e-6)


@pytest.mark.parametrize("loss", ["modern", "darknet"])
def test_boxes_are_learned_where_cells_are_no_whole_pixels(loss: str) -> None:
    """An input of 37 pixels and a map of 5 cells, 7.4 each: what is decoded comes to lie on the truth."""
    spec = HeadSpec(anchors=((8.0, 7.0),), classes=1, stride=7, cell=(7.4, 7.4))
    truth = torch.tensor([[0, 0, 0.93, 0.93, 0.30, 0.30]], dtype=torch.float64)
    head = torch.zeros(1, 1, 5, 5, 6, dtype=torch.float64, requires_grad=True)
    rules = HeadRules(anchors=spec.anchors, mask=(0,))
    optimizer = torch.optim.Adam([head], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        if loss == "modern":
            found = yolo_loss([head], truth, [spec], LossWeights(neighbours=0))
        else:
            found = darknet_loss([head], truth, [spec], [rules])
        found.total.backward()
        optimizer.step()
    box = decode_boxes(head.detach(), spec)[0, 0, 4, 4] / 37
    assert box.tolist() == pytest.approx([0.93, 0.93, 0.30, 0.30], abs=0.01)


def test_images_without_objects_are_no_louder_than_others() -> None:
    """The background of a batch counts per image there, not as that of a single object."""
    heads = random_heads(4)
    empty = yolo_loss(heads, TARGETS[:0], SPECS)
    twice = yolo_loss([torch.cat((head, head)) for head in heads], TARGETS[:0], SPECS)
    assert twice.total.item() == pytest.approx(empty.total.item(), rel=1e-6)
