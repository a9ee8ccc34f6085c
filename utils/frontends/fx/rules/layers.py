"""Rules of what has parameters for each channel: layers and norms."""

from torch import nn

from ....pruning.layers import BATCH_NORMS, TRANSPOSED, ChannelSelection, channel_axis, is_depthwise
from ..call import Call
from ..values import Labels, pin_labels, spread
from .arithmetic import same

_MIXES = "takes its statistics over all channels"


def layer(call: Call) -> Labels:
    """A convolution or linear layer: new channels, of its own."""
    module, (value,) = call.module, call.values
    assert module is not None
    if not isinstance(module.weight, nn.Parameter) and not isinstance(module, ChannelSelection):
        return call.refuse("computes its weights; take the reparametrisation off, such as weight_norm")
    axis, groups = channel_axis(module, value.tensor), getattr(module, "groups", 1)
    outputs = call.result.shape[axis]
    if isinstance(module, TRANSPOSED) and groups > 1 and not is_depthwise(module):
        return call.refuse("is transposed and grouped")
    if isinstance(module.weight, nn.Parameter):
        twin = call.trace.weights.setdefault(id(module.weight), call.name)
        if not _alike(call, module, twin):
            return call.refuse(f"has the weights of {twin} and is no layer of the same kind")
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
    """Channels of its own, picked from others, which keep their numbers and so have to stay."""
    pin_labels(call.trace.tracer, call.values[0], f"{call.what} picks channels by number")
    return layer(call)


def _norm_behind(call: Call) -> str | None:
    """The batch norm that alone reads the layer, which is called nowhere else."""
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
    """Parameters for each channel."""
    (value,) = call.values
    ids = call.read(value, 1)
    call.follows(call.name, ids)
    return spread(ids, call.result.shape, 1)


def prelu(call: Call) -> Labels | None:
    """One slope for all channels, or one for each."""
    assert isinstance(call.module, nn.PReLU)
    return follow(call) if call.module.num_parameters > 1 else same(call)


def group_norm(call: Call) -> Labels | None:
    """A group goes as a whole: without some of its channels its mean would be another."""
    assert isinstance(call.module, nn.GroupNorm)
    (value,), groups = call.values, call.module.num_groups
    if groups == 1:
        return call.refuse(_MIXES)
    ids = call.read(value, 1)
    for member in ids.reshape(groups, -1).T[1:]:
        call.trace.tracer.tie(ids.reshape(groups, -1)[:, 0], member, "joint")
    return follow(call)


def layer_norm(call: Call) -> Labels | None:
    """Harmless over the axes of a map; over channels, pinned, as its mean would be another."""
    assert isinstance(call.module, nn.LayerNorm)
    (value,) = call.values
    over = range(value.tensor.ndim - len(call.module.normalized_shape), value.tensor.ndim)
    return call.refuse(_MIXES) if set(over) & set(value.axes) else value.labels
