"""What each operation of a traced network does to labels; an operation without a rule pins what it reads.

RULES has them by what fx calls: a module's type, a function, or the name of a tensor's method.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from utils.frontends.fx_values import Labels, Value, channels, pin_labels, spread, tie_labels
from utils.pruning.channels import ChannelIds, ChannelTracer
from utils.pruning.layers import BATCH_NORMS, CONVOLUTIONS, INSTANCE_NORMS, TRANSPOSED, channel_axis

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
    """What is known of a network while it is traced."""

    tracer: ChannelTracer = field(default_factory=ChannelTracer)
    layers: dict[str, tuple[ChannelIds, ChannelIds]] = field(default_factory=dict)
    followers: dict[str, ChannelIds] = field(default_factory=dict)
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

    def refuse(self, reason: str = "is not known") -> Any:
        """Pin all that the operation reads, and report it; its result has no labels."""
        text = f"{self.node.name} ({self.what}) {reason}"
        for value in self.values:
            pin_labels(self.trace.tracer, value, text)
        if any(value.labels is not None for value in self.values):
            self.trace.not_followed.append(text)
        return None

    @property
    def what(self) -> str:
        """The operation as users know it."""
        if self.module is not None:
            return f"{type(self.module).__name__} {self.name}"
        return str(getattr(self.node.target, "__name__", self.node.target))


Rule = Callable[[Call], Any]  # -> labels of the result: a tensor, or several as the operation has several


def _layer(call: Call) -> Labels:
    module, (value,) = call.module, call.values
    assert module is not None
    axis, groups = channel_axis(module, value.tensor), getattr(module, "groups", 1)
    outputs = call.result.shape[axis]
    if groups > 1 and isinstance(module, TRANSPOSED):
        return call.refuse("is transposed and grouped")
    ids = channels(call.trace.tracer, value, axis, INPUT)
    if call.name in call.trace.layers:  # called again: the same weights read and write both
        first, written = call.trace.layers[call.name]
        call.trace.tracer.tie(first, ids, "joint")
    else:
        norm = _norm_behind(call)
        written = call.trace.tracer.layer(call.name, ids, outputs, groups, norm)
        call.trace.layers[call.name] = ids, written
        if norm:
            call.trace.followers[norm] = written
    return spread(written, call.result.shape, axis)


def _norm_behind(call: Call) -> str | None:
    """The batch norm that alone reads the layer."""
    behind = next(iter(call.node.users)) if len(call.node.users) == 1 else None
    if behind is None or behind.op != "call_module" or behind.args[0] is not call.node:
        return None
    owner = behind.graph.owning_module
    assert owner is not None
    found = owner.get_submodule(str(behind.target))
    again = sum(node.op == "call_module" and node.target == behind.target for node in behind.graph.nodes) > 1
    return str(behind.target) if isinstance(found, BATCH_NORMS) and not again else None


def _follow(call: Call) -> Labels | None:
    """Parameters for each channel."""
    (value,) = call.values
    ids = channels(call.trace.tracer, value, 1, INPUT)
    known = call.trace.followers.setdefault(call.name, ids)
    if known is ids:
        call.trace.tracer.follow(call.name, ids)
    elif known is not ids:
        call.trace.tracer.tie(known, ids, "joint")
    return spread(ids, call.result.shape, 1)


def _prelu(call: Call) -> Labels | None:
    assert isinstance(call.module, nn.PReLU)
    return _follow(call) if call.module.num_parameters > 1 else _same(call)


def _group_norm(call: Call) -> Labels | None:
    assert isinstance(call.module, nn.GroupNorm)
    if call.module.num_groups == call.module.num_channels:
        return call.refuse("would need another number of groups; InstanceNorm2d(affine=True) is the same")
    return call.refuse("takes its statistics over several channels")


def _same(call: Call) -> Labels | None:
    """Number by number."""
    return call.values[0].labels


def _channelwise(call: Call) -> Labels | None:
    """Within each channel, which lie along axis 1."""
    (value, *_) = call.values
    if value.labels is None:
        return None
    return spread(channels(call.trace.tracer, value, 1, INPUT), call.result.shape, 1)


def _moved(call: Call) -> Any:
    """Numbers are only moved: the labels move with them."""
    if all(value.labels is None for value in call.values):
        return None
    return call.run(lambda value: _labels(call, value).contiguous())  # a view of them must be possible, too


def _labels(call: Call, value: Value) -> Labels:
    """Of a tensor beside others that have some: its own, or new ones that stay."""
    if value.labels is not None:
        return value.labels
    ids = call.trace.tracer.new(1)
    call.trace.tracer.pin(ids, INPUT)
    return spread(ids, [1] * value.tensor.ndim, 0).expand(value.tensor.shape)


def _sum(call: Call) -> Labels | None:
    return _binary(call, "additive")


def _product(call: Call) -> Labels | None:
    return _binary(call, "gate")


def _joint(call: Call) -> Labels | None:
    return _binary(call, "joint")


def _binary(call: Call, kind: Any) -> Labels | None:
    """Tensors, broadcast: what meets lives and dies together."""
    values = call.values
    labelled = [value for value in values if value.labels is not None]
    if len(labelled) < 2:
        return _beside_constant(call, labelled[0], values) if labelled else None
    first, *others = labelled
    if kind == "gate":
        first, second = sorted(labelled, key=lambda value: -_size(value.tensor))
        gates = [node for node, value in zip(call.node.args, call.args, strict=True) if value is second]
        alone = all(isinstance(node, fx.Node) and len(node.users) == 1 for node in gates)
        kind = "gate" if alone and _size(second.tensor) < _size(first.tensor) else "joint"
        others = [second]
    assert first.labels is not None
    labels = first.labels.expand(call.result.shape)
    varying = Value(call.result, labels).axes
    for other in others:
        assert other.labels is not None
        shape = (*[1] * (call.result.ndim - other.tensor.ndim), *other.tensor.shape)
        if varying and all(shape[axis] == 1 for axis in varying):  # one channel beside all
            continue
        tie_labels(call.trace.tracer, labels, other.labels.expand(call.result.shape), kind)
    return labels


def _nothing(_call: Call) -> None:
    """What comes out holds no channels: ones, say."""


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
            if isinstance(_attribute(owner, other.name), nn.Parameter):
                ids = channels(call.trace.tracer, Value(call.result, labels), shared[0], INPUT)
                known = call.trace.followers.setdefault(other.name, ids)
                if known is ids:
                    call.trace.tracer.follow(other.name, ids, shared[0] - offset)
                else:
                    call.trace.tracer.tie(known, ids, "joint")
                continue
        return call.refuse("meets a constant of its own width")
    return labels


def _attribute(owner: nn.Module, name: str) -> Any:
    parent, _, leaf = name.rpartition(".")
    return getattr(owner.get_submodule(parent), leaf)


def _reduced(call: Call) -> Labels | None:
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


def _softmax(call: Call) -> Labels | None:
    (value,) = call.values
    axis = getattr(call.module, "dim", None) if call.module is not None else call.argument(1, "dim")
    if axis is None or axis % value.tensor.ndim in value.axes:
        return call.refuse("mixes channels")
    return value.labels


def _pad(call: Call) -> Labels | None:
    (value,) = call.values
    pads = call.argument(1, "pad")
    if value.labels is None:
        return None
    if len(pads) // 2 < value.tensor.ndim - 1:
        return _channelwise(call)
    if call.argument(2, "mode", "constant") != "constant":
        return call.refuse("repeats channels")
    fresh = call.trace.tracer.new(1)
    call.trace.tracer.pin(fresh, f"{call.node.name} pads with channels")
    inside = channels(call.trace.tracer, value, 1, INPUT)
    before, after = pads[2 * (value.tensor.ndim - 2)], pads[2 * (value.tensor.ndim - 2) + 1]
    if before < 0 or after < 0:
        return call.refuse("crops channels")
    ids = np.concatenate([fresh.repeat(before), inside, fresh.repeat(after)])
    return spread(ids, call.result.shape, 1)


def _reshaped(call: Call) -> Labels | None:
    """view, reshape, expand, ...: numbers that say how many channels there are must follow them."""
    labels = _moved(call)
    if labels is None:
        return None
    axes = Value(call.result, labels).axes
    paths = dict(_size_arguments(call))
    literal = [axis for axis in axes if axis in paths]
    if len(axes) > 2:
        return call.refuse("spreads channels over more than two axes")
    if len(axes) == 2:
        return _split(call, labels, axes, paths)
    for axis in literal:
        call.counts(channels(call.trace.tracer, Value(call.result, labels), axis, INPUT), *paths[axis])
    return labels


def _split(
    call: Call, labels: Labels, axes: tuple[int, ...], paths: dict[int, tuple[int | str, ...]]
) -> Labels:
    """Channels in rows, to be shuffled or not: the axis that the code has as a number stays.

    Of two numbers the first stays. What stands at one place of all rows lives and dies together: else a
    shuffle would bring what is left into another order.
    """
    outer, inner = axes
    gives = outer if inner in paths and outer not in paths else inner
    ids = channels(call.trace.tracer, Value(call.result, labels), gives, INPUT)
    if gives == inner and inner in paths:
        call.counts(ids, *paths[gives])
    return labels


def _size_arguments(call: Call) -> Iterator[tuple[int, tuple[int | str, ...]]]:
    """Axis of the result -> where the code has its size as a number."""
    if call.node.op == "call_method" and call.node.target not in _WITH_SIZES:
        return
    given = call.node.args[1:]
    nested = len(given) == 1 and isinstance(given[0], tuple | list)
    sizes = given[0] if nested else given
    if not isinstance(sizes, tuple | list):
        return
    offset = call.result.ndim - len(sizes)
    for number, size in enumerate(sizes):
        if isinstance(size, int) and size > 1 and number + offset >= 0:
            yield number + offset, (1, number) if nested else (number + 1,)


def _chunk(call: Call) -> Any:
    """Equal parts stay equal."""
    parts = _moved(call)
    if parts is None:
        return None
    axis = call.argument(2, "dim", 0) % call.values[0].tensor.ndim
    if axis in call.values[0].axes:
        ids = [channels(call.trace.tracer, Value(part, part), axis, INPUT) for part in parts]
        if len({len(part) for part in ids}) > 1:
            return call.refuse("cuts channels in unequal parts")
        call.trace.tracer.equal(ids)
    return parts


def _split_sizes(call: Call) -> Any:
    """One size for all parts, or one for each."""
    parts = _moved(call)
    if parts is None:
        return None
    axis = call.argument(2, "dim", 0) % call.values[0].tensor.ndim
    if axis not in call.values[0].axes:
        return parts
    ids = [channels(call.trace.tracer, Value(part, part), axis, INPUT) for part in parts]
    at: int | str = (
        1 if len(call.node.args) > 1 else next(n for n in call.node.kwargs if n.startswith("split"))
    )
    sizes = call.node.args[1] if at == 1 else call.node.kwargs[str(at)]
    if isinstance(sizes, tuple | list):
        for number, part in enumerate(ids):
            if call.literal(at, number) is None:
                return call.refuse("computes the sizes of its parts")
            call.counts(part, at, number)
        return parts
    if len({len(part) for part in ids}) > 1:
        return call.refuse("cuts channels in unequal parts")
    call.trace.tracer.equal(ids)
    if call.literal(at) is not None:
        call.counts(ids[0], at)
    return parts


def _item(call: Call) -> Any:
    """A part of a tensor, or one of several tensors."""
    source, index = call.args
    if not isinstance(source, Value):
        found = source[index]
        return found.labels if isinstance(found, Value) else None
    if source.labels is None:
        return None
    indices = index if isinstance(index, tuple) else (index,)
    if any(isinstance(leaf, Value) for leaf in pytree.tree_leaves(indices)):
        return call.refuse("picks by a tensor")
    for position, axis in _indexed_axes(indices, source.tensor.ndim):
        path = (1, position) if isinstance(index, tuple) else (1,)
        if axis in source.axes and not _bounds(call, source, axis, indices[position], path):
            return call.refuse("picks channels by a number that is computed, or one by one")
    return source.labels[index]


def _indexed_axes(indices: tuple[Any, ...], count: int) -> Iterator[tuple[int, int]]:
    """Position of each index -> the axis that it picks from."""
    picking = [position for position, part in enumerate(indices) if part is not None and part is not Ellipsis]
    for number, position in enumerate(picking):
        behind = Ellipsis in indices and position > indices.index(Ellipsis)
        yield position, count - len(picking) + number if behind else number


def _bounds(call: Call, source: Value, axis: int, part: Any, path: tuple[int, ...]) -> bool:
    """Note the bounds of a slice of channels, whose place is `path`; whether they can be followed."""
    if not isinstance(part, slice) or part.step not in (None, 1):
        return False
    ids = channels(call.trace.tracer, source, axis, INPUT)
    written: Any = call.node.args
    for step in path:
        written = written[step]
    for name in ("start", "stop"):
        bound = getattr(written, name)
        if bound is None or bound == 0:
            continue
        if not isinstance(bound, int):
            return False
        call.counts(ids[: slice(None, bound).indices(len(ids))[1]], *path, name)
    return True


_WITH_SIZES = ("view", "reshape", "expand")
_POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold,
    nn.Identity, nn.Dropout, nn.AlphaDropout,
)  # fmt: skip
_WITHIN_CHANNELS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d,
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.Dropout1d,
    nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
_UNARY = (
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.sigmoid, F.tanh, F.hardtanh, F.hardswish,
    F.hardsigmoid, F.softplus, F.dropout, torch.relu, torch.sigmoid, torch.tanh, torch.clamp, torch.abs,
    torch.exp, torch.sqrt, torch.pow, torch.neg, operator.neg, operator.pow, operator.pos, torch.clone,
)  # fmt: skip
_UNARY_METHODS = (
    "relu", "relu_", "sigmoid", "sigmoid_", "tanh", "clamp", "clamp_", "clamp_min", "abs", "exp", "sqrt",
    "pow", "neg", "clone", "contiguous", "detach", "to", "float", "half", "double", "type_as", "cpu", "cuda",
)  # fmt: skip
_MOVING = (
    torch.cat,
    torch.stack,
    torch.permute,
    torch.transpose,
    torch.squeeze,
    torch.unsqueeze,
    torch.flatten,
    torch.flip,
)
_MOVING_METHODS = (
    "permute",
    "transpose",
    "squeeze",
    "unsqueeze",
    "flatten",
    "repeat",
    "flip",
    "t",
    "movedim",
)

RULES: Mapping[Any, Rule] = MappingProxyType(
    dict.fromkeys((nn.Linear, *CONVOLUTIONS), _layer)
    | dict.fromkeys((*BATCH_NORMS, *INSTANCE_NORMS), _follow)
    | dict.fromkeys(_POINTWISE, _same)
    | dict.fromkeys(_WITHIN_CHANNELS, _channelwise)
    | dict.fromkeys((*_UNARY, *_UNARY_METHODS), _same)
    | dict.fromkeys((*_MOVING, *_MOVING_METHODS, nn.Flatten, nn.PixelShuffle, nn.PixelUnshuffle), _moved)
    | dict.fromkeys((F.pixel_shuffle, F.pixel_unshuffle), _moved)
    | dict.fromkeys((operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub), _sum)
    | dict.fromkeys(("add", "add_", "sub", "sub_"), _sum)
    | dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _product)
    | dict.fromkeys((operator.truediv, torch.div, torch.maximum, torch.minimum, "div", "div_"), _joint)
    | dict.fromkeys((torch.where, operator.gt, operator.lt, operator.ge, operator.le), _joint)
    | dict.fromkeys((torch.ones_like, torch.zeros_like), _nothing)
    | dict.fromkeys((torch.mean, torch.sum, torch.amax, torch.amin, "mean", "sum", "amax", "amin"), _reduced)
    | dict.fromkeys((nn.Softmax, nn.LogSoftmax, F.softmax, F.log_softmax, torch.softmax, "softmax"), _softmax)
    | dict.fromkeys((F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d), _channelwise)
    | dict.fromkeys((F.interpolate, F.dropout2d, torch.max_pool2d), _channelwise)
    | dict.fromkeys(("view", "reshape", "expand", torch.reshape), _reshaped)
    | dict.fromkeys(("expand_as", "view_as", "reshape_as"), _moved)
    | dict.fromkeys((torch.chunk, "chunk"), _chunk)
    | dict.fromkeys((torch.split, "split"), _split_sizes)
    | {nn.PReLU: _prelu, nn.GroupNorm: _group_norm, F.pad: _pad, operator.getitem: _item}
)
