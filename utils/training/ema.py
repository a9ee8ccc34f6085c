"""An average of the weights over the last steps, which evaluates better than the last weights themselves.

Invariant: after one update the average is the model's own state, whatever it held before; without an
average the evaluated network would lag behind at the start of a training.
"""

import copy
import math
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class WeightAverage(Generic[Model]):
    """Exponential moving average of all floating parameters and buffers over about the last `length` steps.

    The decay grows to its final value, 1 - 1 / length, as `1 - exp(-updates / length)`, so that early, bad
    weights are forgotten soon.
    """

    def __init__(self, model: Model, length: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.length = max(length, 1.0)
        self.updates = 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Move the average towards `model`, which has the same structure."""
        keep = (1 - 1 / self.length) * (1 - math.exp(-self.updates / self.length))
        self.updates += 1
        state = dict(_tensors(model))
        for name, average in _tensors(self.model):
            if average.is_floating_point():
                average.lerp_(state[name].to(average.dtype), 1 - keep)
            else:
                average.copy_(state[name])


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers; one that several modules share comes once."""
    yield from model.named_parameters()
    yield from model.named_buffers()
