"""How strong the sparsity penalty is: over the epochs, over the gammas, and chosen by itself.

Invariant: everything here is a function of the gammas and of the epoch, so that a resumed run goes on as the
unbroken one; the only memory is `AutoStrength.last`.
"""

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

    The gamma at the asked share is followed: how far it fell in the last epoch says what the present s does,
    how far it must fall in each epoch that is left says what is needed, and s follows their ratio. Once it is
    under the threshold, s is halved each epoch: what is small stays small with less.

    Attributes:
        target: share of the gammas to bring under the threshold.
        by: share of the epochs in which to do it.
        epochs: of the run.
        last: size of the followed gamma at the last call, None at the first.
    """

    target: float
    epochs: int
    by: float = 0.8
    last: float | None = None

    def next(self, s: float, sizes: Tensor, progress: float) -> float:
        """S for the epoch that begins; arguments as for `SparsitySchedule.factors`."""
        size = sizes.double().quantile(self.target).item()
        fallen = None if self.last is None else self.last - size
        self.last = size
        left = size - RELATIVE_THRESHOLD * sizes.max().item()
        if fallen is None:
            return s
        if left <= 0:
            return s / FASTEST
        wanted = left / max(1.0, (self.by - progress) * self.epochs)
        return s * min(max(wanted / max(fallen, wanted / FASTEST), 1 / FASTEST), FASTEST)


# a gamma below this share of the largest one is called small
RELATIVE_THRESHOLD = 0.01
# s changes by at most this factor from one epoch to the next
FASTEST = 2.0
