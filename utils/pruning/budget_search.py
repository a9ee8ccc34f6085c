"""From limits on costs to the mask of the best network within them, in stages.

What a channel is worth depends on which others are there. So a score that can tell (Taylor's) is taken anew,
on the network folded so far, each time a part of the way to the limits is done.
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
# share of all that the channels are worth that counts as nothing
FREE = 0.01
# so many times the limits is how far one threshold goes, where planning sets out from it
DETOUR = 1.25
_HALVINGS = 10


class WithinBudgetError(PruningError):
    """The network costs no more than it may."""


@dataclass(frozen=True)
class Limit:
    """The most that a network may cost.

    Attributes:
        name: of the cost, with its unit.
        cost: of a mask.
        layer_cost: of one layer, in the same unit.
        most: the limit.
    """

    name: str
    cost: Cost
    layer_cost: LayerCost
    most: float


@dataclass
class BudgetSearch(Generic[S]):
    """A search for masks within limits; scores are kept, so that asking again with other limits is quick.

    Attributes:
        subject: the whole network.
        score: importance of every channel.
        limits: what may be spent at most; the last asked for.
        widths: allowed.
        merge: how the scores of a channel's writers become its worth; "union" and "leader" count as "max".
        stages: how often to score on the way.
        judge: of several masks within the limits, the one with the most of this is taken (mAP on some images,
            say, as EagleEye compares candidates); None to trust the scores.
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
        """Score and select down to the limits.

        Raises:
            PruningError: they cannot be met.
        """
        whole = np.ones(self.subject.graph.unit_count, dtype=np.bool_)
        first = self._planned(whole)
        self._require_enough(first.mask(range(len(first.chunks))))
        # What is worth nothing needs no second look: the stages are for the rest.
        self._descend(first.mask(range(first.worthless(FREE))), self.stages)
        if self.stages > 1:
            loose = self._fits([DETOUR * limit.most for limit in self.limits])
            with suppress(PruningError):
                self._descend(self._by_threshold(loose), max(1, self.stages // 2))
        return self._best()

    def require_excess(self, costs: Sequence[float]) -> None:
        """Refuse limits that the whole network keeps.

        Args:
            costs: of the whole network, one for each limit.

        Raises:
            WithinBudgetError: there is nothing to remove.
        """
        pairs = list(zip(costs, self.limits, strict=True))
        if all(cost <= limit.most for cost, limit in pairs):
            found = [f"{shown(cost)} of {limit.name} {shown(limit.most)}" for cost, limit in pairs]
            raise WithinBudgetError(
                "", f"the network is within the budget as it is, {', '.join(found)}", "ask for less"
            )

    def _require_enough(self, smallest: UnitMask) -> None:
        for limit in self.limits:
            if limit.cost(smallest) > limit.most:
                fact = f"the smallest network that the widths allow takes {shown(limit.cost(smallest))}"
                remedy = (
                    "allow more, or ask less of --align, --min-channels, --layer_keep and --keep-sections"
                )
                raise PruningError(limit.name, f"{shown(limit.most)} asked for, but {fact}", remedy)

    def _descend(self, keep: UnitMask, stages: int) -> None:
        """Plan anew in equal steps (as factors) from what `keep` costs down to the limits."""
        start = [max(limit.cost(keep), limit.most) for limit in self.limits]
        for stage in range(1, stages + 1):
            sequence = self._planned(keep)
            goals = [
                cost * (limit.most / cost) ** (stage / stages)
                for cost, limit in zip(start, self.limits, strict=True)
            ]
            keep = sequence.within(self._fits(goals))

    def _planned(self, keep: UnitMask) -> Removals:
        """Removals by the scores that channels have when only `keep` is left."""
        values = np.where(keep, self._values(keep), 0.0)
        self._sequences.append(removals(self.subject.graph, values, self._layer_cost, self.widths))
        return self._sequences[-1]

    def again(self, limits: Sequence[Limit]) -> UnitMask:
        """Select within other limits, with the scores that `mask` took.

        Raises:
            PruningError: they cannot be met.
        """
        self.limits = tuple(limits)
        return self._best() if self._sequences else self.mask()

    def _best(self) -> UnitMask:
        """The mask that fares best before the judge; the first one, without a judge."""
        first, *others = self._candidates()
        if self.judge is None:
            return first
        different = {keep.tobytes(): keep for keep in (first, *others)}
        return max(different.values(), key=self.judge)

    def _candidates(self) -> Iterator[UnitMask]:
        """By the scores of each plan, the last first, and what one threshold would leave."""
        fits = self._fits([limit.most for limit in self.limits])
        for sequence in reversed(self._sequences):
            yield sequence.within(fits)
        with suppress(PruningError):
            yield self._by_threshold(fits)

    def _by_threshold(self, fits: Callable[[UnitMask], bool]) -> UnitMask:
        """The mask of the smallest share of gammas whose removal fits."""
        graph, scores = self.subject.graph, gamma_scores(self.subject)
        values = unit_scores(graph, scores)

        def cut(share: float) -> UnitMask:
            keep = slim_threshold(share, self.widths.layer_keep)(self.subject, scores).keep
            return graph.legal(keep, values, self.widths.align, self.widths.min_channels)

        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if fits(cut(middle)) else (middle, high)
        keep = cut(high)
        if not fits(keep):
            raise PruningError("", "no threshold leaves a network within the limits")
        return keep

    def _fits(self, goals: Sequence[float]) -> Callable[[UnitMask], bool]:
        return fits_all([(limit.cost, goal) for limit, goal in zip(self.limits, goals, strict=True)])

    def _layer_cost(self, name: str, inputs: int, outputs: int) -> float:
        """The limits' costs of a layer, each as a share of its limit."""
        return sum(limit.layer_cost(name, inputs, outputs) / limit.most for limit in self.limits)

    def _values(self, keep: UnitMask) -> UnitScores:
        subject, graph = self.subject, self.subject.graph
        if not keep.all():
            subject = prune(subject, [lambda _subject, _scores: ChannelPlan(keep)], lambda _: {}).folded
        return unit_scores(graph, self.score(subject), self.merge)


def shown(value: float) -> str:
    """A cost as text, in whatever unit it has.

    >>> shown(12.345), shown(2.5e6)
    ('12.35', '2,500,000')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
