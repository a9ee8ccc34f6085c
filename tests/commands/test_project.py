"""What commands open."""

import pytest
import torch

from utils.commands.inputs import open_files
from utils.darknet.checkpoint import save_weights
from utils.darknet.model import Darknet


@pytest.mark.parametrize("suffix", [".weights", ".pt"])
def test_a_network_that_gets_weights_is_not_initialised_first(suffix, root, tmp_path, monkeypatch):
    cfg, weights = root / "tests/cfgs/residual.cfg", tmp_path / f"a{suffix}"
    model = Darknet.from_cfg(cfg)
    save_weights(model, weights)

    def fail(_model):
        pytest.fail("random numbers that the weights replace")

    monkeypatch.setattr(Darknet, "initialise", fail)
    opened = open_files(cfg, weights).state_dict()
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(opened[name], tensor), name
