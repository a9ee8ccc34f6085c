"""Sparse training: what drives batch-norm gammas to zero so that their channels can go.

Three sparsifiers act on the same candidates, the gammas that pruning will judge:

    l1         s * sign(gamma) joins the gradient (Network Slimming, Liu et al. 2017)
    proximal   after the step, gamma moves s * step size towards zero and stops there (soft threshold,
               Parikh and Boyd 2014, section 6.5.2), so that zeros are true zeros
    polarized  s * (t * sum |gamma| - sum ||gamma| - mean|) joins the gradient: it pushes small gammas to zero
               and leaves large ones nearly alone (Zhuang et al., NeurIPS 2020)

Invariant: the penalty acts exactly once per optimizer step, after unscaling and clipping (which must not
weaken it), whatever the accumulation, the precision or the number of processes; a gamma without a gradient
is frozen and stays as it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .penalty_schedule import AutoStrength, SparsitySchedule

Sparsifier = Literal["l1", "proximal", "polarized"]
SPARSIFIERS: tuple[Sparsifier, ...] = get_args(Sparsifier)
# t of the polarization regulariser: a little over 1, so that large gammas are pulled down a little
POLARIZATION = 1.2
# step size of each entry of a parameter in the optimizer's last step
StepSizes = Callable[[nn.Parameter], Tensor | float]


@dataclass
class GammaPenalty:
    """A sparsity penalty on batch-norm gammas.

    Attributes:
        norms: name -> batch norm, the candidates of the strategy that will prune.
        s: weight of the penalty, before the schedule's factors; `auto` changes it.
        channels: name -> (channels,) which gammas count; all where a name is missing.
        sparsifier: how the gammas are driven down, see above.
        schedule: factors on s over the epochs and over the gammas.
        auto: what chooses s from epoch to epoch; None to leave it alone.
    """

    norms: Mapping[str, nn.BatchNorm2d]
    s: float
    channels: Mapping[str, NDArray[np.bool_]] | None = None
    sparsifier: Sparsifier = "l1"
    schedule: SparsitySchedule = field(default_factory=SparsitySchedule)
    auto: AutoStrength | None = None
    _weights: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def start_epoch(self, progress: float) -> None:
        """Set s and each gamma's share of it for the epoch that begins.

        Args:
            progress: share of all epochs that is done, 0..1.
        """
        sizes = self.gammas()
        if self.auto is not None:
            self.s = self.auto.next(self.s, sizes, progress)
        factors = iter(torch.split(self.schedule.factors(sizes, progress), self._counts()))
        self._weights = {}
        for name, norm in self.norms.items():
            counted = self._counted(name, norm.weight)
            weights = torch.zeros_like(norm.weight)
            weights[counted] = self.s * next(factors).to(weights)
            self._weights[name] = weights

    def add_to_gradients(self) -> None:
        """Add the penalty's gradient to that of every candidate (subgradient 0 at 0).

        Call it exactly once per optimizer step, when gradients are complete and unscaled.
        """
        if self.sparsifier == "proximal":
            return
        pull = self._polarization() if self.sparsifier == "polarized" else {}
        for name, norm in self.norms.items():
            gamma = norm.weight
            if gamma.grad is not None:
                direction = gamma.detach().sign() * pull.get(name, 1.0)
                gamma.grad.add_(direction * self._weight(name, gamma))

    def shrink(self, step_sizes: StepSizes) -> None:
        """Move the candidates towards zero by their share of s, none across it; for "proximal" alone.

        Call it once after each optimizer step that was taken, while the gradients are still there.
        """
        if self.sparsifier != "proximal":
            return
        for name, norm in self.norms.items():
            gamma = norm.weight
            if gamma.grad is not None:
                reach = self._weight(name, gamma) * step_sizes(gamma)
                with torch.no_grad():
                    gamma.copy_(gamma.sign() * (gamma.abs() - reach).clamp(min=0))

    @torch.no_grad()
    def copy_zeros(self, others: Mapping[str, Tensor]) -> None:
        """Make zeros of "proximal" zeros of an average, too, which alone would only come near them.

        Args:
            others: name -> (channels,) gammas of the average; changed in place.
        """
        if self.sparsifier == "proximal":
            for name, norm in self.norms.items():
                others[name].masked_fill_((norm.weight == 0).to(others[name].device), 0)

    def gammas(self, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """(candidate channels,) |gamma| of all candidates, on the CPU.

        Args:
            parameters: name -> gammas to look at instead of the norms' own, such as those of an average.
        """
        values = [torch.empty(0)]
        for name, norm in self.norms.items():
            gamma = (norm.weight if parameters is None else parameters[name]).detach()
            values.append(gamma.abs()[self._counted(name, gamma)].float().cpu())
        return torch.cat(values)

    def state_dict(self) -> dict[str, Any]:
        """What the rest of this epoch and the next one's s depend on besides the gammas."""
        weights = {name: weight.detach().cpu() for name, weight in self._weights.items()}
        memory = {"last": self.auto.last, "most": self.auto.most} if self.auto else {}
        return {"s": self.s, "weights": weights, **memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.s, self._weights = state["s"], dict(state["weights"])
        if self.auto is not None:
            self.auto.last, self.auto.most = state["last"], state["most"]

    def _polarization(self) -> dict[str, Tensor]:
        """The derivative of t * sum a - sum |a - mean a| by each a = |gamma|, but never below 0.

        The paper bounds the gammas. Without a bound, where more than half of them are below the mean, the
        large ones are driven up, and under AdamW a small push goes as far as a large one: on BCCD they grew
        threefold.
        """
        sizes = self.gammas()
        mean = sizes.mean()
        shared = (sizes - mean).sign().mean()  # each a moves the mean, too
        return {
            name: (
                POLARIZATION - (norm.weight.detach().abs() - mean.to(norm.weight)).sign() + shared.item()
            ).clamp(min=0)
            for name, norm in self.norms.items()
        }

    def _weight(self, name: str, gamma: Tensor) -> Tensor:
        if not self._weights:
            self.start_epoch(0.0)
        return self._weights[name].to(gamma)

    def _counted(self, name: str, gamma: Tensor) -> Tensor:
        mask = None if self.channels is None else self.channels.get(name)
        if mask is None:
            return torch.ones_like(gamma, dtype=torch.bool)
        return torch.from_numpy(mask).to(gamma.device)

    def _counts(self) -> list[int]:
        return [int(self._counted(name, norm.weight).sum()) for name, norm in self.norms.items()]
