import numpy as np
import pytest
import torch
from torch import nn

from utils.pruning.channels import ChannelTracer
from utils.pruning.narrow import narrow


class Pair(nn.Module):
    def __init__(self, groups: int, multiplier: int = 1):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 8 * multiplier, 3, padding=1, groups=groups, bias=False)
        self.scale = nn.Parameter(torch.rand(2, 8 * multiplier))
        self.slope = nn.PReLU(8 * multiplier)
        self.norm = nn.BatchNorm2d(8 * multiplier)

    def forward(self, x):
        x = self.slope(self.norm(self.second(self.first(x))))
        return x * self.scale[0].view(1, -1, 1, 1)


@pytest.mark.parametrize(("groups", "multiplier"), [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2)])
def test_narrowed_module_computes_the_kept_channels(groups, multiplier):
    torch.manual_seed(0)
    model = Pair(groups, multiplier).double().eval()
    tracer = ChannelTracer()
    first = tracer.layer("first", tracer.new(3), 8)
    second = tracer.layer("second", first, 8 * multiplier, groups, norm="norm")
    tracer.follow("scale", second, axis=1)
    tracer.follow("slope", second)
    graph = tracer.finish()
    keep = np.ones(graph.unit_count, bool)
    keep[graph.layers["first"].outputs[[1, 3, 5, 7] if groups != 4 else [0, 2, 4, 6]]] = False
    keep[graph.layers["second"].outputs[[0, 4]]] = False
    keep = graph.legal(keep, np.arange(graph.unit_count, dtype=float))
    small = narrow(model, graph, keep)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)

    def zeroed(module, inputs):
        return (inputs[0] * torch.from_numpy(keep[graph.layers["first"].outputs]).view(1, -1, 1, 1),)

    model.second.register_forward_pre_hook(zeroed)
    with torch.no_grad():
        expected = model(x)[:, torch.from_numpy(keep[graph.layers["second"].outputs])]
        assert torch.allclose(small(x), expected, atol=1e-14)
    assert small.norm.num_features == small.slope.num_parameters == expected.shape[1]
    assert small.second.groups == (small.second.in_channels if groups == 8 else groups)


def test_linear_layers_are_cut_too():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)).double()
    tracer = ChannelTracer()
    hidden = tracer.layer("0", tracer.new(4), 6)
    tracer.layer("1", hidden, 2)
    graph = tracer.finish()
    keep = np.ones(graph.unit_count, bool)
    keep[graph.layers["0"].outputs[:3]] = False
    small = narrow(model, graph, keep)
    x = torch.randn(3, 4, dtype=torch.float64)
    expected = nn.functional.linear(model[0](x)[:, 3:], model[1].weight[:, 3:], model[1].bias)
    assert torch.allclose(small(x), expected)
    assert (small[0].out_features, small[1].in_features) == (3, 3)
