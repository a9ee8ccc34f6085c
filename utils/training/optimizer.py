"""Optimizers with the weight decay where it belongs: on convolution weights only.

Decaying gammas would fight the sparsity penalty, decaying biases gains nothing (Darknet decays neither).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

OptimizerKind = Literal["sgd", "adamw"]


def make_optimizer(
    model: nn.Module,
    kind: OptimizerKind,
    rate: float,
    momentum: float,
    decay: float,
    shares: Sequence[tuple[nn.Parameter, float]] = (),
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW over the parameters that need a gradient.

    Args:
        model: the network.
        kind: "sgd" or "adamw".
        rate: learning rate before any schedule.
        momentum: SGD's momentum, AdamW's beta1.
        decay: weight decay of convolution and linear weights; AdamW's is decoupled (arXiv 1711.05101).
        shares: parameters with a rate of their own, such as the gammas of sparse training, and that rate as
            a factor on `rate`.
    """
    chosen = {id(parameter) for parameter, _ in shares}
    learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    slow = [parameter for parameter in learnable if id(parameter) not in chosen]
    matrices = [parameter for parameter in slow if parameter.ndim > 1]
    vectors = [parameter for parameter in slow if parameter.ndim <= 1]
    fast = [(parameter, share) for parameter, share in shares if parameter.requires_grad]
    groups = [
        {"params": matrices, "weight_decay": decay, "share": 1.0},
        {"params": vectors, "weight_decay": 0.0, "share": 1.0},
        *({"params": [parameter], "weight_decay": 0.0, "share": share} for parameter, share in fast),
    ]
    # one kernel for all tensors: a detector has hundreds of tiny ones
    fused = {parameter.device.type for parameter in learnable} <= {"cpu", "cuda"}
    optimizer: torch.optim.Optimizer
    if kind == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=rate, betas=(momentum, 0.999), fused=fused)
    else:
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=fused)
    for parameter in learnable if kind == "sgd" and momentum else ():
        # The fused step takes all momenta or none, and a frozen parameter may join in late.
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    set_rate(optimizer, rate)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group its share of the learning rate `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


def step_size(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensor | float:
    """How far a constant gradient of 1 would have moved `parameter` in the step just taken.

    A penalty of weight s that moves it by s times this is as strong as one whose gradient had joined in: for
    AdamW that is rate / (sqrt(v) + eps) with the corrected second moment v of the loss's gradient alone (a
    proximal step in Adam's own metric, arXiv 2007.07484), for SGD rate / (1 - momentum), what momentum makes
    of a constant gradient.

    Returns:
        A number, or a tensor of the parameter's shape.
    """
    group = next(
        group
        for group in optimizer.param_groups
        if any(parameter is candidate for candidate in group["params"])
    )
    if isinstance(optimizer, torch.optim.SGD):
        return float(group["lr"]) / (1 - float(group["momentum"]))
    state = optimizer.state[parameter]
    corrected = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
    size: Tensor = group["lr"] / (corrected.sqrt() + group["eps"])
    return size


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
