"""Answers stand in for layers, and the network is given back as it was."""

import pytest
import torch

from tests.pruning.toy import ToyNet, ToySubject, randomised
from utils.pruning.layers import answering, layer_cells


def failing(*_):
    raise KeyError


@pytest.mark.parametrize("raises", [True, False])
def test_modes_and_layers_are_given_back(raises):
    subject = ToySubject.of(randomised(ToyNet()).float())
    model = subject.model.train()
    model.stem.eval()  # a mixture, as a frozen stem is
    modes = {name: module.training for name, module in model.named_modules()}
    with torch.no_grad():
        model.eval()
        before = model(subject.example)
    for name, module in model.named_modules():
        module.training = modes[name]
    if raises:
        with pytest.raises(KeyError), answering(model, subject.graph, failing):
            model(subject.example)
    else:
        layer_cells(model, subject.graph, subject.example)
    assert {name: module.training for name, module in model.named_modules()} == modes
    with torch.no_grad():
        assert torch.equal(model.eval()(subject.example), before)
