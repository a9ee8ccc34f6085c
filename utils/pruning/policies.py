"""Policies: from scores to what should be removed.

The threshold is taken over the output channels of layers (their serial chains, to be exact), the vote over
units: a channel that several layers write counts once per writer and is removed only if no writer needs it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import PruningError
from .channels import ChannelGraph, ChannelIds, UnitMask, UnitScores, components
from .scores import chain_scores, merged_scores, silent_chains, unit_scores
from .subject import BlockPlan, Candidates, ChannelPlan, LayerScores, Merge, Policy, Subject

__all__ = [
    "Candidates", "GlobalThreshold", "GroupRatios", "Policy", "WeakestBlocks", "candidate_channels",
    "candidate_units", "normal_threshold", "shortcut_threshold", "slim_threshold",
]  # fmt: skip


@dataclass(frozen=True)
class GlobalThreshold:
    """One threshold over the whole network (Liu et al. 2017).

    Attributes:
        ratio: share of the candidates at or below the threshold, 0 <= ratio < 1.
        candidates: "all" units, or only the "uncoupled" ones, which no shortcut ties.
        merge: a unit is kept if any writer passes ("union"), if its first writer passes ("leader"), or if
            the "mean", "max" or "norm" of its writers' scores passes.
        layer_keep: the smallest share of its output channels that each layer keeps, 0..1.
        strict: whether a score must exceed the threshold to pass (True) or may equal it (False).
        guarded: whether the threshold stays below every layer's highest score, so that no layer falls back
            to its floor.
    """

    ratio: float
    candidates: Candidates = "all"
    merge: Merge = "union"
    layer_keep: float = 0.0
    strict: bool = True
    guarded: bool = False

    def __call__(self, subject: Subject, scores: LayerScores) -> ChannelPlan:
        """Plan for `subject`; PruningError if there are no candidates or all of them would be removed."""
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
        if self.merge == "leader":  # other writers have no vote; a unit whose leader is not judged is kept
            keep |= ~_marked(graph, judged)
        keep |= graph.pinned | ~_marked(graph, ~silent)
        return ChannelPlan(keep, float(threshold), emptied, by_score, self.candidates, self.merge)

    def _threshold(self, pool: NDArray[np.float32]) -> np.float32:
        if not len(pool):
            fact = "this strategy and score have no candidate channel in this network"
            remedy = "use slim_prune.py, another score, or exclude fewer layers (--keep-sections, exclude)"
            raise PruningError("nothing to prune", fact, remedy)
        index = int(len(pool) * self.ratio)
        if index >= len(pool):
            # enough nines to leave one channel above the threshold
            largest = "0." + "9" * max(4, len(str(len(pool))))
            raise PruningError(
                f"pruning ratio {self.ratio}",
                f"removes all {len(pool)} candidate channels",
                f"the largest value is {largest}",
            )
        return np.float32(np.sort(pool)[index])

    def _floor(
        self, graph: ChannelGraph, layers: Iterable[str], own: NDArray[np.float32]
    ) -> NDArray[np.intp]:
        """Chains of the best `layer_keep` channels of each layer, at least one per layer.

        Ranked by `own`, the scores of chains, so that layers in series agree on the best.
        """
        best = [np.empty(0, dtype=np.intp)]
        for name in layers:
            chains = graph.layers[name].chains
            count = max(1, int(len(chains) * self.layer_keep))
            best.append(chains[np.argsort(-own[chains], kind="stable")[:count]])
        return np.concatenate(best)


@dataclass(frozen=True)
class WeakestBlocks:
    """Remove the `count` blocks whose last layer has the lowest mean score."""

    count: int

    def __call__(self, subject: Subject, scores: LayerScores) -> BlockPlan:
        """Plan for `subject`; PruningError if it has fewer removable blocks."""
        found = [block for block in subject.blocks if block.layers[-1] in scores]
        if self.count > len(found):
            raise PruningError(
                "",
                f"{self.count} blocks asked for, but this network has {len(found)} that can be removed",
                "ask for fewer, or prune channels",
            )
        means = [float(np.mean(scores[block.layers[-1]], dtype=np.float64)) for block in found]
        weakest = np.argsort(means, kind="stable")[: self.count]
        return BlockPlan(
            tuple(found[i] for i in sorted(weakest)),
            tuple((block.name, mean) for block, mean in zip(found, means, strict=True)),
        )


@dataclass(frozen=True)
class GroupRatios:
    """A ratio for each group of layers with one width (local pruning, uniform if all ratios are equal).

    Attributes:
        ratios: layer name -> share of its channels to remove, 0 <= ratio < 1. A group loses the smallest
            ratio among its layers that have one; a group without any stays whole, and so do channels
            without a score.
    """

    ratios: Mapping[str, float]

    def __call__(self, subject: Subject, scores: LayerScores) -> ChannelPlan:
        """Plan for `subject`."""
        graph = subject.graph
        values = unit_scores(graph, scores)
        keep = np.ones(graph.unit_count, dtype=np.bool_)
        shares = np.zeros(graph.unit_count)
        for group in groups(graph):
            asked = [self.ratios[name] for name in group.layers if name in self.ratios]
            if asked:
                keep &= keep_best(graph, [group], min(asked), values)
                shares[group.units] = min(asked)
        return ChannelPlan(_levelled(graph, keep | np.isposinf(values), values, shares))


def normal_threshold(ratio: float) -> GlobalThreshold:
    """The policy of prune.py: only channels that no shortcut ties."""
    return GlobalThreshold(ratio, candidates="uncoupled", strict=False)


def shortcut_threshold(ratio: float) -> GlobalThreshold:
    """The policy of shortcut_prune.py: all channels; where a shortcut ties them, the first writer decides."""
    return GlobalThreshold(ratio, merge="leader", strict=False)


def slim_threshold(ratio: float, layer_keep: float, merge: Merge = "union") -> GlobalThreshold:
    """The policy of slim_prune.py: all channels; groups keep the union, every layer keeps a floor."""
    return GlobalThreshold(ratio, layer_keep=layer_keep, merge=merge)


def candidate_units(graph: ChannelGraph, candidates: Candidates) -> UnitMask:
    """(units,) those that a policy may remove."""
    free = ~graph.pinned
    return free & ~graph.coupled if candidates == "uncoupled" else free


def candidate_channels(
    graph: ChannelGraph, scores: LayerScores, candidates: Candidates
) -> dict[str, NDArray[np.bool_]]:
    """Layer name -> (output channels,) mask of what a policy may remove; layers without any are left out.

    The sparsity penalty of training takes its gammas from here, so training and pruning agree.
    """
    units = candidate_units(graph, candidates)
    masks = {name: units[graph.layers[name].outputs] for name in scores}
    return {name: mask for name, mask in masks.items() if mask.any()}


def judged_channels(
    graph: ChannelGraph,
    scores: LayerScores,
    kept: Mapping[str, NDArray[np.bool_]],
    candidates: Candidates = "all",
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores of all channels that could be removed, (channels,), and which of them are kept, (channels,).

    Args:
        graph: the network's channels.
        scores: of its layers.
        kept: layer name -> (out,) which of its channels are left.
        candidates: what may be removed.
    """
    judged = candidate_channels(graph, scores, candidates)
    values = [scores[name][mask] for name, mask in judged.items()]
    staying = [kept[name][mask] for name, mask in judged.items()]
    nothing = np.zeros(0)
    return (
        np.concatenate([nothing, *values]).astype(np.float32),
        np.concatenate([nothing, *staying]).astype(np.bool_),
    )


@dataclass(frozen=True)
class Group:
    """Layers whose outputs share units, so that one width is chosen for all of them.

    Attributes:
        layers: their names, in the order of the network.
        units: ascending.
    """

    layers: tuple[str, ...]
    units: ChannelIds


def groups(graph: ChannelGraph) -> tuple[Group, ...]:
    """The groups of a network, in the order of their first layers; every layer is in exactly one.

    >>> from utils.pruning.channels import ChannelTracer
    >>> tracer = ChannelTracer()
    >>> stem = tracer.layer("stem", tracer.new(3), 4)
    >>> tracer.tie(tracer.layer("branch", stem, 4), stem)
    >>> _ = tracer.layer("head", stem, 2)
    >>> [group.layers for group in groups(tracer.finish())]
    [('stem', 'branch'), ('head',)]
    """
    written = [layer.outputs for layer in graph.layers.values()]
    roots = components(graph.unit_count, [(units, np.full_like(units, units[0])) for units in written])
    members: dict[int, list[str]] = {}
    for name, layer in graph.layers.items():
        members.setdefault(int(roots[layer.outputs[0]]), []).append(name)
    return tuple(Group(tuple(names), np.flatnonzero(roots == root)) for root, names in members.items())


def keep_best(
    graph: ChannelGraph, chosen: Sequence[Group], ratio: float, scores: UnitScores | None = None
) -> UnitMask:
    """(units,) mask without the lowest-scored units of each chosen group.

    Args:
        graph: the network's channels.
        chosen: groups to prune.
        ratio: share of the group's units to remove, 0 <= ratio < 1; at least one stays.
        scores: (units,) higher ones are kept; None keeps the first ones.
    """
    keep = np.ones(graph.unit_count, dtype=np.bool_)
    for group in chosen:
        free = group.units[~graph.pinned[group.units]]
        order = np.arange(len(free)) if scores is None else np.argsort(-scores[free], kind="stable")
        fewest = 1 if len(free) == len(group.units) else 0
        keep[free[order[max(fewest, len(free) - int(len(free) * ratio)) :]]] = False
    return keep


def _levelled(
    graph: ChannelGraph, keep: UnitMask, scores: UnitScores, shares: NDArray[np.float64]
) -> UnitMask:
    """Choose within each of the parts that must keep equally many channels: `shares` of each part go.

    Otherwise all parts of a grouped convolution would keep as many as the one with the most.
    """
    must = graph.pinned | np.isposinf(scores)
    order = np.where(must, np.inf, scores)
    keep = keep | must
    levelled = np.zeros(graph.unit_count, dtype=np.bool_)  # heads before the queries that consist of them
    for parts in sorted(graph.equal_sections, key=lambda parts: len(parts[0])):
        whole = [part for part in parts if levelled[part].all()]
        count = max(1, *(len(part) - int(len(part) * shares[part].min()) for part in parts))
        count = max((int(keep[part].sum()) for part in whole), default=count)
        for part in parts:
            wanted = max(count, int(must[part].sum()))
            if int(keep[part].sum()) != wanted:
                keep[part] = False
                keep[part[np.argsort(-order[part], kind="stable")[:wanted]]] = True
            levelled[part] = True
    return keep


def _marked(graph: ChannelGraph, chains: NDArray[np.bool_]) -> UnitMask:
    mask = np.zeros(graph.unit_count, dtype=np.bool_)
    mask[graph.chain_units[chains]] = True
    return mask


def _none(chains: ChannelIds, judged: NDArray[np.bool_], passes: NDArray[np.bool_]) -> bool:
    """Whether a layer has candidate channels and none of them passes."""
    own = chains[judged[chains]]
    return len(own) > 0 and not passes[own].any()


def _lowest_maximum(
    graph: ChannelGraph, scores: LayerScores, chains: NDArray[np.float32], judged: NDArray[np.bool_]
) -> np.float32:
    """The highest threshold that leaves every layer a channel: just below the lowest layer maximum."""
    own = [layer[judged[layer]] for layer in (graph.layers[name].chains for name in scores)]
    lowest = np.float32(min(chains[layer].max() for layer in own if len(layer)))
    return np.float32(np.nextafter(lowest, np.float32(-np.inf)))


def _first_of_unit(graph: ChannelGraph) -> NDArray[np.bool_]:
    first = np.zeros(len(graph.chain_units), dtype=np.bool_)
    first[np.unique(graph.chain_units, return_index=True)[1]] = True
    return first
