"""Darknet's deltas against a restatement in plain loops, number by number in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from utils.darknet.network import Network
from utils.detection.decode import HeadSpec
from utils.errors import UnsupportedSectionError
from utils.training.darknet_loss import HeadRules, darknet_loss, head_delta, head_rules

ANCHORS = ((12.0, 16.0), (40.0, 30.0), (70.0, 90.0))
RULES = HeadRules(anchors=ANCHORS, mask=(1, 2), ignore_thresh=0.3)
SPEC = HeadSpec(anchors=ANCHORS[1:], classes=3, stride=32)
# two truths of different classes in one cell, one at the border, one that another head's anchor 0 fits best
TARGETS = torch.tensor(
    [
        [0, 1, 0.41, 0.43, 0.35, 0.30],
        [0, 2, 0.43, 0.41, 0.40, 0.33],
        [0, 0, 0.99, 0.02, 0.55, 0.60],
        [1, 1, 0.20, 0.70, 0.10, 0.12],
    ],
    dtype=torch.float64,
)
GRID = 3
SIZE = GRID * 32


def make_head(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 2, GRID, GRID, 8, generator=generator, dtype=torch.float64)


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def overlap(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    sides = [
        max(0.0, min(a + p / 2, b + q / 2) - max(a - p / 2, b - q / 2))
        for a, p, b, q in ((one[0], one[2], two[0], two[2]), (one[1], one[3], two[1], two[3]))
    ]
    shared = sides[0] * sides[1]
    return shared / (one[2] * one[3] + two[2] * two[3] - shared)


def measure(kind: str, one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """IoU, GIoU or DIoU of two boxes xywh, each from its definition."""
    iou = overlap(one, two)
    low = [min(one[i] - one[i + 2] / 2, two[i] - two[i + 2] / 2) for i in (0, 1)]
    high = [max(one[i] + one[i + 2] / 2, two[i] + two[i + 2] / 2) for i in (0, 1)]
    if kind == "giou":
        outer = (high[0] - low[0]) * (high[1] - low[1])
        union = (one[2] * one[3] + two[2] * two[3]) / (1 + iou)
        return iou - (outer - union) / outer
    if kind == "diou":
        apart = (one[0] - two[0]) ** 2 + (one[1] - two[1]) ** 2
        return iou - apart / ((high[0] - low[0]) ** 2 + (high[1] - low[1]) ** 2)
    return iou


def box_of(head: np.ndarray, b: int, a: int, j: int, i: int, spec: HeadSpec) -> tuple[float, ...]:
    x, y, w, h = head[b, a, j, i, :4]
    width, height = ANCHORS[RULES.mask[a]]
    s = spec.scale_x_y
    x, y = (v if spec.new_coords else logistic(v) for v in (x, y))
    w, h = (4 * v * v if spec.new_coords else math.exp(v) for v in (w, h))
    centre = (v * s - (s - 1) / 2 for v in (x, y))
    x, y = (cell + v for cell, v in zip((i, j), centre, strict=True))
    return x / GRID, y / GRID, w * width / SIZE, h * height / SIZE


def slope(kind: str, box: tuple[float, ...], truth: tuple[float, ...]) -> list[float]:
    """Central differences of the overlap by each number of the box."""
    step = 1e-6
    found = []
    for number in range(4):
        moved = [tuple(v + s * (n == number) for n, v in enumerate(box)) for s in (step, -step)]
        found.append((measure(kind, moved[0], truth) - measure(kind, moved[1], truth)) / (2 * step))
    return found


def restated(head: np.ndarray, rules: HeadRules, spec: HeadSpec = SPEC) -> np.ndarray:
    """The rules, one cell and one truth after the other."""
    s = spec.scale_x_y
    chance_of = float if spec.new_coords else logistic
    delta = np.zeros_like(head)
    truths = [(int(row[0]), int(row[1]), tuple(float(v) for v in row[2:])) for row in TARGETS.tolist()]
    for b, a, j, i in np.ndindex(head.shape[:4]):
        chance = chance_of(head[b, a, j, i, 4])
        best = max(overlap(box_of(head, b, a, j, i, spec), truth) for image, _, truth in truths if image == b)
        likely = any(chance_of(v) > 0.25 for v in head[b, a, j, i, 5:])
        punished = rules.obj_normalizer * (0 - chance)
        if best > rules.ignore_thresh and likely:
            spared = max(punished, rules.obj_normalizer * (best - chance)) if rules.objectness_smooth else 0.0
            delta[b, a, j, i, 4] = spared
        else:
            delta[b, a, j, i, 4] = punished
    for b, kind, truth in truths:
        column, row = int(truth[0] * GRID), int(truth[1] * GRID)
        shapes = [overlap((0, 0, w / SIZE, h / SIZE), (0, 0, *truth[2:])) for w, h in ANCHORS]
        best_anchor = int(np.argmax(shapes))
        for anchor in range(len(ANCHORS)):
            wanted = anchor == best_anchor or (rules.iou_thresh < 1 and shapes[anchor] > rules.iou_thresh)
            if not wanted or anchor not in rules.mask:
                continue
            place = (b, rules.mask.index(anchor), row, column)
            x, y, w, h = head[place][:4]
            if rules.iou_loss == "mse":
                values = [chance_of(x) * s - (s - 1) / 2, chance_of(y) * s - (s - 1) / 2, w, h]
                goal = [
                    truth[0] * GRID - column, truth[1] * GRID - row,
                    math.log(truth[2] * SIZE / ANCHORS[anchor][0]),
                    math.log(truth[3] * SIZE / ANCHORS[anchor][1]),
                ]  # fmt: skip
                if spec.new_coords:
                    goal[2:] = [math.sqrt(math.exp(g) / 4) for g in goal[2:]]
                scale = rules.iou_normalizer * (2 - truth[2] * truth[3])
                move = [scale * (g - v) for g, v in zip(goal, values, strict=True)]
            else:
                move = slope(rules.iou_loss, box_of(head, *place, spec), truth)
                stretch = (1.0, 1.0) if spec.new_coords else (math.exp(w), math.exp(h))
                move = [move[0], move[1], 2 * move[2] * stretch[0], 2 * move[3] * stretch[1]]
                move = [rules.iou_normalizer * m for m in move]
                move = [min(max(m, -rules.max_delta), rules.max_delta) for m in move]
            delta[place][:4] += move
            confident = rules.obj_normalizer * (1 - chance_of(head[(*place, 4)]))
            if not rules.objectness_smooth or delta[(*place, 4)] == 0:
                delta[(*place, 4)] = confident
            smooth = rules.label_smooth_eps
            if delta[(*place, 5 + kind)] != 0:
                delta[(*place, 5 + kind)] = 1 - smooth / 2 - chance_of(head[(*place, 5 + kind)])
                continue
            for n in range(3):
                goal_class = float(n == kind) * (1 - smooth) + smooth / 2
                delta[(*place, 5 + n)] = goal_class - chance_of(head[(*place, 5 + n)])
    if rules.iou_thresh < 1:
        for place in np.ndindex(head.shape[:4]):
            count = int((delta[place][5:] > 0).sum())
            if delta[(*place, 4)] != 0 and count:
                delta[place][:4] /= count
    return delta


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"iou_thresh": 0.2, "iou_normalizer": 0.07},
        {"iou_loss": "iou"},
        {"iou_loss": "giou", "iou_thresh": 0.2, "max_delta": 0.4},
        {"iou_loss": "diou", "objectness_smooth": True, "obj_normalizer": 0.4},
        {"objectness_smooth": True, "ignore_thresh": 0.05, "label_smooth_eps": 0.1},
    ],
)
@pytest.mark.parametrize(
    "coords", [{}, {"scale_x_y": 1.1}, {"scale_x_y": 2.0, "new_coords": True}], ids=["v3", "v4", "v4-csp"]
)
@pytest.mark.parametrize("seed", range(3))
def test_deltas_equal_the_rules_restated_in_loops(
    seed: int, changes: dict[str, object], coords: dict[str, object]
) -> None:
    rules, spec = replace(RULES, **changes), replace(SPEC, **coords)  # type: ignore[arg-type]
    head = make_head(seed)
    head = head.sigmoid() if spec.new_coords else head
    found = head_delta(head, TARGETS, spec, rules).numpy()
    assert found == pytest.approx(restated(head.numpy(), rules, spec), abs=2e-7)


@pytest.mark.parametrize("kind", ["mse", "ciou"])
def test_the_gradient_is_minus_the_delta_for_each_image(kind: str) -> None:
    rules = replace(RULES, iou_loss=kind)
    head = make_head(5).requires_grad_()
    losses = darknet_loss([head], TARGETS, [SPEC], [rules])
    losses.total.backward()
    delta = head_delta(head.detach(), TARGETS, SPEC, rules)
    assert torch.allclose(head.grad, -delta / 2, atol=1e-12)
    assert losses.total.item() == pytest.approx(delta.square().sum().item() / 2)


def test_a_step_along_ciou_brings_the_box_nearer() -> None:
    rules = replace(RULES, iou_loss="ciou")
    head = make_head(1)
    before = darknet_loss([head], TARGETS, [SPEC], [rules])
    delta = head_delta(head, TARGETS, SPEC, rules)
    delta[..., 4:] = 0
    place = (0, 0, 1, 1)
    truth = tuple(TARGETS[0, 2:].tolist())
    old, new = (measure("giou", box_of(h.numpy(), *place, SPEC), truth) for h in (head, head + 0.02 * delta))
    assert new > old
    assert before.total.isfinite()


def test_without_truths_everything_is_background() -> None:
    head = make_head(2)
    delta = head_delta(head, TARGETS[:0], SPEC, RULES)
    assert torch.allclose(delta[..., 4], -head[..., 4].sigmoid(), atol=1e-15)
    assert not delta[..., :4].any()
    assert not delta[..., 5:].any()


CFG = """
[net]
width=64
height=64
channels=3

[convolutional]
filters=16
stride=8
size=3
pad=1
activation=linear

[yolo]
mask=0,1
anchors=10,12, 30,20
classes=3
num=2
{keys}
"""


def test_rules_are_those_of_the_section() -> None:
    pairs = ("ignore_thresh=.7", "iou_thresh=0.213", "iou_loss=ciou", "iou_normalizer=0.07")
    keys = "\n".join((*pairs, "obj_normalizer=0.4", "max_delta=5"))
    (rules,) = head_rules(Network.from_text(CFG.format(keys=keys), "x.cfg"))
    assert (rules.ignore_thresh, rules.iou_thresh, rules.iou_loss) == (0.7, 0.213, "ciou")
    assert (rules.iou_normalizer, rules.obj_normalizer, rules.max_delta) == (0.07, 0.4, 5.0)
    assert rules.anchors == ((10.0, 12.0), (30.0, 20.0))
    (plain,) = head_rules(Network.from_text(CFG.format(keys=""), "x.cfg"))
    assert (plain.iou_loss, plain.iou_thresh, plain.iou_normalizer) == ("mse", 1.0, 0.75)
    assert plain.max_delta == math.inf


@pytest.mark.parametrize("key", ["focal_loss=1", "truth_thresh=.9", "counters_per_class=1,2,3"])
def test_what_is_not_computed_is_refused_by_place_and_name(key: str) -> None:
    with pytest.raises(UnsupportedSectionError, match=rf"x.cfg:14: \[yolo\] #1: {key.split('=')[0]}"):
        head_rules(Network.from_text(CFG.format(keys=key), "x.cfg"))
