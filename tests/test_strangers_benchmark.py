"""The benchmark of other packages' networks: its check sees wrong networks, and its page shows each row."""

import pytest
import torch
from torch import nn

from benchmarks.strangers import Row
from benchmarks.strangers_check import UnmatchedError, independent_difference
from benchmarks.strangers_page import page
from utils.frontends.module.inputs import Inputs
from utils.frontends.module.slim import slim


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=2), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 5, 1),
    ).eval()  # fmt: skip


EXAMPLE = torch.rand(1, 3, 16, 16)


def test_a_right_network_is_found_right_and_a_wrong_one_wrong() -> None:
    result = slim(network(), EXAMPLE, align=2, folding="off")
    kept, inputs = result.plan.kept, Inputs.of(EXAMPLE)
    assert result.model[3].weight.shape == (8, 4, 3, 3)
    assert independent_difference(network(), result.model, kept, inputs) < 1e-12
    wrong = slim(network(), EXAMPLE, align=2, folding="off").model
    with torch.no_grad():
        wrong[6].weight.copy_(wrong[6].weight[:, [1, 0, *range(2, 8)]])  # the columns of another order
    assert independent_difference(network(), wrong, kept, inputs) > 1e-3


def test_changed_weights_are_not_compared() -> None:
    result = slim(network(), EXAMPLE, align=2, folding="off")
    with torch.no_grad():
        result.model[6].weight.mul_(2)
    with pytest.raises(UnmatchedError, match="6 has other weights"):
        independent_difference(network(), result.model, result.plan.kept, Inputs.of(EXAMPLE))


def test_the_page_has_a_line_for_each_network() -> None:
    row = {"parameters": 100, "seconds_proof": 1.0, "own_class": "True", "plan": "True", "difference": 1e-16}
    rows = [
        Row(
            "a/one",
            64,
            removed=0.5,
            removed_peer=0.6,
            seconds=1.0,
            seconds_peer=0.5,
            independent="1e-16",
            onnx="1e-7",
            **row,
        ),
        Row(
            "a/two",
            64,
            removed=0.7,
            seconds=2.0,
            independent="-",
            onnx="RuntimeError: no",
            error_peer="no",
            **row,
        ),
        Row("a/three", 64, error="PruningError: no"),
    ]
    text = page(rows)
    assert "| refused, crashed, over the time limit | 1 | 1 |" in text
    assert "| seconds over the peer's, median of 1 | 2.00 | 1 |" in text
    assert "Less than 95 % of the peer's reduction on 1: a/one." in text
    assert "| a/two | 64 | 100 | 70.0% | fails | 1.0e-16 | – | yes | – | 2.00 / 1.00 / – |" in text
    assert "a/three (PruningError: no)" in text
