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

INPUT = "an input of the network, or a constant"
Labels = Tensor  # int64, of the tensor's shape


@dataclass(frozen=True)
class Value:
    """A tensor of the example run.

    Attributes:
        tensor: its values.
        labels: channel id of each value; None for images and constants, which are never narrowed.
        name: name of the parameter or buffer that it is; empty for all others.
    """

    tensor: Tensor
    labels: Labels | None = None
    name: str = ""

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes along which the labels vary."""
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
    """Ids of the channels of `value` along `axis`; ids mixed in one channel are tied.

    Args:
        tracer: records ties, and new pinned channels for a tensor without labels.
        value: any tensor.
        axis: its channel axis.
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
    """Tie the labels at the same place of both."""
    one, other = (labels.flatten().numpy() for labels in _once(first, second))
    differ = one != other
    tracer.tie(*unique_pairs(one[differ], other[differ]), kind)


def unique_pairs(one: ChannelIds, other: ChannelIds) -> tuple[ChannelIds, ChannelIds]:
    """Pairs of entries at the same place of both, each pair once."""
    base = int(other.max(initial=0)) + 1  # a pair as one number: sorting these is much faster than rows
    first, second = np.divmod(np.unique(one * base + other), base)
    return first, second


def pin_labels(tracer: ChannelTracer, value: Value, reason: str) -> None:
    """Pin all channels of a tensor."""
    if value.labels is not None:
        tracer.pin(np.unique(_once(value.labels)[0].numpy()).astype(np.intp), reason)


def _once(*labels: Labels, but: int | None = None) -> tuple[Labels, ...]:
    """The labels without repetitions along axes, except `but`, along which all of them are expanded."""
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
    """A channel count in the traced code, to be replaced by the number of kept channels.

    Attributes:
        node: name of the node.
        path: path to the number in its arguments.
        ids: the channels that it counts.
    """

    node: str
    path: tuple[int | str, ...]
    ids: ChannelIds


@dataclass
class Trace:
    """State of a network's trace.

    Attributes:
        layers: name -> channels that it reads and writes.
        followers: name of a module or parameter -> its channels.
        weights: identity of the weights of a layer -> the first layer that has them.
        followed: names of nodes that apply a per-channel parameter.
        sizes: channel counts in the code.
        not_followed: a text for each operation without a rule.
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
        trace: state of the trace so far.
        node: node of the traced graph, with the literal numbers of the code as arguments.
        args, kwargs: its arguments, tensors as `Value`s.
        run: runs the operation on other tensors in place of its values.
        result: its result.
        name: name of the called module; empty for functions and methods.
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
        """All tensors that it reads, in order."""
        return [
            leaf for leaf in pytree.tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Value)
        ]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def literal(self, *path: int | str) -> int | None:
        """The literal number at an argument; None if it is computed."""
        found: Any = self.node.kwargs if isinstance(path[0], str) else self.node.args
        for step in path:
            found = found[step]
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    def counts(self, ids: ChannelIds, *path: int | str) -> None:
        """Record that the number at an argument is the count of `ids`."""
        self.trace.sizes.append(Size(self.node.name, path, ids))

    def follows(self, name: str, ids: ChannelIds, axis: int = 0) -> None:
        """Record that a module or parameter has an entry for each of `ids`, in every call."""
        known = self.trace.followers.setdefault(name, ids)
        if known is ids:
            self.trace.tracer.follow(name, ids, axis)
        elif not np.array_equal(known, ids):
            self.trace.tracer.tie(known, ids, "joint")

    def refuse(self, reason: str = "is not supported") -> Any:
        """Pin all channels that the operation reads, and report it; its result has no labels."""
        self.keep_all(reason)

    def read(self, value: Value, axis: int) -> ChannelIds:
        """Ids of the channels of `value` along `axis`; pinned if the labels vary along another axis."""
        if value.axes and axis not in value.axes:
            self.keep_all("mixes channels, which are on another axis")
        return channels(self.trace.tracer, value, axis, INPUT)

    def keep_one(self, value: Value) -> None:
        """Pin the single channel of `value`, which is broadcast over all channels of another tensor.

        The only channel of a layer is never removed anyway.
        """
        assert value.labels is not None
        one = int(value.labels.flatten()[0])
        if not any(written.tolist() == [one] for _, written in self.trace.layers.values()):
            pin_labels(
                self.trace.tracer, value, f"{self.node.name} ({self.what}) broadcasts it over all channels"
            )

    def keep_all(self, reason: str) -> None:
        """Pin all channels that the operation reads, and report it."""
        text = f"{self.node.name} ({self.what}) {reason}"
        for value in self.values:
            pin_labels(self.trace.tracer, value, text)
        if any(value.labels is not None for value in self.values):
            self.trace.not_followed.append(text)

    @property
    def what(self) -> str:
        """Name of the operation for users."""
        if self.module is not None:
            return f"{type(self.module).__name__} {self.name}"
        return str(getattr(self.node.target, "__name__", self.node.target))


Rule = Callable[[Call], Any]  # -> labels of the result, one tensor for each tensor in it
