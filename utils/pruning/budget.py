"""The best network that fits: what to remove until a cost is met.

Idea (HALP, Shen et al. 2022): a knapsack over groups. From the whole network on, the chunk of units goes
that is worth least for what its removal saves, and so on; what a layer costs depends on both its widths, so
after each removal the neighbours' savings are computed anew. Widths step from stair end to stair end, since
all that lies between costs as much as the end above it.

The removals form one sequence. Legal masks along it cost ever less, so the budget is met by bisection on the
cost *after* `ChannelGraph.legal`.

Invariant: a mask of `Removals` is legal, keeps what is pinned and the floors; that of `within` fits.
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

# How many chunks ahead a group looks for a stair to end.
_AHEAD = 6


@dataclass(frozen=True)
class Removals:
    """The sequence: chunks of units, first to go first, and the units' worth.

    Attributes:
        graph: the network's channels.
        chunks: units each; those of one group in the order of their worth.
        owners: number of each chunk's group.
        values: (units,) what a unit is worth.
        widths: allowed.
    """

    graph: ChannelGraph
    chunks: tuple[ChannelIds, ...]
    owners: tuple[int, ...]
    values: UnitScores
    widths: WidthLimits

    def mask(self, removed: Iterable[int]) -> UnitMask:
        """(units,) the legal mask without the chunks of these numbers."""
        keep = np.ones(self.graph.unit_count, dtype=np.bool_)
        for number in removed:
            keep[self.chunks[number]] = False
        return self.graph.legal(keep, self.values, self.widths.align, self.widths.min_channels)

    def worthless(self, share: float) -> int:
        """How many chunks, from the first, are worth at most this share of all units together."""
        worth = np.cumsum([self.values[chunk].sum() for chunk in self.chunks])
        whole = self.values[np.isfinite(self.values)].sum()
        return int(np.searchsorted(worth, share * whole, side="right"))

    def within(self, fits: Callable[[UnitMask], bool]) -> UnitMask:
        """The most valuable mask found that fits.

        The chunk that crosses the line may be a large one: the sequence is also tried without the rest of its
        group, and what room is left is filled with the chunks that went last.

        Raises:
            PruningError: not even the whole sequence fits.
        """
        everything = list(range(len(self.chunks)))
        if fits(self.mask([])):
            return self.mask([])
        shortest = self._shortest(everything, fits)
        if shortest is None:
            raise PruningError("", "the budget is smaller than the smallest network that the floors allow")
        found = [self._filled(shortest, fits)]
        crossing = shortest[-1]
        others = [n for n in everything if n < crossing or self.owners[n] != self.owners[crossing]]
        without = self._shortest(others, fits)
        if without is not None:
            found.append(self._filled(without, fits))
        return max(found, key=self._worth)

    def _shortest(self, order: list[int], fits: Callable[[UnitMask], bool]) -> list[int] | None:
        """The shortest beginning of `order` whose removal fits; longer ones are taken to fit too."""
        low, high = 0, len(order)
        if not fits(self.mask(order)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(self.mask(order[:middle])) else (middle, high)
        return order[:high]

    def _filled(self, removed: list[int], fits: Callable[[UnitMask], bool]) -> UnitMask:
        """Take chunks back, last gone first, each if it fits; a group's better ones before its worse ones."""
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
    """Plan the whole sequence, down to the floors.

    Args:
        graph: the network's channels.
        values: (units,) what a unit is worth; inf stays, as pinned ones do.
        cost: what one layer costs at its widths.
        widths: allowed.
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
    """Take the next `chunks` of a group: `price` is what they are worth for each unit of cost saved."""

    chunks: int
    price: float


class _Queue:
    """A group's units that may go, worst first, in chunks.

    Attributes:
        names: layers that read or write any of them.
        sizes: units of each chunk.
    """

    def __init__(self, graph: ChannelGraph, units: ChannelIds, values: UnitScores, sizes: list[int]) -> None:
        self.sizes = sizes
        self._units = units
        self._worth = np.concatenate([[0.0], np.cumsum(values[units])])
        self._done = 0
        self._ends = np.cumsum([0, *sizes])
        # inputs and outputs that a layer has lost when so many units are gone
        self._lost: dict[str, NDArray[np.intp]] = {}
        for name, layer in graph.layers.items():
            sides = (np.bincount(ids, minlength=graph.unit_count) for ids in (layer.inputs, layer.outputs))
            counts = np.stack([side[units] for side in sides], axis=1)
            if counts.any():
                self._lost[name] = np.concatenate([np.zeros((1, 2), np.intp), np.cumsum(counts, axis=0)])
        self.names = frozenset(self._lost)

    def pop(self, present: dict[str, tuple[int, int]]) -> ChannelIds:
        """Take the next chunk and narrow the layers by it."""
        present.update(self._after(present, 1))
        start, end = self._ends[self._done : self._done + 2]
        self._done += 1
        return self._units[start:end]

    def best_move(self, present: Mapping[str, tuple[int, int]], cost: LayerCost) -> _Move | None:
        """The cheapest way to take some of the next chunks; None at the floor."""
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
        """The layers' widths without the next `count` chunks."""
        start, end = self._ends[self._done], self._ends[self._done + count]
        widths = {}
        for name, lost in self._lost.items():
            inputs, outputs = (lost[end] - lost[start]).tolist()
            widths[name] = (present[name][0] - inputs, present[name][1] - outputs)
        return widths


def _queues(graph: ChannelGraph, values: UnitScores, widths: WidthLimits) -> list[_Queue]:
    """One for each group with something to remove."""
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
    """Chunks after which the width is a multiple of `align`, whole bundles each.

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
    """Units that should go together, worst first: one out of each of parts that must stay equally long."""
    own = set(units.tolist())
    for sections in graph.equal_sections:
        parts = [np.array([unit for unit in ids.tolist() if unit in own], dtype=np.intp) for ids in sections]
        if sum(map(len, parts)) == len(units) and len({len(part) for part in parts}) == 1 and len(units):
            ranked = [part[np.argsort(values[part], kind="stable")] for part in parts]
            return list(np.stack(ranked, axis=1))
    return [np.array([unit], dtype=np.intp) for unit in units[np.argsort(values[units], kind="stable")]]


def fits_all(limits: Sequence[tuple[Cost, float]]) -> Callable[[UnitMask], bool]:
    """Whether a mask costs at most the limit of every cost."""
    return lambda keep: all(cost(keep) <= limit for cost, limit in limits)
