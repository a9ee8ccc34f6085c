"""Costs of a mask are those of the network narrowed by it, built and counted."""

import numpy as np
import pytest

from tests.pruning.toy import ToyNet, ToySubject, randomised
from utils.profiling import count_macs, count_parameters
from utils.pruning.costs import costs_of


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
