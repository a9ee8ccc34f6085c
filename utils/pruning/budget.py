"""Budgets: the order in which to remove units until a cost is met.

A knapsack over groups (HALP, Shen et al. 2022). Starting from the whole network, the chunk of units with the
least worth per saved cost is removed first, and so on; the cost of a layer depends on both its widths, so
after each removal the savings of neighbouring layers are recomputed. Widths change by whole latency steps:
all widths on one step cost the same.

The removals form one sequence. Legal masks along it get cheaper, so a budget is met by bisection on the cost
*after* `ChannelGraph.legal`.

Invariant: a mask of `Removals` is legal and keeps pinned units and floors; the mask of `within` fits.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import PruningError
from .channels import ChannelGraph, ChannelIds, UnitMask, UnitScores, WidthLimits
from .costs import Cost, LayerCost
from .policies import groups

# how many chunks ahead a group looks for the end of a latency step
_AHEAD = 6


@dataclass(frozen=True)
class Removals:
    """Chunks of units in the order of their removal.

    Attributes:
        graph: the network's channels.
        chunks: units of each chunk; within a group in the order of their worth.
        owners: number of the group of each chunk.
        values: (units,) worth of each unit.
        widths: limits on widths.
    """

    graph: ChannelGraph
    chunks: tuple[ChannelIds, ...]
    owners: tuple[int, ...]
    values: UnitScores
    widths: WidthLimits

    def mask(self, removed: Iterable[int]) -> UnitMask:
        """(units,) the legal mask after removing the chunks of these numbers."""
        keep = np.ones(self.graph.unit_count, dtype=np.bool_)
        for number in removed:
            keep[self.chunks[number]] = False
        return self.graph.legal(keep, self.values, self.widths.align, self.widths.min_channels)

    def worthless(self, share: float) -> int:
        """Number of chunks, from the first, that together have at most this share of the total worth."""
        worth = np.cumsum([self.values[chunk].sum() for chunk in self.chunks])
        whole = self.values[np.isfinite(self.values)].sum()
        return int(np.searchsorted(worth, share * whole, side="right"))

    def within(self, fits: Callable[[UnitMask], bool]) -> UnitMask:
        """The mask of highest worth found that fits.

        The chunk that meets the budget may be a large one: the sequence is also tried without the rest of
        its group, and the remaining budget is filled with the chunks that were removed last.

        Raises:
            PruningError: even the whole sequence does not fit.
        """
        everything = list(range(len(self.chunks)))
        if fits(self.mask([])):
            return self.mask([])
        shortest = self._shortest(everything, fits)
        if shortest is None:
            raise PruningError(
                "budget", "smaller than the smallest network that the floors allow", "allow more"
            )
        found = [self._filled(shortest, fits)]
        crossing = shortest[-1]
        others = [n for n in everything if n < crossing or self.owners[n] != self.owners[crossing]]
        without = self._shortest(others, fits)
        if without is not None:
            found.append(self._filled(without, fits))
        return max(found, key=self._worth)

    def _shortest(self, order: list[int], fits: Callable[[UnitMask], bool]) -> list[int] | None:
        """The shortest prefix of `order` whose removal fits, assuming that longer ones fit too."""
        low, high = 0, len(order)
        if not fits(self.mask(order)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(self.mask(order[:middle])) else (middle, high)
        return order[:high]

    def _filled(self, removed: list[int], fits: Callable[[UnitMask], bool]) -> UnitMask:
        """Restore chunks that still fit, last removed first; a group's better ones before its worse ones."""
        mask, full_groups = self.mask(removed), set()
        for number in reversed(removed):
            if self.owners[number] in full_groups:
                continue
            fewer = [other for other in removed if other != number]
            candidate = self.mask(fewer)
            if fits(candidate):
                removed, mask = fewer, candidate
            else:
                full_groups.add(self.owners[number])
        return mask

    def _worth(self, keep: UnitMask) -> float:
        return float(self.values[keep & np.isfinite(self.values)].sum())


def removals(graph: ChannelGraph, values: UnitScores, cost: LayerCost, widths: WidthLimits) -> Removals:
    """The whole sequence of removals, down to the floors.

    Args:
        graph: the network's channels.
        values: (units,) worth of each unit; inf and pinned units are kept.
        cost: cost of one layer at its widths.
        widths: limits on widths.
    """
    present = {name: (len(layer.inputs), len(layer.outputs)) for name, layer in graph.layers.items()}
    known = cache(cost)
    waiting = [queue for queue in _queues(graph, values, widths) if queue.sizes]
    moves = [queue.best_move(present, known) for queue in waiting]
    chunks: list[ChannelIds] = []
    owners: list[int] = []
    while True:
        open_moves = [(move.price, index, move.chunks) for index, move in enumerate(moves) if move]
        if not open_moves:
            return Removals(graph, tuple(chunks), tuple(owners), values, widths)
        _, chosen, count = min(open_moves)
        chunks += [waiting[chosen].pop(present) for _ in range(count)]
        owners += [chosen] * count
        for index, other in enumerate(waiting):
            if not other.names.isdisjoint(waiting[chosen].names):
                moves[index] = other.best_move(present, known)


class _Move(NamedTuple):
    """Remove the next `chunks` of a group; `price` is their worth per unit of cost saved."""

    chunks: int
    price: float


class _Queue:
    """A group's removable units in chunks, lowest worth first.

    Attributes:
        names: layers that read or write any of them.
        sizes: number of units of each chunk.
    """

    def __init__(self, graph: ChannelGraph, units: ChannelIds, values: UnitScores, sizes: list[int]) -> None:
        self.sizes = sizes
        self._units = units
        self._worth = np.concatenate([[0.0], np.cumsum(values[units])])
        self._done = 0
        self._ends = np.cumsum([0, *sizes])
        # layer name -> (removed units + 1, 2): inputs and outputs that the layer has lost by then
        self._lost: dict[str, NDArray[np.intp]] = {}
        for name, layer in graph.layers.items():
            sides = (np.bincount(ids, minlength=graph.unit_count) for ids in (layer.inputs, layer.outputs))
            counts = np.stack([side[units] for side in sides], axis=1)
            if counts.any():
                self._lost[name] = np.concatenate([np.zeros((1, 2), np.intp), np.cumsum(counts, axis=0)])
        self.names = frozenset(self._lost)

    def pop(self, present: dict[str, tuple[int, int]]) -> ChannelIds:
        """Remove the next chunk and narrow the layers by it."""
        present.update(self._after(present, 1))
        start, end = self._ends[self._done : self._done + 2]
        self._done += 1
        return self._units[start:end]

    def best_move(self, present: Mapping[str, tuple[int, int]], cost: LayerCost) -> _Move | None:
        """The cheapest number of next chunks to remove; None at the floor."""
        best: _Move | None = None
        now = sum(cost(name, *present[name]) for name in self.names)
        start = self._ends[self._done]
        for count in range(1, min(_AHEAD, len(self.sizes) - self._done) + 1):
            saved = now - sum(cost(name, *widths) for name, widths in self._after(present, count).items())
            worth = float(self._worth[self._ends[self._done + count]] - self._worth[start])
            price = worth / saved if saved > 0 else np.inf if worth > 0 else 0.0
            if best is None or price < best.price:
                best = _Move(count, price)
        return best

    def _after(self, present: Mapping[str, tuple[int, int]], count: int) -> dict[str, tuple[int, int]]:
        """The layers' widths after removing the next `count` chunks."""
        start, end = self._ends[self._done], self._ends[self._done + count]
        widths = {}
        for name, lost in self._lost.items():
            inputs, outputs = (lost[end] - lost[start]).tolist()
            widths[name] = (present[name][0] - inputs, present[name][1] - outputs)
        return widths


def _queues(graph: ChannelGraph, values: UnitScores, widths: WidthLimits) -> list[_Queue]:
    """A queue for each group."""
    found = []
    for group in groups(graph):
        free = group.units[~graph.pinned[group.units] & np.isfinite(values[group.units])]
        bundles = _bundles(graph, free, values)
        floor = max(widths.min_channels, int(len(group.units) * widths.layer_keep), 1)
        units = np.concatenate([free[:0], *bundles])
        removable = max(0, len(units) - max(0, floor - (len(group.units) - len(units))))
        sizes = _chunk_sizes(len(group.units), removable, widths.align, len(bundles[0]) if bundles else 1)
        found.append(_Queue(graph, units, values, sizes))
    return found


def _chunk_sizes(width: int, removable: int, align: int, bundle: int) -> list[int]:
    """Sizes of chunks after which the width is a multiple of `align`; each is a number of whole bundles.

    >>> _chunk_sizes(20, 18, 8, 1)
    [4, 8]
    """
    step = align * bundle // np.gcd(align, bundle)
    first = width % step or step
    sizes, left = [], removable
    for size in [first] + [int(step)] * (width // int(step)):
        if size > left:
            break
        sizes.append(int(size))
        left -= size
    return sizes


def _bundles(graph: ChannelGraph, units: ChannelIds, values: UnitScores) -> list[NDArray[np.intp]]:
    """Units to remove together, lowest worth first: one of each part that must keep equally many."""
    own = set(units.tolist())
    for sections in graph.equal_sections:
        parts = [np.array([unit for unit in ids.tolist() if unit in own], dtype=np.intp) for ids in sections]
        if sum(map(len, parts)) == len(units) and len({len(part) for part in parts}) == 1 and len(units):
            ranked = [part[np.argsort(values[part], kind="stable")] for part in parts]
            return list(np.stack(ranked, axis=1))
    return [np.array([unit], dtype=np.intp) for unit in units[np.argsort(values[units], kind="stable")]]


def fits_all(limits: Sequence[tuple[Cost, float]]) -> Callable[[UnitMask], bool]:
    """A test of masks: whether every cost is within its limit."""
    return lambda keep: all(cost(keep) <= limit for cost, limit in limits)
