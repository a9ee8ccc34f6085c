"""Operations that compute values: channels that meet element by element are tied, as are those of norms.

Products (convolutions, matrices, attention) tie what they contract; rows of their weights are channels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ....profiling import TRANSPOSED
from ....pruning.channels import Tie
from ....pruning.layers import LAYERS, weight_of
from ..run import MIXES, Call, Seen
from ..steps import Count, Labels, Product, compact, ids_of, spread, varying, vector

aten = torch.ops.aten
_UNKNOWN = "that are not followed"
_INPUT = "the input of the network"
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
    has_choice = any(each.name == "training" for each in call.func._schema.arguments)
    if has_choice and call.argument("training"):  # it takes the statistics of the batch
        for axis, label in value.labels.items():
            if axis != 1:
                call.keep(label, f"{call.name} {MIXES}")
    others = [call.run.look(each) for each in call.args[1:5] if isinstance(each, Tensor) and each.numel()]
    if 1 not in value.labels:
        _pin_norm(call, others)
        found: Labels = value.labels
    else:
        ids = call.along(value.labels[1], 1)
        _tie_norm(call, ids, others)
        found = {**value.labels, 1: spread(ids, value.tensor.shape, 1)}
        weight = next((each for each in others if 0 in each.labels), None)
        name = None if weight is None else call.run.module_of(vector(weight.labels[0], 0))
        if name is not None and call.run.is_norm(name):
            call.run.norm_calls[name] = call.run.norm_calls.get(name, 0) + 1
            if value.writer is not None:
                call.run.norms[value.writer] = name
    return [found] if isinstance(call.result, list | tuple) else found


def _tie_norm(call: Call, ids: Tensor, parameters: Sequence[Seen]) -> None:
    for each in parameters:
        if 0 in each.labels:
            call.run.tie(ids, vector(each.labels[0], 0))
        elif len(each.tensor) > 1:
            call.run.pin(ids, f"{call.name} has parameters {_UNKNOWN}")


def _pin_norm(call: Call, parameters: Sequence[Seen]) -> None:
    for each in parameters:
        for own in each.labels.values():
            call.run.pin(own, f"{call.name} normalizes channels {_UNKNOWN}")


def group_norm(call: Call) -> list[Labels]:
    """Group norm: a group goes as a whole, as its statistics are over all its channels."""
    value, weight, bias = (call.seen(each) for each in call.args[:3])
    assert value is not None
    groups = call.argument("group")
    label = value.labels.get(1)
    followers = [each for each in (weight, bias) if each is not None]
    if label is None:
        _pin_norm(call, followers)
        return [{}]
    ids = call.along(label, 1)
    _tie_norm(call, ids, followers)
    if groups == 1:
        call.computes_over(spread(ids, value.tensor.shape, 1), 1)
    else:
        parts = ids.view(groups, -1)
        call.run.tie(parts[:, :1], parts)
        call.counts.append(Count((6,), ids_of(parts[:, 0])))
    return [{1: spread(ids, value.tensor.shape, 1)}]


def layer_norm(call: Call) -> list[Labels]:
    """Layer norm: its statistics are over the last axes, whose channels are kept, or those left are taken."""
    value = call.run.look(call.args[0])
    over = len(call.argument("normalized_shape"))
    first, last = value.tensor.ndim - over, value.tensor.ndim - 1
    found: dict[int, Tensor] = {}
    for axis, label in value.labels.items():
        if axis >= first:
            found[axis] = label  # kept or not, what reads it has its labels
            if over > 1:
                call.keep(label, f"{call.name} {MIXES}")
            elif call.computes_over(label, axis):
                call.counts.append(Count((1, 0), ids_of(vector(label, axis))))
        else:
            for other in range(first, value.tensor.ndim):
                label = call.one_of(label, other)
            found[axis] = label.expand(value.tensor.shape)
    for each in call.tensors[1:]:
        for label in each.labels.values():
            if last in found and each.tensor.ndim == 1:
                call.run.tie(vector(found[last], last), label)
            else:
                call.keep(label, f"{call.name} {MIXES}")
    return [found]


def written(call: Call) -> Labels | None:
    """A copy into a tensor: what is written meets what was there."""
    target, source = (call.run.look(each) for each in call.args[:2])
    return meet(call, [target, source], target.tensor.shape)


def convolution(call: Call) -> Labels:
    """Convolutions of all kinds."""
    value, weight, bias = (call.seen(each) for each in call.args[:3])
    transposed, groups = bool(call.args[6]), call.args[8]
    assert value is not None
    assert weight is not None
    inputs, outputs = value.tensor.shape[1], call.result.shape[1]
    depthwise = groups > 1 and groups == inputs
    if not weight.is_static:
        call.refuse("convolves with weights that are computed from the input")
        return {}
    if transposed and groups > 1 and not (depthwise and groups == outputs):
        call.refuse("is a grouped transposed convolution, which is not supported")
        return {}
    for axis, label in value.labels.items():
        if axis > 1:
            call.keep(label, f"{call.name} slides along it")
    rows, columns_axis = (1, 0) if transposed and groups == 1 else (0, 1)
    read = call.along(value.labels[1], 1) if 1 in value.labels else None
    written = call.along(weight.labels[rows], rows) if rows in weight.labels else None
    if depthwise:
        _tie_each(call, read, written, inputs)
    else:
        read = _contracted(call, read, _columns(call, weight, columns_axis, groups))
        for side in (read, written):
            if groups > 1 and side is not None:
                call.run.equal(side.view(groups, -1), 1)
    if bias is not None and written is not None:
        if 0 in bias.labels:
            call.run.tie(bias.labels[0], written)
        else:
            call.run.pin(written, f"{call.name} has a bias {_UNKNOWN}")
    _note_layer(call, value, weight, read, written, depthwise)
    return {} if written is None else {1: spread(written, call.result.shape, 1)}


def _tie_each(call: Call, read: Tensor | None, written: Tensor | None, inputs: int) -> None:
    """A depthwise convolution: each output channel reads one input channel."""
    if written is None:
        if read is not None:
            call.run.pin(read, f"{call.name} has weights {_UNKNOWN}")
        return
    each = written.view(inputs, -1)
    call.counts.append(Count((8,), ids_of(each[:, 0])))
    if read is None:
        call.run.pin(written, f"{call.name} reads channels {_UNKNOWN}")
        return
    call.run.tie(written, read.repeat_interleave(each.shape[1]), "serial")
    call.run.tie(each[:, :1], each)


def _columns(call: Call, weight: Seen, axis: int, groups: int) -> Tensor | None:
    """(inputs,) ids of the columns; of all groups, one after the other."""
    label = weight.labels.get(axis)
    if label is None:
        return None
    if groups == 1:
        return call.along(label, axis)
    for axis in set(varying(label)) - {0, 1}:
        label = call.one_of(label, axis)
    label = label.reshape(*label.shape[:2], -1)[..., 0]
    parts = label.view(groups, -1, label.shape[1])
    call.run.tie(parts[:, :1], parts)
    return parts[:, 0].reshape(-1)


def _contracted(call: Call, read: Tensor | None, columns: Tensor | None) -> Tensor | None:
    """Tie vectors of ids that a product contracts; where one is missing the other is kept."""
    if read is not None and columns is not None:
        call.run.tie(read, columns)
        call.run.read += [ids_of(read), ids_of(columns)]
        return columns
    reads_input = any(call.args[0] is each for each in call.run.inputs)
    for label, other in ((read, "weights"), (columns, "channels")):
        if label is not None:
            call.run.pin(
                label, _INPUT if reads_input else f"{call.name} contracts it with {other} {_UNKNOWN}"
            )
            return label
    return None


def _layer_of(call: Call, weight: Seen, written: Tensor | None) -> str | None:
    """Name of the convolution or linear module with these weights: the running one, if it is."""
    running = call.run.module(call.run.where)
    own = weight_of(running) if isinstance(running, LAYERS) else None
    if isinstance(own, torch.nn.Parameter):
        memory = [each.untyped_storage()._cdata for each in (own, weight.tensor)]
        if memory[0] == memory[1]:
            return call.run.where
    name = None if written is None else call.run.module_of(written)
    return name if name is not None and isinstance(call.run.module(name), LAYERS) else None


def _note_layer(
    call: Call, value: Seen, weight: Seen, read: Tensor | None, written: Tensor | None, depthwise: bool
) -> None:
    """Add the layer of a convolution; a side with a single channel, which has no label, is kept."""
    layer = _layer_of(call, weight, written)
    if layer is not None and not depthwise:
        if read is None and value.tensor.shape[1] == 1:
            read = _single(call, f"{layer} reads a single channel")
        if written is None and call.result.shape[1] == 1:
            written = _single(call, f"{layer} has a single channel")
    if layer is None or read is None or written is None:
        layer = None
    else:
        call.run.add_layer(layer, ids_of(read), ids_of(written), call.args[8], depthwise)
    counted = value.tensor if isinstance(call.run.module(layer or ""), TRANSPOSED) else call.result
    operands = {} if read is None else {0: (1, spread(read, value.tensor.shape, 1))}
    call.product = Product(
        layer, operands, tuple(call.result.shape), bias=2, cells=counted.numel() // counted.shape[1]
    )


def _single(call: Call, reason: str) -> Tensor:
    ids = torch.from_numpy(call.run.tracer.new(1))
    call.run.pin(ids, reason)
    return ids


def matrix(call: Call) -> Labels:
    """mm, bmm, addmm, baddbmm: the last axis of the first and the one before the last of the second."""
    begin = 1 if call.func.overloadpacket in (aten.addmm, aten.baddbmm) else 0
    left, right = (call.run.look(call.args[begin + place]) for place in (0, 1))
    ndim = left.tensor.ndim
    a, b = left.labels.get(ndim - 1), right.labels.get(ndim - 2)
    operands: dict[int, tuple[int, Tensor]] = {}
    if a is not None:
        operands[begin] = (ndim - 1, a)
    if b is not None:
        operands[begin + 1] = (ndim - 2, b)
    if a is not None and b is not None:
        call.run.tie(a.unsqueeze(-1), b.unsqueeze(ndim - 2))
        call.run.read += [ids_of(compact(a)), ids_of(compact(b))]
        call.contracted = None if left.is_static or right.is_static else ids_of(compact(a))
    for _, label in operands.values():
        if len(operands) == 1:
            call.run.pin(label, f"{call.name} contracts it with a tensor that is not followed")
    found = _free_axes(call, left, right)
    if begin:
        bias = call.run.look(call.args[0])
        found = {**meet(call, [bias, Seen(call.result, found)], call.result.shape), **found}
    _note_matrix(call, begin, left, right, operands)
    return found


def _free_axes(call: Call, left: Seen, right: Seen) -> dict[int, Tensor]:
    """Labels of the axes that a product of matrices does not contract."""
    ndim = left.tensor.ndim
    found: dict[int, Tensor] = {}
    for each, gone in ((left, ndim - 1), (right, ndim - 2)):
        for axis, label in each.labels.items():
            if axis == gone:
                continue
            own = call.one_of(label, gone).expand(call.result.shape)
            if axis in found:
                call.run.tie(found[axis], own)
            found[axis] = own
    for axis in range(ndim - 2):  # batch axes meet
        both = all(axis in each.labels or each.tensor.shape[axis] == 1 for each in (left, right))
        if axis in found and not both:
            call.keep(found[axis], f"{call.name} combines it with a tensor of fixed width")
    return found


def _note_matrix(
    call: Call, begin: int, left: Seen, right: Seen, operands: Mapping[int, tuple[int, Tensor]]
) -> None:
    """Add the linear layer, if it is one."""
    layer = None
    outputs = call.result.ndim - 1
    if left.is_static != right.is_static and call.result.ndim == 2:
        weight, outputs = (right, 1) if right.is_static else (left, 0)
        written, read = weight.labels.get(outputs), weight.labels.get(1 - outputs)
        if written is not None and read is not None:
            rows, columns = vector(written, outputs), vector(read, 1 - outputs)
            layer = _layer_of(call, weight, rows)
            module = call.run.module(layer or "")
            own = weight_of(module) if isinstance(module, LAYERS) else None
            if isinstance(own, Tensor) and own.shape == (len(rows), len(columns)):
                call.run.add_layer(str(layer), ids_of(columns), ids_of(rows), 1, False)
            else:
                layer = None
    call.product = Product(
        layer,
        operands,
        tuple(call.result.shape),
        bias=0 if begin else None,
        outputs=outputs,
        value=begin + (not right.is_static),
        cells=call.result.numel() // call.result.shape[outputs],
    )


def attention(call: Call) -> list[Labels]:
    """scaled_dot_product_attention: it contracts the channels of q and k, those of v pass."""
    query, key, value = (call.run.look(each) for each in call.args[:3])
    last = query.tensor.ndim - 1
    found: dict[int, Tensor] = {}
    for each in (query, key, value):
        for axis, label in each.labels.items():
            if axis == last and each is not value:
                continue
            if axis == last - 1:
                call.keep(label, f"{call.name} mixes it")
            else:
                own = call.one_of(label, last - 1)
                own = own if axis == last else call.one_of(own, last)
                own = own.expand(call.result[0].shape)
                if axis in found:
                    call.run.tie(found[axis], own)
                found[axis] = own
    read = [call.one_of(each.labels[last], last - 1) for each in (query, key) if last in each.labels]
    if len(read) == 2 and query.tensor.shape[:-2] == key.tensor.shape[:-2]:
        call.run.tie(read[0], read[1])
        call.run.read += [ids_of(compact(each)) for each in read]
        call.run.equal(read[0], last)
        operands = {place: (last, each.labels[last]) for place, each in enumerate((query, key))}
        call.product = Product(None, operands, tuple(call.result[0].shape))
        call.scaled = ids_of(compact(read[0]))
    else:
        for label in read:
            call.keep(label, f"{call.name} contracts it with channels {_UNKNOWN}")
    return [found]
