"""One operation of the example run, as the rules of `fx_rules` see it, and what is noted on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ...pruning.channels import ChannelIds, ChannelTracer
from .values import Value, channels, pin_labels

INPUT = "its reader takes an input of the network, or a constant"


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
