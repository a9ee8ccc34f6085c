import pytest
import torch

from tests.darknet.references import random_images, randomised
from utils.darknet.model import Darknet, fused


@pytest.mark.parametrize("name", ["residual", "depthwise", "groups", "dilation"])
def test_fused_network_computes_the_same_without_batch_norms(root, name):
    model = randomised(Darknet.from_cfg(root / f"tests/cfgs/{name}.cfg")).double()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    deployed = fused(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in deployed.modules())
    images = random_images(model).double()
    with torch.no_grad():
        for ours, theirs in zip(deployed(images), model(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
