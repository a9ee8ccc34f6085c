"""Rules of what computes with numbers: alone, with one another, over axes."""

import math
from typing import Any

from torch import Tensor, fx, nn

from ..call import INPUT, Call
from ..parameters import attribute
from ..values import Labels, Value, channels, spread, tie_labels


def same(call: Call) -> Labels | None:
    """Number by number."""
    return call.values[0].labels


def channelwise(call: Call) -> Labels | list[Labels] | None:
    """Within each channel, which lie along axis 1."""
    (value, *_) = call.values
    if value.labels is None:
        return None
    ids = call.read(value, 1)
    if isinstance(call.result, Tensor):
        return spread(ids, call.result.shape, 1)
    return [spread(ids, part.shape, 1) for part in call.result]  # the largest, and where they were


def added(call: Call) -> Labels | None:
    """A sum: dead only if all summands are."""
    return _binary(call, "additive")


def multiplied(call: Call) -> Labels | None:
    """A product, often a map and its gate."""
    return _binary(call, "gate")


def combined(call: Call) -> Labels | None:
    """Anything else of several tensors."""
    return _binary(call, "joint")


def _binary(call: Call, kind: Any) -> Labels | None:
    """Tensors, broadcast: what meets lives and dies together."""
    values = call.values
    labelled = [value for value in values if value.labels is not None]
    if len(labelled) < 2:
        return _beside_constant(call, labelled[0], values) if labelled else None
    first, *others = sorted(labelled, key=lambda value: -_size(value.tensor))
    if kind == "gate":
        kind = (
            "gate" if _is_gate(call, others[0]) and _size(others[0].tensor) < _size(first.tensor) else "joint"
        )
    assert first.labels is not None
    labels = first.labels.expand(call.result.shape)
    varying = set(Value(call.result, labels).axes)
    for other in others:
        assert other.labels is not None
        shape = (*[1] * (call.result.ndim - other.tensor.ndim), *other.tensor.shape)
        own = other.labels.expand(call.result.shape)
        if varying.isdisjoint(axes := Value(call.result, own).axes) and varying:
            if axes:
                return call.refuse("meets channels that lie along another axis")
            if all(shape[axis] == 1 for axis in varying):
                call.keep_one(other)
                continue
            call.keep_all("meets one channel as often as its code says")
        tie_labels(call.trace.tracer, labels, own, kind)
    return labels


def _is_gate(call: Call, value: Value) -> bool:
    """Whether nothing else reads it."""
    nodes = [node for node, given in zip(call.node.args, call.args, strict=True) if given is value]
    return all(isinstance(node, fx.Node) and len(node.users) == 1 for node in nodes)


def _size(tensor: Tensor) -> int:
    """Numbers of its own, an expanded one counted once."""
    return math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)


def _beside_constant(call: Call, value: Value, values: list[Value]) -> Labels | None:
    """A number fits any width; a parameter for each channel follows; what has a width of its own pins."""
    assert value.labels is not None
    labels = value.labels.expand(call.result.shape)
    for other in values:
        if other is value:
            continue
        offset = call.result.ndim - other.tensor.ndim
        shared = [
            axis
            for axis in Value(call.result, labels).axes
            if axis >= offset and other.tensor.shape[axis - offset] > 1
        ]
        if not shared:
            continue
        if len(shared) == 1 and other.name and other.tensor.shape[shared[0] - offset] == other.tensor.numel():
            owner = call.node.graph.owning_module
            assert owner is not None
            if isinstance(attribute(owner, other.name), nn.Parameter):
                call.trace.followed.add(call.node.name)
                ids = channels(call.trace.tracer, Value(call.result, labels), shared[0], INPUT)
                call.follows(other.name, ids, shared[0] - offset)
                continue
        return call.refuse("meets a constant of its own width")
    return labels


def reduced(call: Call) -> Labels | None:
    """Mean, sum, ... over axes along which the labels do not vary."""
    (value,) = call.values
    axes = call.argument(1, "dim")
    axes = range(value.tensor.ndim) if axes is None else [axes] if isinstance(axes, int) else axes
    gone = sorted({axis % value.tensor.ndim for axis in axes})
    if value.labels is None:
        return None
    if set(gone) & set(value.axes) or isinstance(call.result, tuple):
        return call.refuse("mixes channels")
    labels = value.labels
    for axis in reversed(gone):
        labels = labels.select(axis, 0)
    return labels.reshape(call.result.shape)


def softmax(call: Call) -> Labels | None:
    """Over an axis that is not the channels'."""
    (value,) = call.values
    axis = getattr(call.module, "dim", None) if call.module is not None else call.argument(1, "dim")
    if axis is None or axis % value.tensor.ndim in value.axes:
        return call.refuse("mixes channels")
    return value.labels
