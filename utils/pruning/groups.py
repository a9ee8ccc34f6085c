"""Groups: layers whose outputs share units, so that a width is chosen for all of them at once.

>>> from utils.pruning.channels import ChannelTracer
>>> tracer = ChannelTracer()
>>> stem = tracer.layer("stem", tracer.new(3), 4)
>>> tracer.tie(tracer.layer("branch", stem, 4), stem)
>>> _ = tracer.layer("head", stem, 2)
>>> [group.layers for group in groups(tracer.finish())]
[('stem', 'branch'), ('head',)]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .channels import ChannelGraph, ChannelIds, UnitMask, UnitScores
from .union_find import UnionFind


@dataclass(frozen=True)
class Group:
    """Layers and the units that they write to.

    Attributes:
        layers: their names, in the order of the network.
        units: ascending.
    """

    layers: tuple[str, ...]
    units: ChannelIds


def groups(graph: ChannelGraph) -> tuple[Group, ...]:
    """The groups of a network, in the order of their first layers; every layer is in exactly one."""
    classes = UnionFind()
    classes.grow(graph.unit_count)
    for layer in graph.layers.values():
        for unit in layer.outputs.tolist():
            classes.union(unit, int(layer.outputs[0]))
    roots = classes.roots()
    members: dict[int, list[str]] = {}
    for name, layer in graph.layers.items():
        members.setdefault(int(roots[layer.outputs[0]]), []).append(name)
    return tuple(Group(tuple(names), np.flatnonzero(roots == root)) for root, names in members.items())


def keep_best(
    graph: ChannelGraph, chosen: Sequence[Group], share: float, scores: UnitScores | None = None
) -> UnitMask:
    """(units,) all but the worst of each chosen group.

    Args:
        graph: the network's channels.
        chosen: groups to cut.
        share: of the group's units that may go, 0 <= share < 1; at least one stays.
        scores: (units,) higher stays; None: the first ones stay.
    """
    keep = np.ones(graph.unit_count, dtype=np.bool_)
    for group in chosen:
        free = group.units[~graph.pinned[group.units]]
        order = np.arange(len(free)) if scores is None else np.argsort(-scores[free], kind="stable")
        least = 1 if len(free) == len(group.units) else 0
        keep[free[order[max(least, len(free) - int(len(free) * share)) :]]] = False
    return keep
