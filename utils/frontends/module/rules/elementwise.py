"""Operations that compute element by element, and norms: channels that meet are tied."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ....pruning.channels import Tie
from ..beside import Count
from ..labels import Labels, ids_of, spread, vector
from ..run import Call, Seen

aten = torch.ops.aten
MIXES = "computes statistics over channels"
_SUMS = frozenset({aten.add, aten.add_, aten.sub, aten.sub_})


def elementwise(call: Call) -> Labels:
    """Channels that meet are tied; a tensor of fixed width keeps them."""
    kind: Tie = "joint"
    packet = call.func.overloadpacket
    operands = call.tensors
    if packet in _SUMS and all(each.labels and not each.is_static for each in operands):
        kind = "additive"
    return meet(call, operands, call.result.shape, kind)


def meet(
    call: Call, operands: Sequence[Seen], shape: Sequence[int], kind: Tie = "joint"
) -> dict[int, Tensor]:
    """Labels of what several broadcast tensors become together."""
    found: dict[int, Tensor] = {}
    gate = _gate_of(call, operands)
    for axis in range(len(shape)):
        labelled, fixed = [], False
        for each in operands:
            own = axis - (len(shape) - each.tensor.ndim)
            if own < 0 or each.tensor.shape[own] == 1 or not each.tensor.stride(own):  # one for all
                continue
            if own in each.labels:
                labelled.append((each, _aligned(each.labels[own], shape)))
            else:
                fixed = True
        if not labelled:
            continue
        labelled.sort(key=lambda pair: pair[0].is_static)
        (_, first), *others = labelled
        for each, label in others:
            if each is gate:
                call.run.gates.append((each, first, label))
            call.run.tie(first, label, "joint" if each is gate or each.is_static else kind)
        if fixed:
            call.keep(first, f"{call.name} combines it with a tensor of fixed width")
        found[axis] = first.expand(tuple(shape))
    return found


def _aligned(label: Tensor, shape: Sequence[int]) -> Tensor:
    return label.reshape(*[1] * (len(shape) - label.ndim), *label.shape) if label.ndim < len(shape) else label


def _gate_of(call: Call, operands: Sequence[Seen]) -> Seen | None:
    """The smaller factor of a product of activations: it scales the larger one."""
    if call.func.overloadpacket not in (aten.mul, aten.mul_) or len(operands) != 2:
        return None
    small, large = sorted(operands, key=lambda each: each.tensor.numel())
    both = small.labels and large.labels and not small.is_static and not large.is_static
    return small if both and small.tensor.numel() < large.tensor.numel() else None


def passed(call: Call) -> Labels:
    """The labels of the first tensor, whose shape the result has."""
    return call.tensors[0].labels


def batch_norm(call: Call) -> Labels | list[Labels]:
    """Batch norms of all kinds: one number of each parameter for each channel."""
    value = call.run.look(call.args[0])
    if _takes_statistics(call):
        for axis, label in value.labels.items():
            if axis != 1:
                call.keep(label, f"{call.name} {MIXES}")
    others = [call.run.look(each) for each in call.args[1:5] if isinstance(each, Tensor) and each.numel()]
    if 1 not in value.labels:
        for each in others:
            for own in each.labels.values():
                call.run.pin(own, f"{call.name} normalizes channels that are not followed")
        found: Labels = value.labels
    else:
        label = value.labels[1]
        ids = call.along(label, 1)
        for each in others:
            if 0 in each.labels:
                call.run.tie(ids, vector(each.labels[0], 0))
            elif len(each.tensor) > 1:
                call.run.pin(label, f"{call.name} has parameters that are not followed")
        found = {**value.labels, 1: spread(ids, value.tensor.shape, 1)}
        weight = next((each for each in others if 0 in each.labels), None)
        name = None if weight is None else call.run.module_of(vector(weight.labels[0], 0))
        if name is not None and call.run.is_norm(name):
            call.run.norm_calls[name] = call.run.norm_calls.get(name, 0) + 1
            if value.writer is not None:
                call.run.norms[value.writer] = name
    return [found] if isinstance(call.result, list | tuple) else found


def _takes_statistics(call: Call) -> bool:
    """Whether a batch norm computes its means itself."""
    try:
        return bool(call.argument("training"))
    except KeyError:
        return False


def group_norm(call: Call) -> list[Labels]:
    """Group norm: a group goes as a whole, as its statistics are over all its channels."""
    value, weight, bias = (call.seen(each) for each in call.args[:3])
    assert value is not None
    groups = call.argument("group")
    label = value.labels.get(1)
    followers = [each for each in (weight, bias) if each is not None]
    if label is None:
        for each in followers:
            for own in each.labels.values():
                call.run.pin(own, f"{call.name} normalizes channels that are not followed")
        return [{}]
    ids = call.along(label, 1)
    for each in followers:
        if 0 in each.labels:
            call.run.tie(ids, vector(each.labels[0], 0))
        else:
            call.run.pin(ids, f"{call.name} has parameters that are not followed")
    if groups == 1:
        call.keep(ids, f"{call.name} {MIXES}")
    else:
        parts = ids.view(groups, -1)
        call.run.tie(parts[:, :1], parts)
        call.counts.append(Count((6,), ids_of(parts[:, 0])))
    return [{1: spread(ids, value.tensor.shape, 1)}]


def layer_norm(call: Call) -> list[Labels]:
    """Layer norm: its statistics are over the last axes, whose channels are kept."""
    value = call.run.look(call.args[0])
    over = len(call.argument("normalized_shape"))
    first = value.tensor.ndim - over
    found: dict[int, Tensor] = {}
    for axis, label in value.labels.items():
        if axis >= first:
            call.keep(label, f"{call.name} {MIXES}")
        else:
            for other in range(first, value.tensor.ndim):
                label = call.one_of(label, other)
            found[axis] = label.expand(value.tensor.shape)
    for each in call.tensors[1:]:
        for label in each.labels.values():
            call.keep(label, f"{call.name} {MIXES}")
    return [found]


def written(call: Call) -> Labels | None:
    """A copy into a tensor: what is written meets what was there."""
    target, source = (call.run.look(each) for each in call.args[:2])
    return meet(call, [target, source], target.tensor.shape)


def nothing(_call: Call) -> Labels:
    """Operations whose results hold no channels."""
    return {}
