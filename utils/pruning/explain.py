"""Why each channel of a layer went or stayed.

Invariant: every output channel of the layer has exactly one reason, and the reasons "below" and no other are
those of the channels that went.
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
    "below": "removed: nothing that writes to it is worth it",
    "passes": "its own score passes the threshold",
    "chosen": "the budget has room for it",
    "voted": "its own score does not pass, but that of another layer that writes to the same sum does",
    "unscored": "a layer that writes to it cannot be scored, so it votes to keep",
    "floor": "one of the best of a layer that would keep too few",
    "coupled": "a shortcut adds it to others, and this strategy leaves such channels alone",
    "pinned": "it may never go",
    "restored": "it came back: a tensor would be empty, equal parts unequal, or a width not as asked",
    "carrier": "it is dead and stays to carry the constants of the others to image borders",
}

_TOGETHER: Mapping[Kind, str] = {
    "below": "removed: the scores of all that write to it do not pass together",
    "passes": "the scores of all that write to it pass together",
}
# What WHY says where not every layer that writes to a sum has a say of its own.
_MERGED: Mapping[Merge, Mapping[Kind, str]] = {
    "leader": {
        "below": "removed: the score of the first layer that writes to it does not pass",
        "voted": "the score of the first layer that writes to the same sum passes",
    },
    **dict.fromkeys(("mean", "max", "norm"), _TOGETHER),
}


@dataclass(frozen=True)
class Reason:
    """What some channels of a layer have in common.

    Attributes:
        kind: see WHY.
        channels: their numbers in the layer.
        because: names of the layers that voted or cannot be scored; for "pinned" the reason.
    """

    kind: Kind
    channels: tuple[int, ...]
    because: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A plan and what became of it: what `explain` looks at."""

    graph: ChannelGraph
    scores: LayerScores
    plan: ChannelPlan
    keep: UnitMask
    carried: UnitMask


def why(kind: Kind, merge: Merge) -> str:
    """A reason in words, under a way of deciding over what several layers write."""
    return _MERGED.get(merge, {}).get(kind, WHY[kind])


def writers(graph: ChannelGraph, name: str) -> tuple[str, ...]:
    """Layers that share a unit of the outputs of `name`, itself too, in the order of the network."""
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
    """Layers without a score that kept `unit`; a gate is one of them only where nothing else writes to it."""
    graph = verdict.graph
    writing = [other for other in writers(graph, name) if unit in graph.layers[other].outputs]
    silent = [other for other in writing if other not in verdict.scores]
    vetoing = [other for other in silent if not _is_gate(graph, other, unit)]
    return tuple(vetoing or (silent if len(silent) == len(writing) else ()))


def _is_gate(graph: ChannelGraph, name: str, unit: int) -> bool:
    layer = graph.layers[name]
    return bool(graph.gates[layer.chains[layer.outputs == unit]].all())


def _passing(verdict: Verdict, name: str) -> NDArray[np.bool_]:
    """(out,) which channels of a layer pass by their own score."""
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
