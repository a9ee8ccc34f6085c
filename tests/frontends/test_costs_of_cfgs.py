"""Costs by mask on cfgs: equal to what the narrowed description says of itself, and to the built network."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.zoo_cases import cfgs
from utils.darknet.costs import section_costs
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.errors import CfgError
from utils.frontends.darknet.subject import DarknetSubject, narrowed_network, usable_size
from utils.profiling import count_macs, count_parameters
from utils.pruning.costs import costs_of

FEATURES = sorted((Path(__file__).parents[1] / "cfgs").glob("*.cfg"))
STOCK = cfgs()


def assert_costs(path: Path, build: bool) -> None:
    try:
        network = Network.from_cfg(path)
    except CfgError as error:
        pytest.skip(str(error))
    subject = DarknetSubject.of(Darknet(network, initialise=False).eval())
    size = usable_size(network, 2 * network.size_step)
    costs = costs_of(subject.model, subject.graph, torch.zeros(1, network.channels(-1), *size))
    rng, graph = np.random.default_rng(0), subject.graph
    for share in (1.1, 0.5, 0.1):
        keep = graph.legal(rng.random(graph.unit_count) < share, rng.random(graph.unit_count))
        narrow = narrowed_network(network, graph, keep)
        expected = section_costs(narrow, size)
        assert costs.parameters(keep) == sum(cost.parameters for cost in expected)
        assert costs.macs(keep) == sum(cost.macs for cost in expected)
        assert costs.file_size(keep) == 4 * sum(narrow.weight_counts)
        if build:
            model = Darknet(narrow).eval()
            assert costs.parameters(keep) == count_parameters(model)
            assert costs.macs(keep) == count_macs(model, size, network.channels(-1))


@pytest.mark.parametrize("path", FEATURES, ids=lambda path: path.stem)
def test_feature_costs_what_the_built_network_does(path):
    assert_costs(path, build=True)


@pytest.mark.parametrize("name", STOCK)
def test_stock_cfg_costs_what_its_narrowed_description_says(name):
    assert_costs(STOCK[name], build=False)
