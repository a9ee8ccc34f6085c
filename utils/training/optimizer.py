"""Optimizer, learning rate, the parameters that are frozen, and the average of the weights.

Weight decay acts on convolution weights only: decaying gammas would fight the sparsity penalty, decaying
biases gains nothing (Darknet decays neither). The learning rate is a function of the step, so there is
nothing to store but the step. Invariant: `Schedule.factor` is in 0..1, so no rate exceeds the one asked for.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from ..darknet.model import Darknet
from ..darknet.network import NEVER, learns_from
from ..errors import ToolkitError

Model = TypeVar("Model", bound=nn.Module)

logger = logging.getLogger(__name__)


class Freezing:
    """The frozen parameters of a network; those that never learn lose `requires_grad` at once."""

    def __init__(self, model: Darknet, first: int = 0) -> None:
        """Read the network's cfg, see `darknet.freezing`.

        Args:
            model: the network.
            first: number of sections at its start to freeze, as if `stopbackward=1` followed them.

        Raises:
            ToolkitError: all parameters are frozen.
        """
        self._waiting: list[tuple[int, nn.Parameter]] = []
        # Darknet updates the statistics of sections behind stopbackward; only --freeze stops that
        self._still = [
            module
            for layer in model.layers[:first]
            for module in layer.modules()
            if isinstance(module, nn.BatchNorm2d)
        ]
        starts = tuple(
            NEVER if index < first else start for index, start in enumerate(learns_from(model.network))
        )
        for layer, start in zip(model.layers, starts, strict=True):
            for parameter in layer.parameters() if start else ():
                self._waiting.append((start, parameter))
                if start == NEVER:
                    parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            fact = "all sections are frozen by --freeze, stopbackward or the like"
            raise ToolkitError(model.network.source, fact, "leave the option out")
        for start, count in sorted(Counter(starts).items()):
            if start:
                until = "frozen" if start == NEVER else f"frozen up to step {start}"
                logger.info("%s: %d of %d sections are %s", model.network.source, count, len(starts), until)

    def hold(self) -> None:
        """Freeze the batch-norm statistics of the first sections; call it after each `model.train()`."""
        for norm in self._still:
            norm.eval()

    def drop_gradients(self, step: int) -> None:
        """Remove the gradients of all parameters that are frozen at `step`, counted from 0."""
        for start, parameter in self._waiting:
            if step < start:
                parameter.grad = None


OptimizerKind = Literal["sgd", "adamw"]
ScheduleKind = Literal["cosine", "steps", "sgdr", "constant"]
SCHEDULES: tuple[ScheduleKind, ...] = get_args(ScheduleKind)
# batch that learning rates are given for
NOMINAL_BATCH = 64
# of a step; the cycles are whole steps or nearly so
ROUNDING = 1e-6


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
        shares: parameters with their own factor on `rate`, such as the gammas of sparse training.
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
        # The fused step needs all momenta or none, and a frozen parameter may start to learn later.
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    set_rate(optimizer, rate)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group to `rate` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


def step_size(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensor | float:
    """Distance that a constant gradient of 1 would have moved `parameter` in the last step.

    A penalty of weight s that moves it by s times this is as strong as one that is added to the gradient: for
    AdamW that is rate / (sqrt(v) + eps) with the corrected second moment v of the loss's gradient alone (a
    proximal step in Adam's metric, arXiv 2007.07484), for SGD rate / (1 - momentum), the limit for a constant
    gradient.

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
    """Learning rate for an effective batch, from the `rate` for NOMINAL_BATCH images.

    Linear for SGD (arXiv 1706.02677), by the square root for AdamW, whose steps do not shrink with the
    gradient's noise (arXiv 2205.10287).

    >>> scaled_rate(0.01, "sgd", 32), scaled_rate(0.001, "adamw", 16)
    (0.005, 0.0005)
    """
    share = batch / NOMINAL_BATCH
    return rate * (share if kind == "sgd" else share**0.5)


@dataclass(frozen=True)
class Schedule:
    """Factor on the learning rate by step: a warm-up, then one of four schedules.

    Attributes:
        steps: optimizer steps of the whole training.
        warmup: steps of the warm-up, at most all; the factor grows there as (done / warmup) ** `power`
            (get_current_rate, network.c, where the power is 4).
        kind: "cosine" down to `final`; "steps": times `scales[k]` after the fraction `at[k]` of the training;
            "sgdr": cosines with warm restarts (arXiv 1608.03983), the first one the fraction `cycle` of the
            training long, each next one `growth` times the one before; "constant".
        final: factor at the end of a cosine.
    """

    steps: int
    warmup: int
    kind: ScheduleKind = "cosine"
    final: float = 0.01
    power: float = 1.0
    at: tuple[float, ...] = (0.8, 0.9)
    scales: tuple[float, ...] = (0.1, 0.1)
    cycle: float = 1.0
    growth: float = 2.0

    def __post_init__(self) -> None:
        if self.cycle <= 0 or self.growth < 1:
            raise ValueError(
                f"cycle={self.cycle}, growth={self.growth}: cycles must have a length and not shrink"
            )

    def factor(self, step: int) -> float:
        """Factor on the learning rate at `step` (0-based).

        >>> schedule = Schedule(steps=100, warmup=10, kind="steps")
        >>> [round(schedule.factor(step), 3) for step in (0, 4, 9, 79, 80, 90)]
        [0.1, 0.5, 1.0, 1.0, 0.1, 0.01]
        """
        if step < self.warmup:
            return float(((step + 1) / self.warmup) ** self.power)
        if self.kind == "constant":
            return 1.0
        if self.kind == "steps":
            reached = zip(self.at, self.scales, strict=True)
            return math.prod((scale for share, scale in reached if step >= share * self.steps), start=1.0)
        total = max(self.steps - self.warmup, 1)
        done = min(step - self.warmup, total)
        share = self._done_of_cycle(done, total) if self.kind == "sgdr" else done / total
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2

    def _done_of_cycle(self, done: int, total: int) -> float:
        start, length = 0.0, self.cycle * total
        while start + length <= done + ROUNDING and done < total:
            start, length = start + length, length * self.growth
        return min(max(done - start, 0.0) / length, 1.0)


class WeightAverage(Generic[Model]):
    """Exponential moving average of all floating parameters and buffers over about the last `length` steps.

    It evaluates better than the last weights themselves. The decay grows to its final value, 1 - 1 / length,
    as `1 - exp(-updates / length)`, so that early, bad weights are forgotten soon. Invariant: after one
    update the average is the model's own state, whatever it held before; otherwise the evaluated network
    would lag behind at the start of a training.
    """

    def __init__(self, model: Model, length: float) -> None:
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.length = max(length, 1.0)
        self.updates = 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Move the average towards `model`, which has the same structure."""
        keep = (1 - 1 / self.length) * (1 - math.exp(-self.updates / self.length))
        self.updates += 1
        state = dict(_parameters_and_buffers(model))
        for name, average in _parameters_and_buffers(self.model):
            if average.is_floating_point():
                average.lerp_(state[name].to(average.dtype), 1 - keep)
            else:
                average.copy_(state[name])


def _parameters_and_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers; those that modules share appear once."""
    yield from model.named_parameters()
    yield from model.named_buffers()
