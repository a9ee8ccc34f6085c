"""The average's first value, its limit and its independence of the model."""

import torch
from torch import nn

from utils.training.optimizer import WeightAverage


def network(value: float) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(value)
    return model


def test_the_first_update_takes_the_model_as_it_is() -> None:
    average = WeightAverage(network(5.0), length=10)
    average.update(network(2.0))
    assert all(bool((tensor == 2).all()) for tensor in average.model.state_dict().values())


def test_the_average_moves_monotonically_to_a_constant_model() -> None:
    average = WeightAverage(network(0.0), length=10)
    average.update(network(0.0))
    seen = []
    for _ in range(120):
        average.update(network(1.0))
        seen.append(average.model[0].weight.item())
    assert seen == sorted(seen)
    assert seen[0] < 1
    assert abs(seen[-1] - 1) < 1e-4


def test_training_the_model_does_not_touch_the_average() -> None:
    model = network(1.0)
    average = WeightAverage(model, length=10)
    with torch.no_grad():
        model[0].weight.fill_(9.0)
    assert average.model[0].weight.item() == 1.0
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
