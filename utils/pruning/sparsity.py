"""The sparsity penalty of Network Slimming: s times the sum of |gamma| of the candidates.

Its gradient, s * sign(gamma), is added to the gradients once per optimizer step, after unscaling and
clipping (which must not weaken it), whatever the accumulation, the precision or the number of processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass
class GammaPenalty:
    """L1 penalty on batch-norm gammas.

    Attributes:
        norms: name -> batch norm, the candidates of the strategy that will prune.
        s: weight of the penalty; a schedule may change it.
        channels: name -> (channels,) which gammas count; all where a name is missing.
    """

    norms: Mapping[str, nn.BatchNorm2d]
    s: float
    channels: Mapping[str, NDArray[np.bool_]] | None = None

    def add_to_gradients(self) -> None:
        """Add s * sign(gamma) to the gradient of every candidate (subgradient 0 at 0).

        Call it exactly once per optimizer step, when gradients are complete and unscaled.
        """
        for name, norm in self.norms.items():
            gamma = norm.weight
            if gamma.grad is not None:
                gamma.grad.add_(torch.sign(gamma.detach()) * self._counts(name, gamma), alpha=self.s)

    def gammas(self) -> Tensor:
        """(candidate channels,) |gamma| of all candidates, on the CPU."""
        values = [torch.empty(0)]
        for name, norm in self.norms.items():
            counted = self._counts(name, norm.weight) > 0
            values.append(norm.weight.detach().abs()[counted].float().cpu())
        return torch.cat(values)

    def _counts(self, name: str, gamma: Tensor) -> Tensor:
        mask = None if self.channels is None else self.channels.get(name)
        return torch.ones_like(gamma) if mask is None else torch.from_numpy(mask).to(gamma)
