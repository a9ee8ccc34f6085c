"""Answers stand in for layers, and the network is given back as it was."""

import pytest
import torch
from torch import nn

from tests.pruning.toy import ToyNet, ToySubject, randomised
from utils.pruning.layers import answering, layer_cells, shared_copy


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


class _Knot(nn.Module):
    """Holds its parts in lists, dicts and tuples too, itself among them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.parts = [self.layer, (self.layer, 3)]
        self.table = {"self": self, "text": "a", "layer": self.layer}
        self.hook = self.layer.forward


class _Own(nn.Linear):
    """Says itself how it is copied."""

    def __deepcopy__(self, memo: dict[int, object]) -> "_Own":
        copied = _Own(2, 2)
        copied.is_own = True  # type: ignore[assignment]
        return copied


def test_a_shared_copy_keeps_what_a_module_holds_together() -> None:
    knot = nn.Sequential(_Knot(), _Own(2, 2), nn.LSTM(2, 2), nn.MultiheadAttention(4, 2))
    copied = shared_copy(knot)
    own = copied[0]
    assert own is not knot[0]
    assert own.layer is not knot[0].layer
    assert own.parts[0] is own.parts[1][0] is own.table["layer"] is own.layer
    assert own.table["self"] is own
    assert own.hook.__self__ is own.layer
    assert copied[1].is_own
    assert copied[2](torch.zeros(1, 2))[0].shape == (1, 2)
    assert [name for name, _ in copied.named_parameters()] == [name for name, _ in knot.named_parameters()]
