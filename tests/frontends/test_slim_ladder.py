"""A ladder of any network."""

import pytest
import torch
from torch import nn

from tests.frontends.networks import network
from utils.errors import PruningError
from utils.frontends.module.ladder import ladder
from utils.frontends.module.slim import slim
from utils.pruning.costs import count_parameters

EXAMPLE = torch.zeros(1, 3, 16, 16)


def test_rungs_are_what_slim_makes_and_the_knee_is_the_last_good_one():
    model, seen = network("inverted residuals"), []

    def evaluate(each: nn.Module) -> float:
        assert not each.training
        seen.append(count_parameters(each))
        return 1.0 if seen[-1] > 0.4 * seen[0] else 0.3

    found = ladder(model, EXAMPLE, (0.6, 0.2, 0.4), evaluate, align=1)
    assert [rung.ratio for rung in found.rungs] == [0.0, 0.2, 0.4, 0.6]
    assert [rung.parameters for rung in found.rungs] == seen
    reports = [slim(model, EXAMPLE, ratio, align=1).report for ratio in (0.2, 0.4, 0.6)]
    assert seen[1:] == [report.parameters[1] for report in reports]
    assert [rung.macs for rung in found.rungs] == [
        reports[0].macs[0],
        *(report.macs[1] for report in reports),
    ]
    good = [rung.ratio for rung in found.rungs if rung.value == 1.0]
    assert found.knee() == max(good)
    assert 0 < found.knee() < 0.6
    lines = str(found).splitlines()
    assert len(lines) == 5
    assert lines[1].split()[:4] == ["0%", "1", f"{seen[0]:,}", "100.0%"]


def test_batches_of_an_iterator_recalibrate_every_rung():
    model = network("nothing")
    values = iter([torch.rand(4, 3, 16, 16)])
    found = []
    norm = next(name for name, each in model.named_modules() if isinstance(each, nn.BatchNorm2d))

    def evaluate(each: nn.Module) -> float:
        found.append(each.get_submodule(norm).running_mean.clone())
        return 0.5

    ladder(model, EXAMPLE, (0.2, 0.5), evaluate, recalibrate=values)
    assert all(float(mean.abs().sum()) > 0 for mean in found[1:])


def test_ratios_are_needed():
    with pytest.raises(PruningError, match="ratios: has none above 0"):
        ladder(network("nothing"), EXAMPLE, [0.0], lambda _: 1.0)
