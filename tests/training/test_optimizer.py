"""Weight decay acts on convolution weights alone, and the rate scales with the batch."""

import pytest
import torch
from torch import nn

from utils.training.optimizer import make_optimizer, scaled_rate, set_rate


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_zero_gradients_shrink_only_convolution_weights(kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    make_optimizer(model, kind, rate=0.1, momentum=0.9, decay=0.5).step()
    assert bool((model[0].weight < 1).all())
    for parameter in (model[0].bias, model[1].weight, model[1].bias):
        assert bool((parameter == 1).all())


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1))
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model, "sgd", 0.1, 0.9, 0.0)
    set_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_four_times_the_batch_doubles_adamw_and_quadruples_sgd() -> None:
    for kind, ratio in (("adamw", 2), ("sgd", 4)):
        assert scaled_rate(0.1, kind, 64) / scaled_rate(0.1, kind, 16) == pytest.approx(ratio)
