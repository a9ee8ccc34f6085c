"""Optimizers with the weight decay where it belongs: on convolution weights only.

Decaying gammas would fight the sparsity penalty, decaying biases gains nothing (Darknet decays neither).
"""

from typing import Literal

import torch
from torch import nn

OptimizerKind = Literal["sgd", "adamw"]


def make_optimizer(
    model: nn.Module, kind: OptimizerKind, rate: float, momentum: float, decay: float
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW over the parameters that need a gradient.

    Args:
        model: the network.
        kind: "sgd" or "adamw".
        rate: learning rate before any schedule.
        momentum: SGD's momentum, AdamW's beta1.
        decay: weight decay of convolution and linear weights; AdamW's is decoupled (arXiv 1711.05101).
    """
    learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in learnable if parameter.ndim > 1], "weight_decay": decay},
        {"params": [parameter for parameter in learnable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    # one kernel for all tensors: a detector has hundreds of tiny ones
    fused = {parameter.device.type for parameter in learnable} <= {"cpu", "cuda"}
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(momentum, 0.999), fused=fused)
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=fused)
    for parameter in learnable if momentum else ():
        # The fused step takes all momenta or none, and a frozen parameter may join in late.
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the learning rate `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def scaled_rate(rate: float, kind: OptimizerKind, batch: int) -> float:
    """The learning rate for an effective batch when `rate` is meant for NOMINAL_BATCH images.

    Linear for SGD (arXiv 1706.02677), by the square root for AdamW, whose steps do not shrink with the
    gradient's noise (arXiv 2205.10287).

    >>> scaled_rate(0.01, "sgd", 32), scaled_rate(0.001, "adamw", 16)
    (0.005, 0.0005)
    """
    share = batch / NOMINAL_BATCH
    return rate * (share if kind == "sgd" else share**0.5)


NOMINAL_BATCH = 64
