"""From limits on costs to the mask of the best network within them, in stages.

What a channel is worth depends on which others are there. So a score that can tell (Taylor's) is taken anew,
on the network folded so far, each time a part of the way to the limits is done.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from utils.pruning.budget import Removals, Widths, fits_all, removals
from utils.pruning.channels import UnitMask, UnitScores
from utils.pruning.costs import Cost, LayerCost
from utils.pruning.scores import Merge, chain_scores, merged_scores, unit_scores
from utils.pruning.subject import ChannelPlan, LayerScores, Subject
from utils.pruning.surgery import prune

S = TypeVar("S", bound=Subject)


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
class Selection(Generic[S]):
    """A search for masks within limits; scores are kept, so that asking again with other limits is quick.

    Attributes:
        subject: the whole network.
        score: importance of every channel.
        limits: what may be spent at most; the last asked for.
        widths: allowed.
        merge: how the scores of a channel's writers become its worth; "union" and "leader" count as "max".
        stages: how often to score on the way.
    """

    subject: S
    score: Callable[[S], LayerScores]
    limits: tuple[Limit, ...]
    widths: Widths = field(default_factory=Widths)
    merge: Merge = "max"
    stages: int = 1
    _last: Removals | None = None

    def mask(self) -> UnitMask:
        """Score and select down to the limits.

        Raises:
            PruningError: they cannot be met.
        """
        keep = np.ones(self.subject.graph.unit_count, dtype=np.bool_)
        full = [limit.cost(keep) for limit in self.limits]
        for stage in range(1, self.stages + 1):
            values = np.where(keep, self._values(keep), 0.0)
            self._last = removals(self.subject.graph, values, self._layer_cost, self.widths)
            share = stage / self.stages
            goals = [
                whole * min(1.0, limit.most / whole) ** share
                for whole, limit in zip(full, self.limits, strict=True)
            ]
            keep = self._within(self._last, goals)
        return keep

    def again(self, limits: Sequence[Limit]) -> UnitMask:
        """Select within other limits, with the scores of the last stage of `mask`.

        Raises:
            PruningError: they cannot be met.
        """
        self.limits = tuple(limits)
        if self._last is None:
            return self.mask()
        return self._within(self._last, [limit.most for limit in self.limits])

    def _within(self, sequence: Removals, goals: Sequence[float]) -> UnitMask:
        costs = [limit.cost for limit in self.limits]
        return sequence.within(fits_all(list(zip(costs, goals, strict=True))))

    def _layer_cost(self, name: str, inputs: int, outputs: int) -> float:
        """The limits' costs of a layer, each as a share of its limit."""
        return sum(limit.layer_cost(name, inputs, outputs) / limit.most for limit in self.limits)

    def _values(self, keep: UnitMask) -> UnitScores:
        subject, graph = self.subject, self.subject.graph
        if not keep.all():
            subject = prune(subject, [lambda _subject, _scores: ChannelPlan(keep)], lambda _: {}).folded
        scores = self.score(subject)
        if self.merge not in ("mean", "norm"):
            return unit_scores(graph, scores)
        merged = merged_scores(graph, chain_scores(graph, scores), self.merge)
        values = np.full(graph.unit_count, -np.inf)
        np.maximum.at(values, graph.chain_units, np.where(np.isnan(merged), np.inf, merged))
        return values
