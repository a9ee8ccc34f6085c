"""Rules for operations that compute: layers, norms, activations, arithmetic, reductions, Darknet modules."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from ....darknet.modules import LocalAvgpool, RawHead, Reorg, Shortcut, Softmax
from ....profiling import TRANSPOSED
from ....pruning.layers import BATCH_NORMS, ChannelSelection, channel_axis, is_depthwise
from ..call import INPUT, Call, Labels, Rule, Value, attribute, channels, pin_labels, spread, tie_labels

_MIXES = "computes statistics over all channels"


def layer(call: Call) -> Labels:
    """Convolution or linear layer: the output has new channels."""
    module, (value,) = call.module, call.values
    assert module is not None
    if not isinstance(module.weight, nn.Parameter) and not isinstance(module, ChannelSelection):
        return call.refuse("computes its weights; remove the parametrization, such as weight_norm")
    axis, groups = channel_axis(module, value.tensor), getattr(module, "groups", 1)
    outputs = call.result.shape[axis]
    if isinstance(module, TRANSPOSED) and groups > 1 and not is_depthwise(module):
        return call.refuse("is transposed and grouped, which is not supported")
    if isinstance(module.weight, nn.Parameter):
        twin = call.trace.weights.setdefault(id(module.weight), call.name)
        if not _alike(call, module, twin):
            return call.refuse(f"shares the weights of {twin}, a layer of another kind")
    ids = call.read(value, axis)
    if call.name in call.trace.layers:  # called again: the same weights read and write both
        first, written = call.trace.layers[call.name]
        call.trace.tracer.tie(first, ids, "joint")
        return spread(written, call.result.shape, axis)
    norm = _norm_behind(call)
    written = call.trace.tracer.layer(call.name, ids, outputs, groups, norm)
    call.trace.layers[call.name] = ids, written
    if norm:
        call.trace.followers[norm] = written
    return spread(written, call.result.shape, axis)


def _alike(call: Call, module: nn.Module, twin: str) -> bool:
    owner = call.node.graph.owning_module
    assert owner is not None
    other = owner.get_submodule(twin)
    kinds = {isinstance(each, TRANSPOSED) for each in (module, other)}
    return len(kinds) == 1 and getattr(module, "groups", 1) == getattr(other, "groups", 1)


def selection(call: Call) -> Labels:
    """ChannelSelection: new channels, indexed from others, which are therefore pinned."""
    pin_labels(call.trace.tracer, call.values[0], f"{call.what} selects channels by number")
    return layer(call)


def _norm_behind(call: Call) -> str | None:
    """The batch norm that is the only reader of the layer; each of the two is called once."""
    behind = next(iter(call.node.users)) if len(call.node.users) == 1 else None
    if behind is None or behind.op != "call_module" or behind.args[0] is not call.node:
        return None
    owner = behind.graph.owning_module
    assert owner is not None
    found = owner.get_submodule(str(behind.target))
    called = [node.target for node in behind.graph.nodes if node.op == "call_module"]
    once = called.count(behind.target) == called.count(call.node.target) == 1
    return str(behind.target) if isinstance(found, BATCH_NORMS) and once else None


def follow(call: Call) -> Labels | None:
    """Modules with per-channel parameters."""
    (value,) = call.values
    ids = call.read(value, 1)
    call.follows(call.name, ids)
    return spread(ids, call.result.shape, 1)


def prelu(call: Call) -> Labels | None:
    """PReLU: one slope for all channels, or one per channel."""
    assert isinstance(call.module, nn.PReLU)
    return follow(call) if call.module.num_parameters > 1 else same(call)


def group_norm(call: Call) -> Labels | None:
    """GroupNorm: a group is removed as a whole, as its statistics are over all its channels."""
    assert isinstance(call.module, nn.GroupNorm)
    (value,), groups = call.values, call.module.num_groups
    if groups == 1:
        return call.refuse(_MIXES)
    ids = call.read(value, 1)
    for member in ids.reshape(groups, -1).T[1:]:
        call.trace.tracer.tie(ids.reshape(groups, -1)[:, 0], member, "joint")
    return follow(call)


def layer_norm(call: Call) -> Labels | None:
    """LayerNorm: pins channels if its statistics are over them."""
    assert isinstance(call.module, nn.LayerNorm)
    (value,) = call.values
    over = range(value.tensor.ndim - len(call.module.normalized_shape), value.tensor.ndim)
    return call.refuse(_MIXES) if set(over) & set(value.axes) else value.labels


def same(call: Call) -> Labels | None:
    """Elementwise operations of one tensor."""
    return call.values[0].labels


def channelwise(call: Call) -> Labels | list[Labels] | None:
    """Operations within each channel, along axis 1."""
    (value, *_) = call.values
    if value.labels is None:
        return None
    ids = call.read(value, 1)
    if isinstance(call.result, Tensor):
        return spread(ids, call.result.shape, 1)
    return [spread(ids, part.shape, 1) for part in call.result]  # max pooling with indices


def added(call: Call) -> Labels | None:
    """Sum: dead only if all summands are."""
    return _binary(call, "additive")


def multiplied(call: Call) -> Labels | None:
    """Product, often of a map and its gate."""
    return _binary(call, "gate")


def combined(call: Call) -> Labels | None:
    """Other elementwise operations of several tensors."""
    return _binary(call, "joint")


def _binary(call: Call, kind: Any) -> Labels | None:
    """Broadcast operands: channels that meet are tied."""
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
                return call.refuse("combines channels on different axes")
            if all(shape[axis] == 1 for axis in varying):
                call.keep_one(other)
                continue
            call.keep_all("repeats one channel a fixed number of times")
        tie_labels(call.trace.tracer, labels, own, kind)
    return labels


def _is_gate(call: Call, value: Value) -> bool:
    """Whether this is its only reader."""
    nodes = [node for node, given in zip(call.node.args, call.args, strict=True) if given is value]
    return all(isinstance(node, fx.Node) and len(node.users) == 1 for node in nodes)


def _size(tensor: Tensor) -> int:
    """Number of stored elements, expanded axes counted once."""
    return math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)


def _beside_constant(call: Call, value: Value, values: list[Value]) -> Labels | None:
    """With constants: scalars fit any width, per-channel parameters follow, other constants pin."""
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
        return call.refuse("is combined with a constant of fixed width")
    return labels


def reduced(call: Call) -> Labels | None:
    """Reductions over axes along which the labels do not vary."""
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
    """Softmax over another axis than the channels'."""
    (value,) = call.values
    axis = getattr(call.module, "dim", None) if call.module is not None else call.argument(1, "dim")
    if axis is None or axis % value.tensor.ndim in value.axes:
        return call.refuse("mixes channels")
    return value.labels


def _shortcut(call: Call) -> Labels:
    tracer, module = call.trace.tracer, call.module
    assert isinstance(module, Shortcut)
    first, *others = (channels(tracer, value, 1, INPUT) for value in call.values)
    for other, overlap in zip(others, module.overlaps[1:], strict=True):
        tracer.tie(first[:overlap], other[:overlap])
    if module.weights is not None and module.weights.shape[1] > 1:
        tracer.follow(f"{call.name}.weights", first, axis=1)
    return spread(first, call.result.shape, 1)


def _reorg(call: Call) -> Labels:
    tracer, module, (value,) = call.trace.tracer, call.module, call.values
    assert isinstance(module, Reorg)
    ids = channels(tracer, value, 1, INPUT)
    runs = ids.reshape(-1, module.stride**2)
    for mixed in runs.T[1:]:
        tracer.tie(runs[:, 0], mixed, "joint")
    return spread(np.tile(ids, module.stride**2), call.result.shape, 1)


def _pinned(call: Call) -> Labels | None:
    (value,) = call.values
    ids = channels(call.trace.tracer, value, 1, INPUT)
    call.trace.tracer.pin(ids, f"{call.what} needs its channels")
    return spread(ids, call.result.shape, 1) if call.result.ndim == value.tensor.ndim else None


DARKNET_RULES: Mapping[Any, Rule] = MappingProxyType(
    {Shortcut: _shortcut, Reorg: _reorg, RawHead: _pinned, Softmax: _pinned, LocalAvgpool: channelwise}
)
