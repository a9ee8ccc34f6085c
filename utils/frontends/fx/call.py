"""Labelled tensors, and one operation of the example run as the rules see it.

Every number of a tensor is labelled with the channel it belongs to. Operations that only move numbers (view,
permute, cat, chunk, slices) are run on the labels as they are run on the numbers, so a flattened map, a
channel shuffle or half of a tensor needs no rule of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ...pruning.channels import ChannelIds, ChannelTracer, Tie

INPUT = "its reader takes an input of the network, or a constant"
Labels = Tensor  # int64, shaped as the numbers


@dataclass(frozen=True)
class Value:
    """A tensor of the example run.

    Attributes:
        tensor: its numbers.
        labels: id of the channel of each number; None where nothing can be removed: images, constants.
        name: of the parameter or buffer that it is; empty for all others.
    """

    tensor: Tensor
    labels: Labels | None = None
    name: str = ""

    @property
    def axes(self) -> tuple[int, ...]:
        """Those along which the labels vary."""
        if self.labels is None:
            return ()
        (labels,) = _once(self.labels)
        return tuple(
            axis
            for axis in range(labels.ndim)
            if labels.shape[axis] > 1 and bool((labels != labels.narrow(axis, 0, 1)).any())
        )


def spread(ids: ChannelIds, shape: Sequence[int], axis: int) -> Labels:
    """Labels of a tensor of `shape` whose channels lie along `axis`."""
    sizes = [1] * len(shape)
    sizes[axis] = len(ids)
    return torch.from_numpy(ids.astype(np.int64)).view(sizes).expand(*shape)


def channels(tracer: ChannelTracer, value: Value, axis: int, reason: str) -> ChannelIds:
    """Ids of the channels of `value` along `axis`; what is mixed in one channel lives and dies together.

    Args:
        tracer: is told of ties, and pins the channels of a tensor that has none.
        value: any tensor.
        axis: where its channels are looked for.
        reason: why channels of a tensor without labels are pinned.
    """
    if value.labels is None:
        ids = tracer.new(value.tensor.shape[axis])
        tracer.pin(ids, reason)
        return ids
    (labels,) = _once(value.labels, but=axis)
    rows = labels.movedim(axis, 0).reshape(labels.shape[axis], -1)
    first = rows[:, :1]
    if bool((rows != first).any()):
        tie_labels(tracer, first.expand_as(rows), rows, "joint")
    return first.flatten().numpy().astype(np.intp)


def tie_labels(tracer: ChannelTracer, first: Labels, second: Labels, kind: Tie) -> None:
    """Tie what stands at the same place of both."""
    one, other = (labels.flatten().numpy() for labels in _once(first, second))
    differ = one != other
    tracer.tie(*unique_pairs(one[differ], other[differ]), kind)


def unique_pairs(one: ChannelIds, other: ChannelIds) -> tuple[ChannelIds, ChannelIds]:
    """What stands at the same place of both, each pair once."""
    base = int(other.max(initial=0)) + 1  # a pair as one number: sorting these is much faster than rows
    first, second = np.divmod(np.unique(one * base + other), base)
    return first, second


def pin_labels(tracer: ChannelTracer, value: Value, reason: str) -> None:
    """Never remove any of a tensor's channels."""
    if value.labels is not None:
        tracer.pin(np.unique(_once(value.labels)[0].numpy()).astype(np.intp), reason)


def _once(*labels: Labels, but: int | None = None) -> tuple[Labels, ...]:
    """Without their repetitions along axes, other than `but`, that all of them are expanded along."""
    for axis in range(labels[0].ndim):
        if axis != but and all(each.stride(axis) == 0 for each in labels):
            labels = tuple(each.narrow(axis, 0, 1) for each in labels)
    return labels


def attribute(owner: nn.Module, name: str) -> nn.Module | Tensor:
    """The module, parameter or buffer of this dotted name."""
    parent, _, leaf = name.rpartition(".")
    found = getattr(owner.get_submodule(parent), leaf)
    assert isinstance(found, nn.Module | Tensor)
    return found


@dataclass(frozen=True)
class Size:
    """A number in the traced code that counts channels: it becomes how many of them are kept.

    Attributes:
        node: name of the node.
        path: which of its arguments.
        ids: the channels that it counts.
    """

    node: str
    path: tuple[int | str, ...]
    ids: ChannelIds


@dataclass
class Trace:
    """What is known of a network while it is traced.

    Attributes:
        layers: name -> channels that it reads and writes.
        followers: name of a module or parameter -> its channels.
        weights: identity of the weights of each layer -> the first layer that has them.
        followed: names of the nodes at which a parameter was found to follow.
        sizes: numbers in the code that count channels.
        not_followed: what pinned what it reads, a text each.
    """

    tracer: ChannelTracer = field(default_factory=ChannelTracer)
    layers: dict[str, tuple[ChannelIds, ChannelIds]] = field(default_factory=dict)
    followers: dict[str, ChannelIds] = field(default_factory=dict)
    weights: dict[int, str] = field(default_factory=dict)
    followed: set[str] = field(default_factory=set)
    sizes: list[Size] = field(default_factory=list)
    not_followed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """One operation of the example run.

    Attributes:
        trace: what is known so far.
        node: of the traced graph; its arguments are numbers where the code has numbers.
        args, kwargs: the values in the place of its arguments.
        run: the operation on other tensors in the place of its values.
        result: what it gave.
        name: of the module that was called; empty for functions and methods.
        module: the module.
    """

    trace: Trace
    node: fx.Node
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    run: Callable[[Callable[[Value], Tensor]], Any]
    result: Any
    name: str = ""
    module: nn.Module | None = None

    @property
    def values(self) -> list[Value]:
        """All tensors that are read, in order."""
        return [
            leaf for leaf in pytree.tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Value)
        ]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """By position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def literal(self, *path: int | str) -> int | None:
        """The number that the code itself has at an argument, None where it is computed."""
        found: Any = self.node.kwargs if isinstance(path[0], str) else self.node.args
        for step in path:
            found = found[step]
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    def counts(self, ids: ChannelIds, *path: int | str) -> None:
        """The number at an argument says how many of `ids` there are."""
        self.trace.sizes.append(Size(self.node.name, path, ids))

    def follows(self, name: str, ids: ChannelIds, axis: int = 0) -> None:
        """A module or parameter has an entry for each of `ids`, whichever call of it this is."""
        known = self.trace.followers.setdefault(name, ids)
        if known is ids:
            self.trace.tracer.follow(name, ids, axis)
        elif not np.array_equal(known, ids):
            self.trace.tracer.tie(known, ids, "joint")

    def refuse(self, reason: str = "is not known") -> Any:
        """Pin all that the operation reads, and report it; its result has no labels."""
        self.keep_all(reason)

    def read(self, value: Value, axis: int) -> ChannelIds:
        """Ids of the channels of `value` along `axis`; if others tell them apart they stay."""
        if value.axes and axis not in value.axes:
            self.keep_all("mixes channels, which lie along another axis")
        return channels(self.trace.tracer, value, axis, INPUT)

    def keep_one(self, value: Value) -> None:
        """Pin the one channel of `value`, which meets all of another tensor's.

        A layer's only one is never removed anyway.
        """
        assert value.labels is not None
        one = int(value.labels.flatten()[0])
        if not any(written.tolist() == [one] for _, written in self.trace.layers.values()):
            pin_labels(self.trace.tracer, value, f"{self.node.name} ({self.what}) takes it to all channels")

    def keep_all(self, reason: str) -> None:
        """Pin all that the operation reads, and report it."""
        text = f"{self.node.name} ({self.what}) {reason}"
        for value in self.values:
            pin_labels(self.trace.tracer, value, text)
        if any(value.labels is not None for value in self.values):
            self.trace.not_followed.append(text)

    @property
    def what(self) -> str:
        """The operation as users know it."""
        if self.module is not None:
            return f"{type(self.module).__name__} {self.name}"
        return str(getattr(self.node.target, "__name__", self.node.target))


Rule = Callable[[Call], Any]  # -> labels of the result: a tensor, or several as the operation has several
