"""How strong the sparsity penalty is: over the epochs, over the gammas, and chosen by itself.

Invariant: everything here is a function of the gammas and of the epoch, so that a resumed run goes on as the
unbroken one; the only memory is `AutoStrength.last` and `most`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

ScheduleKind = Literal["constant", "global", "local"]
SCHEDULES: tuple[ScheduleKind, ...] = get_args(ScheduleKind)


def parse_schedules(text: str) -> tuple[ScheduleKind, ...]:
    """The kinds named in a sum such as "global+local".

    >>> parse_schedules("global+local")
    ('global', 'local')

    Raises:
        ValueError: a kind is unknown.
    """
    kinds = tuple(kind for word in text.split("+") for kind in SCHEDULES if kind == word.strip())
    if len(kinds) != len(text.split("+")):
        raise ValueError(f"{text!r} is no sum of {', '.join(SCHEDULES)}")
    return kinds


@dataclass(frozen=True)
class SparsitySchedule:
    """Factors on s; kinds multiply.

    Attributes:
        kinds: "constant": 1; "global": `decay` for all gammas from `at` on; "local": from `at` on, `decay`
            for the largest gammas, 1 for the share `keep` of the smallest (the published programs' two).
        at: share of the epochs after which the decays begin.
        decay: factor.
        keep: share of the gammas that keeps s under "local".
    """

    kinds: tuple[ScheduleKind, ...] = ("constant",)
    at: float = 0.5
    decay: float = 0.01
    keep: float = 0.85

    def factors(self, sizes: Tensor, progress: float) -> Tensor:
        """Each gamma's factor.

        Args:
            sizes: (n,) |gamma| of all candidates.
            progress: share of the epochs that is done, 0..1.

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
    """Chooses s from epoch to epoch so that a share of the gammas falls under a threshold in time.

    The gamma at the asked share is followed. A learning rate that falls slows it down whatever s is, so that
    its fall is counted per unit of the learning rate: how far it fell in the last epoch says what the present
    s does, the learning rate that is left until `by` says what is needed, and s rises by their ratio, gently.
    It sinks only where the share is reached: the first gammas to fall are those that nothing holds. From `by`
    on it does not rise above what it was: pressing harder late costs accuracy that no epoch is left to win
    back.

    Attributes:
        target: share of the gammas to bring under the threshold.
        epochs: of the run.
        by: share of the epochs in which to do it.
        spent: share of the run's learning rate that is spent when a share of its epochs is done.
        last: size of the followed gamma at the last call, None at the first.
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


# a gamma below this share of the largest one is called small
RELATIVE_THRESHOLD = 0.01
# s changes by at most this factor from one epoch to the next
FASTEST = 1.25
# keeps quotients finite
TINY = 1e-9
