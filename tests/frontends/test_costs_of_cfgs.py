"""Three ways to count parameters and multiply-adds give one number; the network built and run is the oracle.

By running (`count_macs`, the oracle), by mask (`costs_of`) and from the text of the narrowed cfg
(`section_costs`). Large cfgs are not built; there the two quick ways are compared with each other.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.zoo_cases import cfgs
from utils.darknet.model import Darknet
from utils.darknet.network import Network, section_costs
from utils.errors import CfgError
from utils.frontends.darknet.subject import DarknetSubject, narrowed_network, usable_size
from utils.pruning.costs import costs_of, count_macs, count_parameters

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
        by_text = section_costs(narrow, size)
        parameters, macs = sum(cost.parameters for cost in by_text), sum(cost.macs for cost in by_text)
        if build:
            model = Darknet(narrow, initialise=False).eval()
            oracle = count_parameters(model), count_macs(model, size, network.channels(-1))
            assert (parameters, macs) == oracle
        assert (costs.parameters(keep), costs.macs(keep)) == (parameters, macs)
        assert costs.file_size(keep) == 4 * sum(narrow.weight_counts)


@pytest.mark.parametrize("path", FEATURES, ids=lambda path: path.stem)
def test_masks_and_text_count_what_the_network_built_and_run_does(path):
    assert_costs(path, build=True)


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4-tiny", "yolov3-shapes"])
def test_tracked_cfgs_count_what_the_network_built_and_run_does(root, name):
    assert_costs(root / f"cfg/{name}.cfg", build=True)


@pytest.mark.parametrize("name", STOCK)
def test_masks_count_what_the_text_of_a_stock_cfg_does(name):
    assert_costs(STOCK[name], build=False)
