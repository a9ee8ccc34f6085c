import numpy as np
import torch
from torch import nn

from utils.pruning.sparsity import GammaPenalty


def norm(*gammas: float) -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(len(gammas))
    module.weight = nn.Parameter(torch.tensor(gammas))
    module.weight.grad = torch.zeros(len(gammas))
    return module


def test_penalty_adds_s_times_sign_to_candidates_only():
    candidate, other = norm(0.5, -2.0, 0.0), norm(1.0)
    GammaPenalty({"candidate": candidate}, 0.25).add_to_gradients()
    assert candidate.weight.grad.tolist() == [0.25, -0.25, 0.0]
    assert other.weight.grad.tolist() == [0.0]


def test_penalty_counts_only_the_channels_that_pruning_may_remove():
    partly = norm(1.0, 1.0)
    penalty = GammaPenalty({"partly": partly}, 0.5, {"partly": np.array([True, False])})
    penalty.add_to_gradients()
    assert partly.weight.grad.tolist() == [0.5, 0.0]
    assert penalty.gammas().tolist() == [1.0]


def test_a_step_moves_gamma_by_lr_times_s_and_a_useless_one_to_zero():
    module = norm(0.3)
    penalty = GammaPenalty({"norm": module}, 0.1)
    optimizer = torch.optim.SGD([module.weight], lr=0.5)
    for step in range(6):
        optimizer.zero_grad(set_to_none=False)
        penalty.add_to_gradients()
        optimizer.step()
        assert np.isclose(module.weight.item(), 0.3 - 0.05 * (step + 1), atol=1e-6)
