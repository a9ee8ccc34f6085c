"""Which channels of a network must be kept or removed together.

A tensor is described by a vector of ids, one per channel. A front end walks its network once, in order, and
reports what each operation does to these vectors; ties are merged by union-find, and the resulting classes
are the *units*. From then on the masks of any layer are indexing: `keep[layer.inputs]` and
`keep[layer.outputs]`.

A residual block of two layers, traced by hand:

>>> tracer = ChannelTracer()
>>> image = tracer.new(3)
>>> stem = tracer.layer("stem", image, 4)
>>> branch = tracer.layer("branch", stem, 4)
>>> tracer.tie(stem, branch)                       # the shortcut adds them
>>> graph = tracer.finish()
>>> graph.unit_count                               # 3 of the image, 4 that stem and branch share
7
>>> keep = np.arange(7) != graph.layers["stem"].outputs[1]
>>> keep[graph.layers["branch"].outputs].tolist()
[True, False, True, True]

Invariant of `legal`: it only adds, is idempotent, keeps what is pinned, and leaves no tensor empty.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ChannelIds = NDArray[np.intp]
UnitMask = NDArray[np.bool_]  # True = keep
UnitScores = NDArray[np.float64]
Tie = Literal["additive", "serial", "gate", "joint"]


@dataclass(frozen=True)
class WidthLimits:
    """Widths that pruning may leave.

    Attributes:
        align: kept widths are multiples of it; a layer that stays whole keeps its width.
        min_channels: the fewest channels that a layer keeps.
        layer_keep: the smallest share of its channels that a layer keeps, 0..1.
    """

    align: int = 1
    min_channels: int = 1
    layer_keep: float = 0.0


@dataclass(frozen=True)
class Layer:
    """The channels that a layer with weights reads and writes.

    Attributes:
        inputs: units of the input channels, in order.
        outputs: units of the output channels, in order.
        chains: for each output channel the number of its serial chain (see `ChannelGraph.chain_units`).
        groups: groups of the convolution; 1 for an ordinary one.
        depthwise: every output channel reads exactly one input channel.
        norm: name of the batch norm directly after the layer, if there is one.
    """

    inputs: ChannelIds
    outputs: ChannelIds
    chains: ChannelIds
    groups: int = 1
    depthwise: bool = False
    norm: str | None = None


@dataclass(frozen=True)
class Follower:
    """Per-channel parameters (batch norm, PReLU, ...) on a tensor; `axis` is their channel axis."""

    channels: ChannelIds
    axis: int = 0


@dataclass(frozen=True)
class ChannelGraph:
    """Units of a network and the constraints on them.

    Attributes:
        layers: layer name -> its channels, in the order of the network.
        followers: name of a module or parameter -> the channels it belongs to.
        pinned: (units,) those that are never removed.
        pin_reasons: pinned unit -> the reason.
        equal_sections: tensors divided into parts that must keep equally many channels.
        coupled: (units,) those that several writers add to (shortcuts).
        chain_units: (chains,) unit of each serial chain. A chain is one writer: a layer together with the
            depthwise layers after it, dead as soon as one of them is.
        gates: (chains,) those that only scale channels; without a score they have no vote.
    """

    layers: Mapping[str, Layer]
    followers: Mapping[str, Follower]
    pinned: UnitMask
    pin_reasons: Mapping[int, str]
    equal_sections: tuple[tuple[ChannelIds, ...], ...]
    coupled: UnitMask
    chain_units: ChannelIds
    gates: NDArray[np.bool_]

    @property
    def unit_count(self) -> int:
        """Number of units."""
        return len(self.pinned)

    def pinning(self, layers: Iterable[str], reason: str) -> "ChannelGraph":
        """The same graph with all outputs of these layers pinned too."""
        return self.keeping({unit: reason for name in layers for unit in self.layers[name].outputs.tolist()})

    def keeping(self, reasons: Mapping[int, str]) -> "ChannelGraph":
        """The same graph with these units pinned too; one that is pinned already keeps its reason."""
        reasons = {**reasons, **self.pin_reasons}
        pinned = _marked(self.unit_count, np.fromiter(reasons, dtype=np.intp))
        return replace(self, pinned=pinned, pin_reasons=reasons)

    def tensors(self) -> Iterator[ChannelIds]:
        """Every tensor that must keep at least one channel."""
        for layer in self.layers.values():
            yield layer.outputs
            yield layer.inputs
        for follower in self.followers.values():
            yield follower.channels
        for sections in self.equal_sections:
            yield from sections

    def legal(self, keep: UnitMask, scores: UnitScores, align: int = 1, min_channels: int = 1) -> UnitMask:
        """A mask that a network can have: `keep` plus the best-scored units that the constraints require.

        Args:
            keep: (units,) the requested mask.
            scores: (units,) importance, higher is restored first; inf and -inf are allowed.
            align: kept output widths of layers are rounded up to a multiple of it, or to the full width.
            min_channels: the fewest channels that a tensor keeps (all if it has fewer); 1 or more.

        Returns:
            (units,) a new mask that keeps all of `keep` and the pinned units; no tensor is empty, and equal
            sections are equal.
        """
        keep = keep | self.pinned
        sectioned = {ids.tobytes() for sections in self.equal_sections for ids in sections}
        # Only written tensors: a concatenation with a part of odd width would ratchet up the other parts.
        written = {layer.outputs.tobytes() for layer in self.layers.values()}
        free = [
            (ids, align if key in written else 1)
            for key, ids in {ids.tobytes(): ids for ids in self.tensors()}.items()
            if key not in sectioned
        ]
        while True:
            before = int(keep.sum())
            for tensor, step in free:
                _restore(keep, tensor, _aligned(max(min_channels, int(keep[tensor].sum())), step), scores)
            for sections in self.equal_sections:
                # Aligned jointly: aligning one section, then equalising, would ratchet up to the full width.
                step = max(1, align // len(sections))
                share = -(-min_channels // len(sections))
                most = _aligned(max(share, *(int(keep[ids].sum()) for ids in sections)), step)
                for ids in sections:
                    _restore(keep, ids, most, scores)
            if int(keep.sum()) == before:
                return keep


def _aligned(count: int, align: int) -> int:
    return -(-count // align) * align


def _restore(keep: UnitMask, tensor: ChannelIds, count: int, scores: UnitScores) -> None:
    """Restore the best removed units of `tensor` until it has `count` channels, or all; in place."""
    missing = min(count, len(tensor)) - int(keep[tensor].sum())
    if missing <= 0:
        return
    removed, multiplicity = np.unique(tensor[~keep[tensor]], return_counts=True)
    order = np.argsort(-scores[removed], kind="stable")
    needed = int(np.searchsorted(np.cumsum(multiplicity[order]), missing)) + 1
    keep[removed[order[:needed]]] = True


def components(count: int, ties: Iterable[tuple[ChannelIds, ChannelIds]]) -> ChannelIds:
    """(count,) the class of each of the integers 0 .. count - 1, named by its smallest member.

    Args:
        count: how many integers there are.
        ties: pairs of vectors of equal lengths; integers at the same place are in one class.

    >>> components(4, [(np.array([3, 2]), np.array([1, 2]))]).tolist()
    [0, 1, 2, 1]
    """
    names = np.arange(count, dtype=np.intp)
    pairs = [np.zeros((2, 0), dtype=np.intp), *map(np.stack, ties)]
    first, second = np.concatenate(pairs, axis=1)
    while True:
        one, other = names[first], names[second]
        apart = one != other
        if not apart.any():
            return names
        first, second, one, other = first[apart], second[apart], one[apart], other[apart]
        np.minimum.at(names, np.maximum(one, other), np.minimum(one, other))
        while ((further := names[names]) != names).any():
            names = further


class ChannelTracer:
    """Records what a front end reports about its network; `finish` returns the `ChannelGraph`."""

    def __init__(self) -> None:
        self.count = 0  # of ids
        self._ties: list[tuple[ChannelIds, ChannelIds]] = []
        self._serial: list[tuple[ChannelIds, ChannelIds]] = []
        self._layers: dict[str, Layer] = {}  # of ids, until `finish` makes them units
        self._followers: dict[str, Follower] = {}
        self._pins: dict[int, str] = {}
        self._coupled: list[ChannelIds] = []
        self._gates: list[ChannelIds] = []
        self._sections: list[tuple[ChannelIds, ...]] = []

    def new(self, count: int) -> ChannelIds:
        """`count` new ids, not tied to any other."""
        self.count += count
        return np.arange(self.count - count, self.count, dtype=np.intp)

    def layer(
        self, name: str, inputs: ChannelIds, out_channels: int, groups: int = 1, norm: str | None = None
    ) -> ChannelIds:
        """Add a layer with weights that reads `inputs`; return the ids of its output.

        A depthwise layer (`groups == inputs`) ties its outputs serially to its inputs; any other grouped one
        must keep equally many channels in each group, on both sides.

        Raises:
            ValueError: the name is already used, or `groups` does not divide the channels.
        """
        if name in self._layers:
            raise ValueError(f"{name}: traced twice")
        if len(inputs) % groups or out_channels % groups:
            raise ValueError(f"{name}: groups={groups} do not divide {len(inputs)} -> {out_channels}")
        outputs = self.new(out_channels)
        depthwise = groups > 1 and groups == len(inputs)
        if depthwise:
            self.tie(outputs, np.repeat(inputs, out_channels // groups), "serial")
        elif groups > 1:
            self.section(inputs, groups)
            self.section(outputs, groups)
        self._layers[name] = Layer(inputs, outputs, outputs, groups, depthwise, norm)
        if norm is not None:
            self.follow(norm, outputs)
        return outputs

    def record(self, name: str, layer: Layer) -> None:
        """Add a layer whose input and output ids exist; a name that is used already keeps its first layer."""
        self._layers.setdefault(name, layer)

    def norm(self, name: str, norm: str) -> None:
        """Say which batch norm is directly after a layer."""
        self._layers[name] = replace(self._layers[name], norm=norm)

    def tie(self, first: ChannelIds, second: ChannelIds, kind: Tie = "additive") -> None:
        """Tie channel i of both: they are kept or removed together.

        Args:
            first, second: (n,) ids.
            kind: "additive": a sum; "serial": dead as soon as one is; "gate": the second only scales the
                first, as in squeeze-and-excitation; "joint": only the tie.

        Raises:
            ValueError: the lengths differ.
        """
        if len(first) != len(second):
            raise ValueError(f"cannot tie {len(first)} channels to {len(second)}")
        self._ties.append((first, second))
        if kind == "serial":
            self._serial.append((first, second))
        if kind == "additive":
            self._coupled += [first, second]
        elif kind == "gate":
            self._gates.append(second)

    def section(self, ids: ChannelIds, count: int) -> list[ChannelIds]:
        """Divide `ids` into `count` equal parts that must keep equally many channels.

        Raises:
            ValueError: `count` does not divide the length.
        """
        if len(ids) % count:
            raise ValueError(f"cannot divide {len(ids)} channels into {count} equal parts")
        parts = [np.ascontiguousarray(part) for part in np.split(ids, count)]
        self.equal(parts)
        return parts

    def equal(self, parts: Sequence[ChannelIds]) -> None:
        """Require parts of a tensor to keep equally many channels."""
        self._sections += [tuple(parts)] if len(parts) > 1 else []

    def follow(self, name: str, ids: ChannelIds, axis: int = 0) -> None:
        """Add parameters `name` with one entry per channel of `ids` along `axis`."""
        self._followers[name] = Follower(ids, axis)

    def pin(self, ids: ChannelIds, reason: str) -> None:
        """Never remove these channels; the first reason given is kept."""
        for item in ids.tolist():
            self._pins.setdefault(item, reason)

    def units(self) -> ChannelIds:
        """(ids,) the unit of each id, numbered in the order in which they were first seen."""
        return np.unique(components(self.count, self._ties), return_inverse=True)[1].astype(np.intp)

    def finish(self, units: ChannelIds | None = None) -> ChannelGraph:
        """The graph over units; a caller that has `units()` already gives them."""
        units = self.units() if units is None else units
        count = int(units.max(initial=-1)) + 1
        chains = components(self.count, self._serial)
        written = np.concatenate([chains[:0], *(chains[layer.outputs] for layer in self._layers.values())])
        chain_names = np.unique(written)
        reasons: dict[int, str] = {}
        for item, reason in self._pins.items():
            reasons.setdefault(int(units[item]), reason)
        return ChannelGraph(
            layers={
                name: replace(
                    layer,
                    inputs=units[layer.inputs],
                    outputs=units[layer.outputs],
                    chains=np.searchsorted(chain_names, chains[layer.chains]).astype(np.intp),
                )
                for name, layer in self._layers.items()
            },
            followers={name: Follower(units[f.channels], f.axis) for name, f in self._followers.items()},
            pinned=_marked(count, np.fromiter(reasons, dtype=np.intp)),
            pin_reasons=reasons,
            equal_sections=tuple(tuple(units[ids] for ids in parts) for parts in self._sections),
            coupled=_marked(count, *(units[ids] for ids in self._coupled)),
            chain_units=units[chain_names],
            gates=np.isin(chain_names, [chains[item] for ids in self._gates for item in ids.tolist()]),
        )


def _marked(count: int, *members: ChannelIds) -> UnitMask:
    mask = np.zeros(count, dtype=np.bool_)
    for ids in members:
        mask[ids] = True
    return mask


def encode_mask(mask: UnitMask) -> str:
    """A mask as text, "count:hex".

    >>> encode_mask(np.array([True, False, False, True, True]))
    '5:98'
    """
    return f"{len(mask)}:{np.packbits(mask).tobytes().hex()}"


def decode_mask(text: str) -> UnitMask:
    """The mask of a text: `decode_mask(encode_mask(mask)) == mask`."""
    count, _, digits = text.partition(":")
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8), count=int(count))
    return bits.astype(np.bool_)
