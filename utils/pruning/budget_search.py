"""Search for the best mask within limits on costs, in stages.

The worth of a channel depends on the other channels that are left. So a score that measures this (Taylor) is
recomputed at each stage, on the network folded so far.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from ..errors import PruningError
from .budget import Removals, fits_all, removals
from .channels import UnitMask, UnitScores, WidthLimits
from .costs import Cost, LayerCost
from .policies import slim_threshold
from .scores import gamma_scores, unit_scores
from .subject import ChannelPlan, LayerScores, Merge, Subject
from .surgery import prune

S = TypeVar("S", bound=Subject)
# share of the total worth that is removed before the first stage
FREE = 0.01
# a second search starts from one global threshold at this multiple of the limits
DETOUR = 1.25
_HALVINGS = 10


class WithinBudgetError(PruningError):
    """The unpruned network is already within the budget."""


@dataclass(frozen=True)
class Limit:
    """Upper limit of one cost.

    Attributes:
        name: name of the cost, with its unit.
        cost: cost of a mask.
        layer_cost: cost of one layer, in the same unit.
        most: the limit.
    """

    name: str
    cost: Cost
    layer_cost: LayerCost
    most: float


@dataclass
class BudgetSearch(Generic[S]):
    """A search for masks within limits; it keeps the scores, so searching with other limits is quick.

    Attributes:
        subject: the unpruned network.
        score: importance of every channel.
        limits: upper limits of costs, of the last search.
        widths: limits on widths.
        merge: how the scores of a channel's writers become its worth; "union" and "leader" count as "max".
        stages: number of times that scores are computed on the way.
        judge: of several masks within the limits, the one with the highest value is chosen, such as mAP on
            some images (as EagleEye compares candidates); None to trust the scores.
    """

    subject: S
    score: Callable[[S], LayerScores]
    limits: tuple[Limit, ...]
    widths: WidthLimits = field(default_factory=WidthLimits)
    merge: Merge = "max"
    stages: int = 1
    judge: Callable[[UnitMask], float] | None = None
    _sequences: list[Removals] = field(default_factory=list, init=False)  # a `replace`d one has none

    def mask(self) -> UnitMask:
        """The best mask within the limits.

        Raises:
            PruningError: the limits cannot be met.
        """
        whole = np.ones(self.subject.graph.unit_count, dtype=np.bool_)
        first = self._planned(whole)
        self._require_enough(first.mask(range(len(first.chunks))))
        # Units of no worth are removed at once; the stages are for the rest.
        self._descend(first.mask(range(first.worthless(FREE))), self.stages)
        if self.stages > 1:
            loose = self._fits([DETOUR * limit.most for limit in self.limits])
            with suppress(PruningError):
                self._descend(self._by_threshold(loose), max(1, self.stages // 2))
        return self._best()

    def require_excess(self, costs: Sequence[float]) -> None:
        """Refuse limits that the unpruned network already meets.

        Args:
            costs: costs of the unpruned network, one for each limit.

        Raises:
            WithinBudgetError: there is nothing to remove.
        """
        pairs = list(zip(costs, self.limits, strict=True))
        if all(cost <= limit.most for cost, limit in pairs):
            places = ", ".join(f"{limit.name} {shown(limit.most)}" for _, limit in pairs)
            found = ", ".join(shown(cost) for cost, _ in pairs)
            fact = f"the unpruned network is already within the budget ({found})"
            raise WithinBudgetError(places, fact, "set a lower limit")

    def _require_enough(self, smallest: UnitMask) -> None:
        for limit in self.limits:
            if limit.cost(smallest) > limit.most:
                fact = f"the smallest network that the widths allow takes {shown(limit.cost(smallest))}"
                remedy = "allow more, or lower --align, --min-channels, --layer_keep or --keep-sections"
                raise PruningError(limit.name, f"{shown(limit.most)} asked for, but {fact}", remedy)

    def _descend(self, keep: UnitMask, stages: int) -> None:
        """Replan in stages, by equal factors, from the cost of `keep` down to the limits."""
        start = [max(limit.cost(keep), limit.most) for limit in self.limits]
        for stage in range(1, stages + 1):
            sequence = self._planned(keep)
            goals = [
                cost * (limit.most / cost) ** (stage / stages)
                for cost, limit in zip(start, self.limits, strict=True)
            ]
            keep = sequence.within(self._fits(goals))

    def _planned(self, keep: UnitMask) -> Removals:
        """Removals by the scores of channels when only `keep` is left."""
        values = np.where(keep, self._values(keep), 0.0)
        self._sequences.append(removals(self.subject.graph, values, self._layer_cost, self.widths))
        return self._sequences[-1]

    def again(self, limits: Sequence[Limit]) -> UnitMask:
        """The best mask within other limits, by the scores that `mask` computed.

        Raises:
            PruningError: the limits cannot be met.
        """
        self.limits = tuple(limits)
        return self._best() if self._sequences else self.mask()

    def _best(self) -> UnitMask:
        """The candidate with the highest value of the judge; without a judge the first one."""
        first, *others = self._candidates()
        if self.judge is None:
            return first
        different = {keep.tobytes(): keep for keep in (first, *others)}
        return max(different.values(), key=self.judge)

    def _candidates(self) -> Iterator[UnitMask]:
        """Masks within the limits by the scores of each stage, last first, then by one threshold."""
        fits = self._fits([limit.most for limit in self.limits])
        for sequence in reversed(self._sequences):
            yield sequence.within(fits)
        with suppress(PruningError):
            yield self._by_threshold(fits)

    def _by_threshold(self, fits: Callable[[UnitMask], bool]) -> UnitMask:
        """The mask of the lowest global threshold on the gammas that fits."""
        graph, scores = self.subject.graph, gamma_scores(self.subject)
        values = unit_scores(graph, scores)

        def cut(ratio: float) -> UnitMask:
            keep = slim_threshold(ratio, self.widths.layer_keep)(self.subject, scores).keep
            return graph.legal(keep, values, self.widths.align, self.widths.min_channels)

        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if fits(cut(middle)) else (middle, high)
        keep = cut(high)
        if not fits(keep):
            raise PruningError("budget", "no threshold leaves a network within the limits", "allow more")
        return keep

    def _fits(self, goals: Sequence[float]) -> Callable[[UnitMask], bool]:
        return fits_all([(limit.cost, goal) for limit, goal in zip(self.limits, goals, strict=True)])

    def _layer_cost(self, name: str, inputs: int, outputs: int) -> float:
        """Sum of a layer's costs, each as a share of its limit."""
        return sum(limit.layer_cost(name, inputs, outputs) / limit.most for limit in self.limits)

    def _values(self, keep: UnitMask) -> UnitScores:
        subject, graph = self.subject, self.subject.graph
        if not keep.all():
            subject = prune(subject, [lambda _subject, _scores: ChannelPlan(keep)], lambda _: {}).folded
        return unit_scores(graph, self.score(subject), self.merge)


def shown(value: float) -> str:
    """A cost as text, without its unit.

    >>> shown(12.345), shown(2.5e6)
    ('12.35', '2,500,000')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
