"""The cfg says which channels belong together, and the code that runs it does, too: they must agree."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sampling import some
from utils.darknet.model import Darknet
from utils.darknet.network import Network
from utils.errors import UnsupportedSectionError
from utils.frontends.darknet.subject import DarknetSubject
from utils.frontends.module.subject import ModuleSubject
from utils.pruning.channels import ChannelGraph

ROOT = Path(__file__).resolve().parents[2]
CFGS = sorted([*ROOT.glob("cfg/*.cfg"), *ROOT.glob("tests/cfgs/*.cfg")])
ZOO = sorted(ROOT.parent.glob("shared/zoo/*.cfg"))


def ids(graph: ChannelGraph, names: list[str]) -> np.ndarray:
    return np.concatenate([np.concatenate((graph.layers[n].inputs, graph.layers[n].outputs)) for n in names])


@pytest.mark.parametrize("path", [*CFGS, *some(ZOO, 3)], ids=lambda path: path.stem)
def test_units_of_the_cfg_are_units_of_the_code(path):
    try:
        model = Darknet(Network.from_cfg(path), initialise=False).eval()
    except UnsupportedSectionError:
        pytest.skip("a section that is refused")
    cfg = DarknetSubject.of(model)
    # [reorg] reads rows of a map as channels: at the smallest size a run of channels fills a row by chance
    size = [side * (1 + ("reorg" in path.read_text())) for side in cfg.example.shape[2:]]
    code = ModuleSubject.of(model, torch.zeros(1, cfg.example.shape[1], *size)).graph
    assert set(cfg.graph.layers) == set(code.layers)
    names = list(cfg.graph.layers)
    one, other = ids(cfg.graph, names), ids(code, names)
    pairs = np.unique(np.stack((one, other)), axis=1)
    assert len(np.unique(one)) == len(np.unique(other)) == pairs.shape[1]
    # A run cannot tell that nothing reads a channel, nor that a single one may go.
    unseen = [unit for unit, why in code.pin_reasons.items() if "no layer reads" in why or "a single" in why]
    told = ~np.isin(pairs[1], unseen)
    assert np.array_equal(cfg.graph.pinned[pairs[0][told]], code.pinned[pairs[1][told]])
    assert np.array_equal(cfg.graph.coupled[pairs[0]], code.coupled[pairs[1]])
