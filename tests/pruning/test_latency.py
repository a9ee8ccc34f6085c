"""The table against a machine made up of formulas, whose every cost is known."""

import itertools
import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from utils.errors import PruningError
from utils.pruning.conv_classes import conv_classes, total_milliseconds
from utils.pruning.latency import Calibration, ConvClass, Fingerprint, LatencyTable

DENSE = ConvClass((3, 3), (1, 1), (1, 1), (1, 1), "dense", "leaky", 26, 26)
DEPTHWISE = ConvClass((3, 3), (1, 1), (1, 1), (1, 1), "depthwise:1", "relu", 26, 26)
GROUPED = ConvClass((3, 3), (1, 1), (1, 1), (1, 1), "grouped:2", "relu", 26, 26)
MACHINE = Fingerprint("onnxruntime", "1.31", "made up", 2, 1, "float32")
PROBED = (33, 34, 36, 40, 42, 44, 48, 49, 50, 52, 56, 57, 58, 60, 61, 62, 63, 64)


def stair(width: int, step: int) -> int:
    return -(-width // step) * step


def cost(inputs: int, outputs: int) -> float:
    """Stairs of 4 inputs and 16 outputs."""
    return 0.02 + stair(inputs, 4) * stair(outputs, 16) * 1e-4


def made_table(inputs=(16, 32, 64, 128), outputs=(16, 32, 64, 128), noise=0.0, seed=0) -> LatencyTable:
    draw = random.Random(seed)
    points = {pair: cost(*pair) * (1 + noise * draw.random()) for pair in itertools.product(inputs, outputs)}
    return (
        LatencyTable(MACHINE)
        .with_points(DENSE, points)
        .with_points(DEPTHWISE, {(1, width): width * 0.01 for width in outputs})
        .with_probe("inputs", {width: cost(width, 64) for width in PROBED})
        .with_probe("outputs", {width: cost(64, width) for width in PROBED})
        .with_probe("depthwise", {width: stair(width, 16) * 0.001 for width in PROBED})
    )


def test_stairs_are_read_from_the_probes() -> None:
    table = made_table()
    assert [table.step(axis) for axis in ("inputs", "outputs", "depthwise")] == [4, 16, 16]
    assert LatencyTable(MACHINE).step("inputs") == 1


@pytest.mark.parametrize(
    ("inputs", "outputs", "align"),
    [
        (lambda w: stair(w, 8), lambda w: stair(w, 16), 8),  # 16 would cost the reader a stair
        (lambda w: stair(w, 16), lambda w: stair(w, 16), 16),
        (lambda w: w if w % 4 == 0 else 1.24 * stair(w, 4), lambda w: stair(w, 4), 4),  # falls back inside
        (lambda w: w, lambda w: w, 2),  # one channel of so many is next to nothing
        (lambda w: w**2, lambda w: w**2, 1),
    ],
    ids=["shorter stairs of inputs", "equal stairs", "costlier inside", "no stairs", "steep"],
)
def test_align_is_free_for_writer_and_reader_together(inputs, outputs, align: int) -> None:
    table = (
        LatencyTable(MACHINE)
        .with_probe("inputs", {width: inputs(width) for width in PROBED})
        .with_probe("outputs", {width: outputs(width) for width in PROBED})
    )
    assert table.align == align


def test_measured_widths_get_their_measurement() -> None:
    table = made_table()
    for pair, milliseconds in table.points[DENSE].items():
        assert table.milliseconds(DENSE, *pair) == pytest.approx(milliseconds, rel=1e-12)


def test_a_full_width_inside_a_stair_is_its_own_end() -> None:
    """255 filters before a head, 3 channels of the image."""
    table = made_table(inputs=(3,), outputs=(64, 128, 255))
    assert table.milliseconds(DENSE, 3, 255) == table.points[DENSE][3, 255]


def test_all_widths_of_a_stair_cost_what_its_end_costs() -> None:
    table = made_table()
    for width in range(1, 140):
        end = table.milliseconds(DENSE, 64, stair(width, 16))
        assert table.milliseconds(DENSE, 64, width) == pytest.approx(end, rel=1e-12)
        end = table.milliseconds(DENSE, stair(width, 4), 64)
        assert table.milliseconds(DENSE, width, 64) == pytest.approx(end, rel=1e-12)


def test_between_and_beyond_measured_widths_the_formula_is_met() -> None:
    table = made_table()
    for inputs, outputs in itertools.product((20, 48, 100), (17, 40, 120)):
        assert table.milliseconds(DENSE, inputs, outputs) == pytest.approx(cost(inputs, outputs), rel=1e-9)
    assert table.milliseconds(DENSE, 256, 256) == pytest.approx(4 * table.milliseconds(DENSE, 128, 128))
    assert table.milliseconds(DENSE, 4, 16) == pytest.approx(table.milliseconds(DENSE, 16, 16) / 4)


@pytest.mark.parametrize("seed", range(3))
def test_noise_never_makes_a_wider_layer_cheaper(seed: int) -> None:
    table = made_table(noise=2.0, seed=seed)
    widths = range(1, 150, 3)
    costs = np.array([[table.milliseconds(DENSE, i, o) for o in widths] for i in widths])
    assert (np.diff(costs, axis=0) >= 0).all()
    assert (np.diff(costs, axis=1) >= 0).all()


def test_a_depthwise_layer_has_one_width() -> None:
    table = made_table()
    assert table.milliseconds(DEPTHWISE, 64, 64) == pytest.approx(0.64)
    assert table.milliseconds(DEPTHWISE, 49, 49) == pytest.approx(0.64)


def test_stairs_of_a_grouped_layer_are_those_of_a_group() -> None:
    table = made_table().with_points(GROUPED, {(i, o): i * o for i in (32, 64) for o in (32, 64)})
    assert table.milliseconds(GROUPED, 34, 32) == table.milliseconds(GROUPED, 40, 32)  # 17 -> 20 each
    assert table.milliseconds(GROUPED, 34, 34) == table.milliseconds(GROUPED, 34, 64)  # 17 -> 32 each


def test_reading_what_was_written_gives_the_same_table() -> None:
    table = made_table()
    assert LatencyTable.from_json(json.loads(json.dumps(table.to_json()))) == table


@pytest.mark.parametrize(
    "change",
    [
        {"probes": {"inputs": [[33, 0.0]]}},
        {"probes": {"inputs": [[33]]}},
        {"classes": [{"class": "dense", "points": []}]},
        {"classes": [{"class": [], "points": []}]},
        {"classes": [{"class": {}, "points": []}]},
        {"classes": None},
        {"fingerprint": None},
    ],
)
def test_data_that_is_no_table_is_refused(change) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        LatencyTable.from_json({**made_table().to_json(), **change})


@pytest.mark.parametrize("milliseconds", [0.0, -1.0, float("nan"), float("inf")])
def test_what_no_clock_shows_is_refused(milliseconds) -> None:
    table = made_table().with_points(DENSE, {(8, 8): milliseconds})
    with pytest.raises(ValueError, match="milliseconds"):
        LatencyTable.from_json(table.to_json())


def test_another_machine_is_told_by_what_differs() -> None:
    other = Fingerprint("onnxruntime", "1.32", "made up", 2, 2, "float32")
    assert MACHINE.differences(other) == ("version: 1.31, 1.32", "threads: 1, 2")
    assert MACHINE.differences(MACHINE) == ()


def test_a_class_that_was_not_measured_is_refused_by_name() -> None:
    with pytest.raises(PruningError, match="3x3 grouped:2 relu at 26x26 was not measured"):
        made_table().milliseconds(GROUPED, 8, 8)


def test_a_grid_with_gaps_does_not_answer_and_says_what_it_lacks() -> None:
    table = LatencyTable(MACHINE).with_points(DENSE, {(8, 8): 1.0, (8, 16): 2.0, (16, 8): 2.0})
    with pytest.raises(PruningError):
        table.milliseconds(DENSE, 8, 8)
    assert table.missing(DENSE, (8, 16), (8, 16)) == [(16, 16)]


def test_a_grid_that_reaches_far_enough_serves_narrower_networks() -> None:
    assert made_table().missing(DENSE, (8, 40, 100), (8, 128)) == []
    assert set(made_table().missing(DENSE, (256,), (128,))) == {(256, o) for o in (16, 32, 64, 128)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 16, (3, 1), groups=8, dilation=(2, 1))
        self.grouped = nn.Conv2d(16, 16, 1, groups=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.grouped(self.grouped(self.depthwise(self.first(images))))


def test_classes_come_from_the_network_as_it_runs() -> None:
    found = conv_classes(Net().train(), (20, 12), {"first": "leaky"})
    assert [(f.name, f.inputs, f.outputs, f.reads_image) for f in found] == [
        ("first", 3, 8, True),
        ("depthwise", 8, 16, False),
        ("grouped", 16, 16, False),
        ("grouped", 16, 16, False),
    ]
    assert found[0].conv == ConvClass((3, 3), (2, 2), (1, 1), (1, 1), "dense", "leaky", 20, 12)
    assert found[1].conv == ConvClass((3, 1), (1, 1), (0, 0), (2, 1), "depthwise:2", "none", 10, 6)
    assert (
        found[2].conv == found[3].conv == ConvClass((1, 1), (1, 1), (0, 0), (1, 1), "grouped:2", "none", 6, 6)
    )


def test_the_total_is_the_sum_over_all_runs() -> None:
    found = conv_classes(Net(), (20, 12), {})
    table = LatencyTable(MACHINE)
    for number, one in enumerate(dict.fromkeys(f.conv for f in found)):
        table = table.with_points(
            one, {(1 if one.is_depthwise else f, o): 10.0**number for f in (3, 16) for o in (8, 16)}
        )
    assert total_milliseconds(table, found) == 1 + 10 + 100 + 100


@pytest.mark.parametrize(
    ("predicted", "measured", "expected"),
    [
        ([10.0, 20.0, 40.0], [13.0, 24.0, 46.0], Calibration(1.1, 2.0)),
        ([10.0], [12.0], Calibration(1.2, 0.0)),
        ([10.0, 20.0], [9.0, 22.0], Calibration(1.0, 0.0)),  # noise: nothing costs less than nothing
    ],
    ids=["line", "one network", "negative overhead"],
)
def test_a_calibration_is_the_line_through_measured_networks(predicted, measured, expected) -> None:
    fitted = Calibration.fitted(predicted, measured)
    assert fitted.scale == pytest.approx(expected.scale)
    assert fitted.overhead == pytest.approx(expected.overhead, abs=1e-6)


def test_a_disturbed_measurement_is_held_to_that_of_the_wider_layer() -> None:
    table = made_table()
    disturbed = table.with_points(DENSE, {(64, 64): 100.0})
    assert disturbed.milliseconds(DENSE, 64, 64) == min(
        table.points[DENSE][128, 64], table.points[DENSE][64, 128]
    )
    assert disturbed.milliseconds(DENSE, 128, 128) == table.milliseconds(DENSE, 128, 128)
