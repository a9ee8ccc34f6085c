"""Strategies: from scores to a plan.

The threshold is taken over channels of layers (chains, to be exact), the vote over units, so a channel that
several layers write counts several times in the pool and goes only if none of them needs it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import PruningError
from .channels import ChannelGraph, ChannelIds, UnitMask
from .groups import groups, keep_best
from .scores import chain_scores, merged_scores, silent_chains, unit_scores
from .subject import BlockPlan, Candidates, ChannelPlan, LayerScores, Merge, Policy, Subject

__all__ = [
    "Candidates", "GlobalThreshold", "GroupShares", "Policy", "WeakestBlocks", "candidate_channels",
    "candidate_units", "normal", "shortcut", "slim",
]  # fmt: skip


@dataclass(frozen=True)
class GlobalThreshold:
    """One threshold over the whole network (Liu et al. 2017).

    Attributes:
        percent: share of the pool at or below the threshold, 0 <= percent < 1.
        candidates: "all" units, or the "uncoupled" ones that no shortcut ties.
        merge: a unit stays when any writer passes ("union"), when its first writer does ("leader"), or when
            the "mean", "max" or "norm" of its writers' scores does.
        layer_keep: share of its own channels that each layer at least keeps, 0..1.
        strict: a channel passes above the threshold (True) or from it on (False).
        guarded: whether the threshold stays below the lowest of the layers' highest scores, beyond which a
            layer would be emptied but for its floor.
    """

    percent: float
    candidates: Candidates = "all"
    merge: Merge = "union"
    layer_keep: float = 0.0
    strict: bool = True
    guarded: bool = False

    def __call__(self, subject: Subject, scores: LayerScores) -> ChannelPlan:
        """Plan for `subject`; PruningError where nothing may be pruned or nothing would be left."""
        graph = subject.graph
        own = chain_scores(graph, scores)
        chains, silent = merged_scores(graph, own, self.merge), silent_chains(graph, own)
        judged = ~np.isnan(chains) & candidate_units(graph, self.candidates)[graph.chain_units]
        if self.merge == "leader":
            judged &= _first_of_unit(graph)
        threshold = self._threshold(chains[judged])
        if self.guarded:
            threshold = min(threshold, _lowest_maximum(graph, scores, chains, judged))
        passes = chains > threshold if self.strict else chains >= threshold
        by_score = passes & judged
        emptied = tuple(name for name in scores if _none(graph.layers[name].chains, judged, passes))
        passes[self._floor(graph, scores, own)] = True
        votes = np.where(judged, passes, ~silent & (self.merge != "leader"))
        keep = np.zeros(graph.unit_count, dtype=np.bool_)
        keep[graph.chain_units[votes]] = True
        if self.merge == "leader":  # followers have no vote; a unit whose leader is not judged stays
            keep |= ~_marked(graph, judged)
        keep |= graph.pinned | ~_marked(graph, ~silent)
        return ChannelPlan(keep, float(threshold), emptied, by_score, self.candidates, self.merge)

    def _threshold(self, pool: NDArray[np.float32]) -> np.float32:
        if not len(pool):
            fact = "no channel of this network is a candidate of this strategy and score"
            remedy = "use slim_prune.py, another score, or let fewer layers stay (--keep-sections, exclude)"
            raise PruningError("nothing to prune", fact, remedy)
        index = int(len(pool) * self.percent)
        if index >= len(pool):
            # So many nines that all channels but one are below the threshold.
            largest = "0." + "9" * max(4, len(str(len(pool))))
            raise PruningError(
                f"percent {self.percent}",
                f"removes all {len(pool)} candidate channels",
                f"the largest value is {largest}",
            )
        return np.float32(np.sort(pool)[index])

    def _floor(
        self, graph: ChannelGraph, layers: Iterable[str], own: NDArray[np.float32]
    ) -> NDArray[np.intp]:
        """Chains of the best `layer_keep` channels of each layer; at least one a layer.

        By the scores of chains, `own`: layers in series agree on which are the best.
        """
        best = [np.empty(0, dtype=np.intp)]
        for name in layers:
            chains = graph.layers[name].chains
            least = max(1, int(len(chains) * self.layer_keep))
            best.append(chains[np.argsort(-own[chains], kind="stable")[:least]])
        return np.concatenate(best)


@dataclass(frozen=True)
class WeakestBlocks:
    """Remove the `count` blocks whose last layer has the lowest mean score."""

    count: int

    def __call__(self, subject: Subject, scores: LayerScores) -> BlockPlan:
        """Plan for `subject`; raises PruningError where there are not so many blocks."""
        found = [block for block in subject.blocks if block.layers[-1] in scores]
        if self.count > len(found):
            raise PruningError(
                "",
                (f"{self.count} blocks asked for, but this network has {len(found)} that can be removed"),
                "ask for fewer, or prune channels",
            )
        means = [float(np.mean(scores[block.layers[-1]], dtype=np.float64)) for block in found]
        weakest = np.argsort(means, kind="stable")[: self.count]
        return BlockPlan(
            tuple(found[i] for i in sorted(weakest)),
            tuple((block.name, mean) for block, mean in zip(found, means, strict=True)),
        )


@dataclass(frozen=True)
class GroupShares:
    """Of each group of layers with one width its own share, by score: what structured pruners call local.

    Attributes:
        shares: layer name -> share of its channels that goes, 0 <= share < 1; a group loses the smallest of
            its layers', one without an entry has no say. A group of none stays whole, and so does what the
            scores cannot judge.
    """

    shares: Mapping[str, float]

    def __call__(self, subject: Subject, scores: LayerScores) -> ChannelPlan:
        """Plan for `subject`."""
        graph = subject.graph
        values = unit_scores(graph, scores)
        keep = np.ones(graph.unit_count, dtype=np.bool_)
        for group in groups(graph):
            asked = [self.shares[name] for name in group.layers if name in self.shares]
            if asked:
                keep &= keep_best(graph, [group], min(asked), values)
        return ChannelPlan(keep | np.isposinf(values))


def normal(percent: float) -> GlobalThreshold:
    """prune.py: only channels that no shortcut ties."""
    return GlobalThreshold(percent, candidates="uncoupled", strict=False)


def shortcut(percent: float) -> GlobalThreshold:
    """shortcut_prune.py: all channels; of those that a shortcut ties, the first writer decides."""
    return GlobalThreshold(percent, merge="leader", strict=False)


def slim(percent: float, layer_keep: float, merge: Merge = "union") -> GlobalThreshold:
    """slim_prune.py: all channels, groups keep the union, every layer keeps a floor."""
    return GlobalThreshold(percent, layer_keep=layer_keep, merge=merge)


def candidate_units(graph: ChannelGraph, candidates: Candidates) -> UnitMask:
    """(units,) which of them a strategy may remove."""
    free = ~graph.pinned
    return free & ~graph.coupled if candidates == "uncoupled" else free


def candidate_channels(
    graph: ChannelGraph, scores: LayerScores, candidates: Candidates
) -> dict[str, NDArray[np.bool_]]:
    """Layer name -> (output channels,) what of it a strategy may remove; layers without any are left out.

    Training takes its penalty from here, so it cannot disagree with pruning.
    """
    units = candidate_units(graph, candidates)
    masks = {name: units[graph.layers[name].outputs] for name in scores}
    return {name: mask for name, mask in masks.items() if mask.any()}


def _marked(graph: ChannelGraph, chains: NDArray[np.bool_]) -> UnitMask:
    mask = np.zeros(graph.unit_count, dtype=np.bool_)
    mask[graph.chain_units[chains]] = True
    return mask


def _none(chains: ChannelIds, judged: NDArray[np.bool_], passes: NDArray[np.bool_]) -> bool:
    """Whether a layer has judged channels of which none passes."""
    own = chains[judged[chains]]
    return len(own) > 0 and not passes[own].any()


def _lowest_maximum(
    graph: ChannelGraph, scores: LayerScores, chains: NDArray[np.float32], judged: NDArray[np.bool_]
) -> np.float32:
    """The highest threshold that leaves a channel to every layer: just below the lowest of their maxima."""
    own = [layer[judged[layer]] for layer in (graph.layers[name].chains for name in scores)]
    lowest = np.float32(min(chains[layer].max() for layer in own if len(layer)))
    return np.float32(np.nextafter(lowest, np.float32(-np.inf)))


def _first_of_unit(graph: ChannelGraph) -> NDArray[np.bool_]:
    first = np.zeros(len(graph.chain_units), dtype=np.bool_)
    first[np.unique(graph.chain_units, return_index=True)[1]] = True
    return first
