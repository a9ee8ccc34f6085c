"""Counts are those made by hand; costs by mask are those of the narrowed network, built and counted."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.pruning.toy import ToyNet, ToySubject, randomised
from utils.pruning.costs import costs_of, count_macs, count_parameters


@pytest.mark.parametrize("seed", range(5))
def test_costs_are_those_of_the_network_built(seed):
    subject = ToySubject.of(randomised(ToyNet(width=8, blocks=2, size=3), seed).float())
    rng, graph = np.random.default_rng(seed), subject.graph
    costs = costs_of(subject.model, graph, subject.example)
    keep = graph.legal(rng.random(graph.unit_count) < 0.5, rng.random(graph.unit_count))
    model = subject.narrowed(keep).model.eval()
    assert costs.parameters(keep) == count_parameters(model)
    assert costs.macs(keep) == count_macs(model, (12, 12))
    values = [*model.parameters(), *(b for name, b in model.named_buffers() if "running" in name)]
    assert costs.file_size(keep) == 4 * sum(value.numel() for value in values)


def test_costs_of_layers_add_up_to_those_of_the_network():
    subject = ToySubject.of(randomised(ToyNet()).float())
    costs, graph = costs_of(subject.model, subject.graph, subject.example), subject.graph
    keep = np.ones(graph.unit_count, bool)
    widths = {name: (len(layer.inputs), len(layer.outputs)) for name, layer in graph.layers.items()}
    assert costs.macs(keep) == sum(costs.layer_macs(name, *pair) for name, pair in widths.items())
    norms = 2 * sum(len(layer.outputs) for layer in graph.layers.values() if layer.norm)
    weights = sum(costs.layer_parameters(name, *pair) for name, pair in widths.items())
    assert costs.parameters(keep) == weights + norms


def test_depthwise_layer_costs_one_kernel_a_channel():
    subject = ToySubject.of(randomised(ToyNet(width=8)).float())
    costs = costs_of(subject.model, subject.graph, subject.example)
    assert costs.layer_macs("depthwise.conv", 8, 8) == 8 * 9 * 12 * 12
    assert costs.layer_parameters("depthwise.conv", 5, 5) == 5 * 9


def test_frozen_parameters_count_and_statistics_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1))
    assert count_parameters(model) == 3 * 4 * 9 + 2 * 4 + (4 * 5 + 5)
    model[0].weight.requires_grad_(False)
    assert count_parameters(model) == 3 * 4 * 9 + 2 * 4 + (4 * 5 + 5)


def test_a_shared_parameter_counts_once() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert count_parameters(nn.Sequential(first, second)) == 16


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), 8 * 5 * 4 * 3 * 9),
        (nn.Conv2d(3, 6, (3, 1), groups=3), 6 * 8 * 7 * 1 * 3),
        (nn.Conv2d(3, 8, 3, dilation=2), 8 * 6 * 3 * 3 * 9),
        (nn.ConvTranspose2d(3, 2, 2, stride=2), 10 * 7 * 3 * 2 * 4),
        (nn.Linear(7, 5), 3 * 10 * 7 * 5),
        (nn.BatchNorm2d(3), 0),
    ],
    ids=["strided", "grouped", "dilated", "transposed", "linear", "norm"],
)
def test_macs_of_one_layer_on_a_10_by_7_image(layer: nn.Module, expected: int) -> None:
    assert count_macs(layer, (10, 7)) == expected


class Reusing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(self.norm(self.conv(self.conv(images))))


def test_a_layer_that_runs_twice_costs_twice() -> None:
    assert count_macs(Reusing(), (2, 2)) == 2 * 4 * 9


def test_counting_leaves_the_model_as_it_was() -> None:
    model = Reusing().train()
    model.norm.eval()
    model.double()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, (4, 4))
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_modes_and_hooks_come_back_after_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(4, 2, 1)).train()
    with pytest.raises(RuntimeError, match="channels"):
        count_macs(model, (4, 4), channels=3)
    assert model.training
    assert not model[0]._forward_hooks
