"""A selection in front of a norm: pruned for its block alone, by that norm's gammas."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slim import ChannelSelection, slim


class Sum(nn.Module):
    """A stem, and two blocks added to it that each select what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        for number in (1, 2):
            self.add_module(f"select{number}", ChannelSelection(8))
            self.add_module(f"norm{number}", nn.BatchNorm2d(8))
            self.add_module(f"conv{number}", nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv1(F.relu(self.norm1(self.select1(x))))
        x = x + self.conv2(F.relu(self.norm2(self.select2(x))))
        return self.head(x.mean((2, 3)))


def network() -> Sum:
    torch.manual_seed(0)
    model = Sum().eval()
    model.norm1.weight.data = torch.tensor([0.1, 5, 0.2, 6, 0.3, 7, 0.4, 8])
    model.norm2.weight.data = torch.tensor([5, 0.1, 6, 0.2, 7, 0.3, 8, 0.4])
    for norm in (model.norm1, model.norm2):
        norm.bias.data.normal_()
    return model


EXAMPLE = torch.rand(1, 3, 8, 8)


def test_each_block_keeps_the_inputs_of_the_largest_gammas():
    result = slim(network(), EXAMPLE, 0.5, score="gamma", align=1)
    model = result.model
    assert model.select1.index.tolist() == [1, 3, 5, 7]
    assert model.select2.index.tolist() == [0, 2, 4, 6]
    assert model.norm1.weight.tolist() == [5, 6, 7, 8]
    assert model.conv1.weight.shape == (8, 4, 3, 3)
    assert result.report.difference <= 1e-12


def test_the_sum_that_is_selected_from_stays():
    report = slim(network(), EXAMPLE, 0.5, score="random", align=1).report
    widths = {layer.name: layer.after for layer in report.layers}
    assert [widths[name] for name in ("stem", "conv1", "conv2")] == [8, 8, 8]
    assert widths["select1"] == widths["select2"] == 4
    assert any(
        "ChannelSelection select1 (index_select) selects by number" in reason for reason in report.pins
    )


def test_a_score_of_weights_leaves_selections_whole():
    assert slim(network(), EXAMPLE, 0.5, score="l1", align=1).model.select1.index.tolist() == list(range(8))


def test_a_selection_costs_nothing():
    result = slim(network(), EXAMPLE, 0.5, score="gamma", align=1)
    cells = 8 * 8
    assert result.report.macs == tuple(cells * 9 * (8 * 3 + 2 * 8 * width) + 2 * 8 for width in (8, 4))
    assert result.report.parameters[1] == sum(each.numel() for each in result.model.parameters())
