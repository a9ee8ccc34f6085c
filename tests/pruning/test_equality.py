"""Outputs in float64, and how far apart two lists of them are."""

import copy

import pytest
import torch
from torch import nn

from tests.pruning.toy import ToyNet, randomised
from utils.pruning.equality import outputs_in_float64, relative_difference


def test_outputs_are_those_of_the_network_converted():
    model = randomised(ToyNet(size=3)).float().train()
    images = torch.rand(2, 3, 12, 12)
    with torch.no_grad():
        expected = copy.deepcopy(model).double().eval()(images.double())
    (output,) = outputs_in_float64(model, images)
    assert output.dtype == torch.float64
    assert torch.equal(output, expected)


class Several(nn.Module):
    def forward(self, x):
        return {"matte": x, "others": [None, (x + 1, 3)]}


def test_tensors_are_found_in_lists_and_dicts_and_nothing_else_is():
    outputs = outputs_in_float64(Several(), torch.zeros(1))
    assert [output.item() for output in outputs] == [0, 1]


def test_network_is_left_as_it_is_even_by_an_error():
    class Failing(nn.Module):
        def forward(self, x):
            raise KeyError

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Failing()).train()
    model[1].eval()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with pytest.raises(KeyError):
        outputs_in_float64(model, torch.rand(1, 3, 4, 4))
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(after[name] is tensor for name, tensor in tensors.items())
    assert [module.training for module in model] == [True, False, True]


def test_module_used_twice_and_shared_parameters_are_converted_once():
    layer, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.weight = layer.weight
    model = nn.Sequential(layer, nn.Tanh(), layer, other)
    x = torch.rand(2, 3)
    (output,) = outputs_in_float64(model, x)
    with torch.no_grad():
        assert torch.equal(output, copy.deepcopy(model).double()(x.double()))
    assert layer.weight is other.weight
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("actual", "expected", "difference"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], 0.0),
        ([[1.0, 2.5]], [[1.0, 2.0]], 0.25),  # relative to the largest expected
        ([[0.1]], [[0.2]], 0.1),  # but to 1 at least
        ([[1.0], [9.0]], [[1.0], [8.0]], 1 / 8),
        ([[1.0], [8.0]], [[2.0], [8.0]], 1 / 8),  # one scale for all outputs
        ([[1.0, 2.0]], [[1.0]], float("inf")),
        ([[1.0]], [[1.0], [2.0]], float("inf")),
        ([], [], 0.0),
    ],
)
def test_difference_is_the_largest_over_the_largest(actual, expected, difference):
    found = relative_difference([torch.tensor(a) for a in actual], [torch.tensor(e) for e in expected])
    assert found == pytest.approx(difference, abs=1e-7)


@pytest.mark.parametrize("pair", [(float("nan"), 1.0), (1.0, float("nan")), (float("nan"), float("nan"))])
def test_a_value_that_is_no_number_passes_no_comparison(pair):
    fine, bad = torch.tensor([0.0]), [torch.tensor([value]) for value in pair]
    assert not relative_difference([fine, bad[0]], [fine, bad[1]]) <= 1e9


def test_infinite_values_pass_no_comparison():
    infinite = torch.tensor([float("inf")])
    assert not relative_difference([infinite], [torch.tensor([1.0])]) <= 1e9
    assert not relative_difference([torch.tensor([1.0])], [infinite]) <= 1e9


class Holds(nn.Module):
    """Reads tensors of a container that is never called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.full((2,), 0.1))])

    def forward(self, images):
        assert self.scales[0].dtype == images.dtype
        return images @ self.scales[0]


def test_tensors_of_containers_are_in_float64_too():
    model = Holds()
    (output,) = outputs_in_float64(model, torch.ones(1, 2))
    assert output.dtype == torch.float64
    assert model.scales[0].dtype == torch.float32


def test_hooks_that_compute_weights_read_them_in_float64():
    model = torch.nn.utils.spectral_norm(nn.Linear(3, 2)).eval()
    (output,) = outputs_in_float64(model, torch.rand(1, 3))
    assert output.dtype == torch.float64
    assert model(torch.rand(1, 3)).dtype == torch.float32
