"""The reason why each channel of a layer was removed or kept.

Invariant: every output channel of the layer has exactly one reason, and "below" is the reason of exactly the
removed channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .channels import ChannelGraph, UnitMask
from .subject import ChannelPlan, LayerScores, Merge

Kind = Literal[
    "below", "passes", "chosen", "voted", "unscored", "floor", "coupled", "pinned", "restored", "carrier"
]  # fmt: skip
WHY: Mapping[Kind, str] = {
    "below": "removed: no layer that writes to it passes the threshold",
    "passes": "its own score passes the threshold",
    "chosen": "kept within the budget",
    "voted": "its own score does not pass, but another layer that writes to the same sum passes",
    "unscored": "a layer that writes to it has no score, so its vote is to keep",
    "floor": "among the best of a layer that would keep fewer than its floor",
    "coupled": "a shortcut adds it to other channels, which this strategy never removes",
    "pinned": "pinned: never removed",
    "restored": "restored: a tensor would be empty, equal parts unequal, or a width not a multiple",
    "carrier": "dead, kept to carry the constants of the others to image borders",
}

_TOGETHER: Mapping[Kind, str] = {
    "below": "removed: the merged score of all layers that write to it does not pass",
    "passes": "the merged score of all layers that write to it passes",
}
# The texts where not every layer that writes to a sum has its own vote.
_MERGED: Mapping[Merge, Mapping[Kind, str]] = {
    "leader": {
        "below": "removed: the score of the first layer that writes to it does not pass",
        "voted": "the score of the first layer that writes to the same sum passes",
    },
    **dict.fromkeys(("mean", "max", "norm"), _TOGETHER),
}


@dataclass(frozen=True)
class Reason:
    """The reason of some channels of a layer.

    Attributes:
        kind: see WHY.
        channels: their numbers in the layer.
        because: names of the layers that voted to keep or have no score; for "pinned" the reason.
    """

    kind: Kind
    channels: tuple[int, ...]
    because: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A plan and its result, the input of `explain`."""

    graph: ChannelGraph
    scores: LayerScores
    plan: ChannelPlan
    keep: UnitMask
    carried: UnitMask


def why(kind: Kind, merge: Merge) -> str:
    """A reason in words, under a way to merge the scores of several writers."""
    return _MERGED.get(merge, {}).get(kind, WHY[kind])


def writers(graph: ChannelGraph, name: str) -> tuple[str, ...]:
    """Layers that share an output unit with `name`, itself included, in the order of the network."""
    own = np.zeros(graph.unit_count, dtype=np.bool_)
    own[graph.layers[name].outputs] = True
    return tuple(other for other, layer in graph.layers.items() if own[layer.outputs].any())


def explain(verdict: Verdict, name: str) -> tuple[Reason, ...]:
    """The reasons for the output channels of the layer `name`, in the order of WHY."""
    found: dict[tuple[Kind, tuple[str, ...]], list[int]] = {}
    voters = _voters(verdict, name)
    own = _passing(verdict, name)
    for channel, unit in enumerate(verdict.graph.layers[name].outputs.tolist()):
        kind, because = _reason(verdict, name, unit, bool(own[channel]), voters.get(unit, []))
        found.setdefault((kind, because), []).append(channel)
    order = list(WHY)
    reasons = (Reason(kind, tuple(channels), because) for (kind, because), channels in found.items())
    return tuple(sorted(reasons, key=lambda reason: order.index(reason.kind)))


def _reason(
    verdict: Verdict, name: str, unit: int, passes: bool, voters: list[str]
) -> tuple[Kind, tuple[str, ...]]:
    graph = verdict.graph
    if graph.pinned[unit]:
        return "pinned", (graph.pin_reasons[unit],)
    if not verdict.keep[unit]:
        return "below", ()
    if verdict.carried[unit]:
        return "carrier", ()
    if not verdict.plan.keep[unit]:
        return "restored", ()
    if verdict.plan.passes is None:
        return "chosen", ()
    if passes:
        return "passes", ()
    if voters:
        return "voted", tuple(voters)
    if graph.coupled[unit] and verdict.plan.candidates == "uncoupled":
        return "coupled", ()
    unscored = _unscored(verdict, name, unit)
    return ("unscored", unscored) if unscored else ("floor", ())


def _unscored(verdict: Verdict, name: str, unit: int) -> tuple[str, ...]:
    """Layers without a score that kept `unit`; gates only if no other layer writes to it."""
    graph = verdict.graph
    writing = [other for other in writers(graph, name) if unit in graph.layers[other].outputs]
    silent = [other for other in writing if other not in verdict.scores]
    vetoing = [other for other in silent if not _is_gate(graph, other, unit)]
    return tuple(vetoing or (silent if len(silent) == len(writing) else ()))


def _is_gate(graph: ChannelGraph, name: str, unit: int) -> bool:
    layer = graph.layers[name]
    return bool(graph.gates[layer.chains[layer.outputs == unit]].all())


def _passing(verdict: Verdict, name: str) -> NDArray[np.bool_]:
    """(out,) channels of a layer that pass by their own score."""
    chains, passes = verdict.graph.layers[name].chains, verdict.plan.passes
    return np.zeros(len(chains), dtype=np.bool_) if passes is None else passes[chains]


def _voters(verdict: Verdict, name: str) -> dict[int, list[str]]:
    """Unit -> other layers whose score for it passes."""
    found: dict[int, list[str]] = {}
    for other in writers(verdict.graph, name):
        if other != name:
            outputs = verdict.graph.layers[other].outputs
            for unit in np.unique(outputs[_passing(verdict, other)]).tolist():
                found.setdefault(unit, []).append(other)
    return found
