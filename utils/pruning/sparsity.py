"""Sparse training: the penalty that drives batch-norm gammas to zero, so that channels can be removed.

Three sparsifiers act on the same candidates, the gammas that pruning will score:

    l1         s * sign(gamma) is added to the gradient (Network Slimming, Liu et al. 2017)
    proximal   after the step, gamma moves s * step size towards zero and stops there (soft threshold,
               Parikh and Boyd 2014, section 6.5.2), so that zeros are exact
    polarized  the gradient of s * (t * sum |gamma| - sum ||gamma| - mean|) is added: it pushes small gammas
               to zero and hardly changes large ones (Zhuang et al., NeurIPS 2020)

The strength of the penalty is a function of the gammas and of the epoch, so that a resumed run equals an
unbroken one; the only memory is `AutoStrength.last` and `most`.

Invariant: the penalty acts exactly once per optimizer step, after unscaling and clipping (which must not
weaken it), whatever the accumulation, the precision or the number of processes; a gamma without a gradient
is frozen and does not change.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import PruningError
from .channels import UnitMask
from .scores import gamma_scores, unit_scores
from .subject import ChannelPlan, LayerScores, Policy, Subject
from .surgery import mask_gammas

# change of the outputs, relative to their variation between images, that is ignored
TOLERANCE = 0.01
# halvings of the interval: shares are found to 1 / 2^STEPS
STEPS = 6


def free_share(
    subject: Subject,
    policy: Callable[[float], Policy],
    images: Tensor,
    scores: LayerScores | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """The largest share of the candidates that can be masked without changing the outputs.

    Args:
        subject: the network.
        policy: from a pruning ratio to the policy that will prune.
        images: (B, C, H, W) to compare outputs on, at least two.
        scores: of the candidates; |gamma| if None.
        tolerance: root mean square change of the outputs that is ignored, relative to their standard
            deviation over the images.

    Returns:
        Removed channels over all channels with a score, 0..1, of the largest plan within the tolerance.
    """
    scores = gamma_scores(subject) if scores is None else scores
    model = subject.model.eval()
    before = _outputs(model, images)
    low, high, found = 0.0, 1.0, 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        keep = _kept(subject, policy(middle), scores)
        passed = keep is not None and _change(before, _masked(subject, keep, images)) <= tolerance
        if passed and keep is not None:
            low, found = middle, _removed(subject, keep, scores)
        else:
            high = middle
    return found


def _kept(subject: Subject, policy: Policy, scores: LayerScores) -> UnitMask | None:
    try:
        plan = policy(subject, scores)
    except PruningError:  # no candidates, or all would be removed
        return None
    if not isinstance(plan, ChannelPlan):
        raise ValueError("give a policy that removes channels")
    return subject.graph.legal(plan.keep, unit_scores(subject.graph, scores))


def _masked(subject: Subject, keep: UnitMask, images: Tensor) -> Sequence[Tensor]:
    return _outputs(mask_gammas(deepcopy(subject.model), subject.graph, keep, ()), images)


@torch.inference_mode()
def _outputs(model: nn.Module, images: Tensor) -> Sequence[Tensor]:
    outputs = model(images)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The worst output's root mean square change over its standard deviation over the images."""
    shares = []
    for old, new in zip(before, after, strict=True):
        spread = old.var(dim=0).mean().sqrt().clamp(min=1e-12)
        shares.append(((new - old).square().mean().sqrt() / spread).item())
    return max(shares)


def _removed(subject: Subject, keep: UnitMask, scores: LayerScores) -> float:
    channels = [keep[subject.graph.layers[name].outputs] for name in scores]
    return 1 - sum(int(kept.sum()) for kept in channels) / max(sum(len(kept) for kept in channels), 1)


ScheduleKind = Literal["constant", "global", "local"]
SCHEDULES: tuple[ScheduleKind, ...] = get_args(ScheduleKind)
Sparsifier = Literal["l1", "proximal", "polarized"]
SPARSIFIERS: tuple[Sparsifier, ...] = get_args(Sparsifier)
# t of the polarization regulariser: a little over 1, so that large gammas are pulled down a little
POLARIZATION = 1.2
# a gamma below this share of the largest one is called small
RELATIVE_THRESHOLD = 0.01
# s changes by at most this factor from one epoch to the next
FASTEST = 1.25
# keeps quotients finite
TINY = 1e-9
# step size of each entry of a parameter in the optimizer's last step
StepSizes = Callable[[nn.Parameter], Tensor | float]


def parse_schedules(text: str) -> tuple[ScheduleKind, ...]:
    """The kinds named in a sum such as "global+local".

    >>> parse_schedules("global+local")
    ('global', 'local')

    Raises:
        ValueError: a kind is unknown.
    """
    kinds = tuple(kind for word in text.split("+") for kind in SCHEDULES if kind == word.strip())
    if len(kinds) != len(text.split("+")):
        raise ValueError(f"{text!r} is not a sum of {', '.join(SCHEDULES)}")
    return kinds


@dataclass(frozen=True)
class SparsitySchedule:
    """Factors on s; kinds multiply.

    Attributes:
        kinds: "constant": 1; "global": `decay` for all gammas from `at` on; "local": from `at` on, `decay`
            for the largest gammas, 1 for the share `keep` of the smallest (the published programs' two).
        at: share of the epochs after which the decays begin, 0..1.
        decay: factor.
        keep: share of the gammas that keep s under "local", 0..1.
    """

    kinds: tuple[ScheduleKind, ...] = ("constant",)
    at: float = 0.5
    decay: float = 0.01
    keep: float = 0.85

    def factors(self, sizes: Tensor, progress: float) -> Tensor:
        """Each gamma's factor.

        Args:
            sizes: (n,) |gamma| of all candidates.
            progress: share of the epochs done, 0..1.

        Returns:
            (n,) of `sizes`' type.

        >>> SparsitySchedule(("local",), keep=0.5).factors(torch.tensor([3.0, 1.0, 2.0, 0.0]), 0.5).tolist()
        [0.009999999776482582, 1.0, 0.009999999776482582, 1.0]
        """
        factors = torch.ones_like(sizes)
        if progress < self.at:
            return factors
        if "global" in self.kinds:
            factors *= self.decay
        if "local" in self.kinds:
            order = sizes.argsort(stable=True)
            factors[order[round(self.keep * len(sizes)) :]] *= self.decay
        return factors


@dataclass
class AutoStrength:
    """Adapts s every epoch so that a share of the gammas falls below a threshold in time.

    The gamma at the target share is tracked. A falling learning rate slows it down whatever s is, so its fall
    is measured per unit of the learning rate: the fall in the last epoch shows the effect of the present s,
    the learning rate left until `by` shows what is needed, and s rises by their ratio, in bounded steps. It
    falls only once the target is reached, as the first gammas to fall are the easy ones. From `by` on it does
    not rise above its maximum so far: a stronger penalty late costs accuracy that no epochs are left to
    regain.

    Attributes:
        target: share of the gammas to bring below the threshold, 0..1.
        epochs: number of epochs of the run.
        by: share of the epochs in which to do it, 0..1.
        spent: share of the epochs done -> share of the run's learning rate spent.
        last: size of the tracked gamma at the last call, None at the first.
        most: the largest s before `by`.
    """

    target: float
    epochs: int
    by: float = 0.5
    spent: Callable[[float], float] = float
    last: float | None = None
    most: float = 0.0

    def next(self, s: float, sizes: Tensor, progress: float) -> float:
        """S for the epoch that begins; arguments as for `SparsitySchedule.factors`."""
        size = sizes.double().quantile(self.target).item()
        before, self.last = self.last, size
        left = size - RELATIVE_THRESHOLD * sizes.max().item()
        if left <= 0:
            return s / FASTEST
        if progress >= self.by:
            return min(s * FASTEST, self.most)
        self.most = max(self.most, s)
        if before is None:
            return s
        last_epoch = self.spent(progress) - self.spent(progress - 1 / self.epochs)
        speed = (before - size) / max(last_epoch, TINY)
        wanted = left / max(self.spent(self.by) - self.spent(progress), TINY)
        self.most = s * min(max(wanted / max(speed, TINY), 1.0), FASTEST)
        return self.most


@dataclass
class GammaPenalty:
    """A sparsity penalty on batch-norm gammas.

    Attributes:
        norms: layer name -> batch norm, the candidates of the policy that will prune.
        s: weight of the penalty, before the factors of the schedule; `auto` changes it.
        channels: layer name -> (channels,) candidates among its gammas; all if a name is missing.
        sparsifier: how the gammas are driven to zero, see above.
        schedule: factors on s over the epochs and over the gammas.
        auto: adapts s every epoch; None for a fixed s.
    """

    norms: Mapping[str, nn.BatchNorm2d]
    s: float
    channels: Mapping[str, NDArray[np.bool_]] | None = None
    sparsifier: Sparsifier = "l1"
    schedule: SparsitySchedule = field(default_factory=SparsitySchedule)
    auto: AutoStrength | None = None
    _weights: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def start_epoch(self, progress: float) -> None:
        """Set s and the weight of each gamma for the epoch that begins.

        Args:
            progress: share of the epochs done, 0..1.
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
        """Add the gradient of the penalty to that of every candidate (subgradient 0 at 0).

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
        """Move the candidates towards zero, but not across it; only under "proximal".

        Call it once after each optimizer step that was taken, before the gradients are cleared.
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
        """Copy the exact zeros of "proximal" to a weight average, which would only approach them.

        Args:
            others: layer name -> (channels,) gammas of the average; changed in place.
        """
        if self.sparsifier == "proximal":
            for name, norm in self.norms.items():
                others[name].masked_fill_((norm.weight == 0).to(others[name].device), 0)

    def gammas(self, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """(candidate channels,) |gamma| of all candidates, on the CPU.

        Args:
            parameters: layer name -> gammas to use instead of the norms' own, such as those of an average.
        """
        values = [torch.empty(0)]
        for name, norm in self.norms.items():
            gamma = (norm.weight if parameters is None else parameters[name]).detach()
            values.append(gamma.abs()[self._counted(name, gamma)].float().cpu())
        return torch.cat(values)

    def state_dict(self) -> dict[str, Any]:
        """The state, besides the gammas, of this epoch's weights and the next s."""
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
