"""The formulas against the network built and run."""

from pathlib import Path

import pytest

from utils.darknet.model import Darknet
from utils.darknet.network import Network, section_costs
from utils.pruning.costs import count_macs, count_parameters

CFGS = sorted(Path(__file__).parents[1].glob("cfgs/*.cfg"))


@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_sums_are_what_profiling_counts(path):
    network = Network.from_cfg(path)
    model = Darknet(network)
    costs = section_costs(network)
    assert sum(cost.parameters for cost in costs) == count_parameters(model)
    size = (network.height, network.width)
    assert sum(cost.macs for cost in costs) == count_macs(model, size, network.channels(-1))


def test_costs_stand_at_their_section(root):
    network = Network.from_cfg(root / "cfg/yolov3-tiny.cfg")
    costs = section_costs(network)
    assert costs[0].parameters == 3 * 16 * 9 + 2 * 16
    assert costs[1].parameters == costs[1].macs == 0  # the pool behind it


def test_macs_follow_the_image_size(root):
    network = Network.from_cfg(root / "cfg/yolov3-tiny.cfg")
    model = Darknet(network)
    costs = section_costs(network, (96, 64))
    assert sum(cost.macs for cost in costs) == count_macs(model, (96, 64))
    assert [cost.parameters for cost in costs] == [cost.parameters for cost in section_costs(network)]
