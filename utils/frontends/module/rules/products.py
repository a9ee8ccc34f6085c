"""Products: convolutions, matrices, attention. They tie what they contract; rows of weights are channels."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ....profiling import TRANSPOSED
from ....pruning.layers import CONVOLUTIONS
from ..beside import Count, Product
from ..labels import Labels, compact, ids_of, spread, varying, vector
from ..run import Call, Seen
from .elementwise import meet

aten = torch.ops.aten
_UNKNOWN = "that are not followed"


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
    for label, other in ((read, "weights"), (columns, "channels")):
        if label is not None:
            call.run.pin(label, f"{call.name} contracts it with {other} {_UNKNOWN}")
            return label
    return None


def _layer_of(call: Call, weight: Seen, written: Tensor | None) -> str | None:
    """Name of the convolution or linear module with these weights: the running one, if it is."""
    kinds = (torch.nn.Linear, *CONVOLUTIONS)
    running = call.run.module(call.run.where)
    if isinstance(running, kinds) and isinstance(running.weight, torch.nn.Parameter):
        memory = [each.untyped_storage()._cdata for each in (running.weight, weight.tensor)]
        if memory[0] == memory[1]:
            return call.run.where
    name = None if written is None else call.run.module_of(written)
    return name if name is not None and isinstance(call.run.module(name), kinds) else None


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
            if isinstance(module, torch.nn.Linear) and module.weight.shape == (len(rows), len(columns)):
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
    """scaled_dot_product_attention: its scale keeps the width of q and k, the channels of v pass."""
    query, key, value = (call.run.look(each) for each in call.args[:3])
    last = query.tensor.ndim - 1
    found: dict[int, Tensor] = {}
    for each in (query, key, value):
        for axis, label in each.labels.items():
            if axis == last and each is not value:
                call.keep(label, f"{call.name} scales by its width")
            elif axis == last - 1:
                call.keep(label, f"{call.name} mixes it")
            else:
                own = call.one_of(label, last - 1)
                own = own if axis == last else call.one_of(own, last)
                own = own.expand(call.result[0].shape)
                if axis in found:
                    call.run.tie(found[axis], own)
                found[axis] = own
    return [found]
