"""What each operation of torch does to labels.

Three kinds need no rule of their own: views and other movers, whose ids move as the elements do; operations
that compute element by element, which tie what they meet; and operations that change only the sizes of axes
along which ids do not vary. The rest, products, norms and reductions, is in the table at the end.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ...profiling import TRANSPOSED
from ...pruning.channels import ChannelIds, Tie
from ...pruning.layers import CONVOLUTIONS, ChannelSelection
from .labels import Labels, compact, interleaves, moved, resized, rows, spread, varying
from .run import Call, Count, Product, Rule, Seen

aten = torch.ops.aten
_MIXES = "computes statistics over channels"


def _ids(label: Tensor) -> ChannelIds:
    found: ChannelIds = label.reshape(-1).numpy()
    return found


def _along(label: Tensor, axis: int) -> ChannelIds:
    """The ids along an axis, at the first place of all others."""
    return _ids(rows(label, axis)[0])


# ------------------------------------------------------------------ element by element


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
    label = (
        label.reshape(*[1] * (len(shape) - label.ndim), *label.shape) if label.ndim < len(shape) else label
    )
    return label


def _gate_of(call: Call, operands: Sequence[Seen]) -> Seen | None:
    """The smaller factor of a product of activations: it scales the larger one."""
    if call.func.overloadpacket not in (aten.mul, aten.mul_) or len(operands) != 2:
        return None
    small, large = sorted(operands, key=lambda each: each.tensor.numel())
    both = small.labels and large.labels and not small.is_static and not large.is_static
    return small if both and small.tensor.numel() < large.tensor.numel() else None


def restrided(call: Call) -> Labels:
    """Other strides of the same elements, as pools give maps of one cell."""
    (source,) = call.tensors
    if any(label.shape != call.result.shape for label in source.labels.values()):
        call.refuse("reads memory in another order")
        return {}
    return source.labels


def passed(call: Call) -> Labels:
    """The labels of the first tensor, whose shape the result has."""
    return call.tensors[0].labels


# ------------------------------------------------------------------ movers


def move(call: Call) -> Labels | list[Labels] | None:
    """A view or copy that only moves elements of its first tensor."""
    return moving(call, lambda tensor: _again(call, tensor))


def _again(call: Call, tensor: Tensor) -> Any:
    packet = call.func.overloadpacket
    if packet in (aten.view, aten._unsafe_view, aten.reshape):
        return tensor.reshape(call.result.shape)
    if packet in (aten.expand,):
        return tensor.expand(call.result.shape)
    return call.func(tensor, *call.args[1:], **call.kwargs)


def moving(call: Call, again: Callable[[Tensor], Any]) -> Labels | list[Labels] | None:
    """Labels after `again`, which does to ids what the operation does to elements."""
    (source, *_) = call.tensors
    results = call.result if isinstance(call.result, list | tuple) else [call.result]
    found: list[dict[int, Tensor]] = [{} for _ in results]
    for axis, label in source.labels.items():
        for place in range(len(results)):
            own, new, torn = moved(label, axis, lambda tensor, place=place: _part(again(tensor), place))
            if new is None:
                if own.numel() and source.tensor.shape[axis] > 1:
                    call.keep(label, f"{call.name} selects by number")
                continue
            for other in torn:
                own = _with_ties(call, own, other)
            if interleaves(label, axis, lambda tensor, place=place: _part(again(tensor), place), new):
                call.run.tie(rows(label, axis)[:1], rows(label, axis))
            call.run.equal(own, new)
            found[place][new] = own
    _note_counts(call, source, found)
    return found if isinstance(call.result, list | tuple) else found[0]


def _part(found: Any, place: int) -> Tensor:
    return found[place] if isinstance(found, list | tuple) else found


def _note_counts(call: Call, source: Seen, found: list[dict[int, Tensor]]) -> None:
    packet = call.func.overloadpacket
    if packet in (aten.view, aten._unsafe_view, aten.expand, aten.reshape):
        for axis, label in found[0].items():
            call.counts.append(Count((1, axis), _along(label, axis)))
    elif packet is aten.split_with_sizes:
        axis = call.argument("dim") % source.tensor.ndim
        sizes: dict[int, list[ChannelIds]] = {}
        for place, labels in enumerate(found):
            if axis in labels:
                ids = _along(labels[axis], axis)
                call.counts.append(Count((1, place), ids))
                sizes.setdefault(len(ids), []).append(ids)
        for parts in sizes.values():  # one number of the code may be the size of all
            call.run.tracer.equal(parts)
    elif packet is aten.split:
        axis = call.argument("dim") % source.tensor.ndim
        parts = [_along(labels[axis], axis) for labels in found if axis in labels]
        if len(parts) == len(found) and len({len(part) for part in parts}) == 1:
            call.counts.append(Count((1,), parts[0]))
            call.run.tracer.equal(parts)
        elif axis in source.labels:
            call.keep(source.labels[axis], f"{call.name} splits unevenly")
    elif packet is aten.slice:
        _note_slice(call, source, found[0])
    elif packet in _ORDERED and any(axis in source.labels for axis in _named_axes(call, source)):
        for axis in _named_axes(call, source):
            if axis in source.labels:
                call.keep(source.labels[axis], f"{call.name} moves channels by number")


def _note_slice(call: Call, source: Seen, found: Mapping[int, Tensor]) -> None:
    axis = call.argument("dim") % source.tensor.ndim
    if axis not in source.labels:
        return
    size, label = source.tensor.shape[axis], source.labels[axis]
    start, stop, step = (call.argument(name) for name in ("start", "end", "step"))
    start = min(max((start or 0) + size * ((start or 0) < 0), 0), size)
    stop = size if stop is None else min(max(stop + size * (stop < 0), 0), size)
    if step != 1:
        call.keep(label, f"{call.name} selects by number")
        return
    ids = _along(label, axis)
    if start > 0:
        call.counts.append(Count((2,), ids[:start]))
    if stop < size:
        call.counts.append(Count((3,), ids[:stop]))
    length = stop - start
    # `shape[1] // 2` in the code needs halves that stay equal
    if 0 < length < size and size % length == 0 and start % length == 0:
        call.run.tracer.equal([ids[first : first + length] for first in range(0, size, length)])


def _named_axes(call: Call, source: Seen) -> list[int]:
    for name in ("dim", "dims"):
        try:
            axes = call.argument(name)
        except KeyError:
            continue
        axes = [axes] if isinstance(axes, int) else list(axes or range(source.tensor.ndim))
        return [axis % source.tensor.ndim for axis in axes]
    return list(range(source.tensor.ndim))


def stack(call: Call) -> Labels:
    """Tensors along a new axis."""
    axis = (call.argument("dim") or 0) % call.result.ndim
    parts = [call.run.look(tensor) for tensor in call.args[0]]
    shape = [size for place, size in enumerate(call.result.shape) if place != axis]
    together = meet(call, parts, shape)
    return {
        place + (place >= axis): label.unsqueeze(axis).expand(call.result.shape)
        for place, label in together.items()
    }


def cat(call: Call) -> Labels:
    """Concatenation: along the axis the ids follow each other, along others they meet."""
    parts = [call.run.look(tensor) for tensor in call.args[0]]
    parts = [each for each in parts if each.tensor.shape != (0,)]
    axis = call.argument("dim") % call.result.ndim
    found: dict[int, Tensor] = {}
    for place in range(call.result.ndim):
        labelled = [each for each in parts if place in each.labels]
        if not labelled:
            continue
        if place == axis:
            found[place] = _joined(call, parts, axis)
            continue
        first, *others = (compact(_at_start(call, each.labels[place], axis)) for each in labelled)
        for other in others:
            call.run.tie(first, other)
        if len(labelled) < len(parts):
            call.keep(first, f"{call.name} joins it with a tensor of fixed width")
        found[place] = first.expand(call.result.shape)
    return found


def _at_start(call: Call, label: Tensor, axis: int) -> Tensor:
    """The label without variation along `axis`, whose places are tied."""
    start = label.narrow(axis, 0, 1)
    if axis in varying(label):
        call.run.tie(start, label)
    return start


def _joined(call: Call, parts: Sequence[Seen], axis: int) -> Tensor:
    shape = list(call.result.shape)
    labels = []
    for each in parts:
        size = each.tensor.shape[axis]
        if axis in each.labels:
            labels.append(compact(each.labels[axis]))
            continue
        ids = torch.from_numpy(call.run.tracer.new(size))
        call.run.tracer.pin(ids.numpy(), f"{call.name} joins channels that are not followed")
        labels.append(spread(ids, [size if place == axis else 1 for place in range(len(shape))], axis))
    sizes = [max(label.shape[place] for label in labels) for place in range(len(shape))]
    whole = [
        label.expand([label.shape[axis] if p == axis else size for p, size in enumerate(sizes)])
        for label in labels
    ]
    return torch.cat(whole, axis).expand(shape)


def indexed(call: Call) -> Labels:
    """Advanced indexing: indexed axes keep their elements, others follow."""
    source = call.run.look(call.args[0])
    indices = call.args[1]
    places = [place for place, each in enumerate(indices) if each is not None]
    masks = any(indices[place].dtype in (torch.bool, torch.uint8) for place in places)
    found: dict[int, Tensor] = {}
    for each in call.tensors[1:]:
        for label in each.labels.values():
            call.keep(label, f"{call.name} indexes with it")
    for axis, label in source.labels.items():
        if axis in places or masks or (axis < len(indices) and indices[axis] is not None):
            call.keep(label, f"{call.name} selects by number")
            continue
        own, new, torn = moved(label, axis, lambda tensor: call.func(tensor, indices))
        for other in torn:
            own = _with_ties(call, own, other)
        if new is not None:
            found[new] = own
    return found


def selected(call: Call) -> Labels:
    """index_select: of another axis than the channels', or by a ChannelSelection."""
    source = call.run.look(call.args[0])
    axis = call.argument("dim") % source.tensor.ndim
    module = call.run.module(call.run.where)
    found = {place: label for place, label in source.labels.items() if place != axis}
    found = {
        place: resized(_at_start(call, label, axis), call.result.shape) for place, label in found.items()
    }
    if axis in source.labels:
        call.keep(source.labels[axis], f"{call.name} selects by number")
    index = call.run.look(call.args[2])
    if isinstance(module, ChannelSelection) and 0 in index.labels and axis in source.labels:
        ids = index.labels[0]
        reads = torch.from_numpy(_along(source.labels[axis], axis))
        call.run.add_layer(call.run.where, _ids(reads), _ids(ids), 1, False)
        operands = {0: (axis, spread(reads, source.tensor.shape, axis))}
        call.product = Product(call.run.where, operands, tuple(call.result.shape), None, axis, 0, 0)
        found[axis] = spread(ids, call.result.shape, axis)
    return found


def embedded(call: Call) -> Labels:
    """An embedding: rows are selected by number, columns follow."""
    table = call.run.look(call.args[0])
    if 0 in table.labels:
        call.keep(table.labels[0], f"{call.name} selects by number")
    last = call.result.ndim - 1
    if 1 not in table.labels:
        return {}
    return {last: spread(torch.from_numpy(_along(table.labels[1], 1)), call.result.shape, last)}


def gated(call: Call) -> Labels:
    """GLU: the second half of the channels scales the first."""
    source = call.run.look(call.args[0])
    axis = call.argument("dim") % source.tensor.ndim
    found = {}
    for place, label in source.labels.items():
        half = source.tensor.shape[axis] // 2
        first, second = label.narrow(axis, 0, half), label.narrow(axis, half, half)
        call.run.tie(first, second)
        if place == axis:
            call.run.tracer.equal([_along(first, axis), _along(second, axis)])
        found[place] = first
    return found


def unfolded(call: Call) -> Labels:
    """im2col: the cells of each window follow each other, channel by channel."""
    source = call.run.look(call.args[0])
    for axis, label in source.labels.items():
        if axis > 1:
            call.keep(label, f"{call.name} slides along it")
    if 1 not in source.labels:
        return {}
    label = source.labels[1]
    for axis in set(varying(label)) - {1}:
        label = _at_start(call, label, axis)
    cells = call.result.shape[1] // source.tensor.shape[1]
    ids = torch.from_numpy(_along(label, 1)).repeat_interleave(cells)
    return {1: spread(ids, call.result.shape, 1)}


def padded(call: Call) -> Labels:
    """Padding with a constant: of spatial axes; channels that are added are kept."""
    source, pads = call.run.look(call.args[0]), call.argument("pad")
    ndim = source.tensor.ndim
    amounts = {ndim - 1 - place // 2: pads[place : place + 2] for place in range(0, len(pads), 2)}
    found: dict[int, Tensor] = {}
    for axis, label in source.labels.items():
        before, after = amounts.get(axis, (0, 0))
        if before < 0 or after < 0:
            call.keep(label, f"{call.name} cuts by number")
            continue
        own = label
        for other in amounts:
            if other != axis and amounts[other] != [0, 0]:
                own = _at_start(call, own, other)
        if before or after:
            own = compact(own)
            pieces = []
            depth = 2 * (ndim - 1 - axis)
            for count, piece in ((before, depth), (after, depth + 1)):
                ids = torch.from_numpy(call.run.tracer.new(count))
                pieces.append(spread(ids, [count if p == axis else 1 for p in range(ndim)], axis))
                if count:
                    call.counts.append(Count((1, piece), ids.numpy()))
            shape = [-1 if p == axis else n for p, n in enumerate(own.shape)]
            own = torch.cat(
                [
                    piece.expand([piece.shape[axis] if p == axis else n for p, n in enumerate(own.shape)])
                    for piece in (pieces[0], own, pieces[1])
                ],
                axis,
            )
            del shape
        found[axis] = resized(own, call.result.shape)
    return found


# ------------------------------------------------------------------ sizes of other axes


def windows(call: Call) -> Labels | list[Labels]:
    """Operations within each channel that may change the sizes of other axes, as pools and resizing."""
    source = call.tensors[0]
    results = call.result if isinstance(call.result, list | tuple) else [call.result]
    found = []
    for result in results:
        own: dict[int, Tensor] = {}
        for axis, label in source.labels.items():
            if (
                not isinstance(result, Tensor)
                or result.ndim != label.ndim
                or result.shape[axis] != label.shape[axis]
            ):
                call.keep(label, f"{call.name} changes its number")
                continue
            for other in set(varying(label)) - {axis}:
                if other > 1 or result.shape[other] != label.shape[other]:
                    label = _at_start(call, label, other)
            own[axis] = resized(label, result.shape)
        found.append(own)
    return found if isinstance(call.result, list | tuple) else found[0]


def reduced(call: Call) -> Labels | list[Labels]:
    """Reductions: channels that are reduced are kept, others follow."""
    if call.func._overloadname == "other":  # the larger of two tensors
        return elementwise(call)
    source = call.run.look(call.args[0])
    ndim = source.tensor.ndim
    try:
        axes = call.argument("dim")
    except KeyError:
        axes = None
    axes = (
        list(range(ndim)) if axes is None or axes == [] else [axes] if isinstance(axes, int) else list(axes)
    )
    gone = sorted({axis % ndim for axis in axes}) if ndim else []
    labels = dict(source.labels)
    for axis in gone:
        if axis in labels:
            call.keep(labels.pop(axis), f"{call.name} {_MIXES}")
    result = call.result[0] if isinstance(call.result, list | tuple) else call.result
    keepdim = result.ndim == ndim
    found: dict[int, Tensor] = {}
    for axis, label in labels.items():
        for each in gone:
            label = _at_start(call, label, each)
        shape = [1 if place in gone else size for place, size in enumerate(source.tensor.shape)]
        label = resized(label, shape)
        if not keepdim:
            for each in reversed(gone):
                label = label.select(each, 0)
            axis -= sum(each < axis for each in gone)
        found[axis] = label.expand(result.shape)
    return [found] * len(call.result) if isinstance(call.result, list | tuple) else found


def along(call: Call) -> Labels:
    """Operations along one axis, such as softmax: channels there are kept, others follow."""
    source = call.run.look(call.args[0])
    axis = call.argument("dim") % max(1, source.tensor.ndim)
    labels = dict(source.labels)
    if axis in labels:
        call.keep(labels[axis], f"{call.name} mixes channels")
    return {
        place: _with_ties(call, label, axis) if place != axis else label for place, label in labels.items()
    }


def _with_ties(call: Call, label: Tensor, axis: int) -> Tensor:
    return _at_start(call, label, axis).expand(label.shape)


# ------------------------------------------------------------------ products


def convolution(call: Call) -> Labels:
    """Convolutions of all kinds."""
    args = call.args
    value, weight, bias = (call.seen(each) for each in args[:3])
    transposed, groups = bool(args[6]), args[8]
    assert value is not None and weight is not None
    rows_axis, reads_axis = (1, 0) if transposed and groups == 1 else (0, 1)
    inputs, outputs = value.tensor.shape[1], call.result.shape[1]
    if not weight.is_static:
        call.refuse("convolves with weights that are computed from the input")
        return {}
    if (transposed and 1 < groups < inputs) or (transposed and groups > 1 and groups != outputs):
        call.refuse("is a grouped transposed convolution, which is not supported")
        return {}
    read = value.labels.get(1)
    if read is not None:
        for axis in set(varying(read)) - {1}:
            read = _at_start(call, read, axis)
        read = torch.from_numpy(_along(read, 1))
    for axis, label in value.labels.items():
        if axis > 1:
            call.keep(label, f"{call.name} slides along it")
    written = weight.labels.get(rows_axis)
    depthwise = groups > 1 and groups == inputs
    if depthwise:
        columns = None
    elif groups == 1:
        columns = weight.labels.get(reads_axis)
        columns = None if columns is None else torch.from_numpy(_along(columns, reads_axis))
    else:
        columns = _grouped_columns(call, weight, groups)
    if written is not None:
        written = torch.from_numpy(_along(_first(call, written, rows_axis, groups > 1), rows_axis))
    layer = _layer_of(call, weight, written)
    if depthwise:
        if read is not None and written is not None:
            call.run.tie(written, read.repeat_interleave(outputs // inputs), "serial")
            if outputs > inputs:
                call.run.tie(written.view(inputs, -1)[:, :1], written.view(inputs, -1))
        elif written is not None:
            call.run.pin(written, f"{call.name} reads channels that are not followed")
        elif read is not None:
            call.run.pin(read, f"{call.name} has weights that are not followed")
        reads = read if read is not None else None
        if written is not None:
            call.counts.append(Count((8,), _ids(written.view(inputs, -1)[:, 0])))
    else:
        reads = _contracted(call, read, columns)
        if groups > 1:
            if reads is not None:
                call.run.equal(reads.view(groups, -1), 1)
            if written is not None:
                call.run.equal(written.view(groups, -1), 1)
    if bias is not None and written is not None:
        call.run.tie(bias.labels[0], written) if 0 in bias.labels else call.run.pin(
            written, f"{call.name} has a bias that is not followed"
        )
    _note_layer(call, layer, value, 1, reads, written, bias=2, groups=groups, depthwise=depthwise, weight=1)
    return {} if written is None else {1: spread(written, call.result.shape, 1)}


def _first(call: Call, label: Tensor, axis: int, grouped: bool) -> Tensor:
    """Row ids alone: they vary along no other axis of a weight."""
    for other in set(varying(label)) - {axis}:
        label = _at_start(call, label, other)
    return label


def _grouped_columns(call: Call, weight: Seen, groups: int) -> Tensor | None:
    label = weight.labels.get(1)
    if label is None:
        return None
    for axis in set(varying(label)) - {0, 1}:
        label = _at_start(call, label, axis)
    label = label.reshape(*label.shape[:2], -1)[..., 0]
    parts = label.view(groups, -1, label.shape[1])
    call.run.tie(parts[:, :1], parts)
    return parts[:, 0].reshape(-1)


def _contracted(call: Call, read: Tensor | None, columns: Tensor | None) -> Tensor | None:
    """Tie vectors of ids that a product contracts; where one is missing the other is kept."""
    if read is not None and columns is not None:
        call.run.tie(read, columns)
        call.run.read += [_ids(read), _ids(columns)]
        return columns
    for label, other in ((read, "weights"), (columns, "channels")):
        if label is not None:
            call.run.pin(label, f"{call.name} contracts it with {other} that are not followed")
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
    call: Call, layer: str | None, value: Seen, axis: int, reads: Tensor | None, written: Tensor | None,
    *, bias: int | None, groups: int = 1, depthwise: bool = False, weight: int, outputs: int = 1,
) -> None:  # fmt: skip
    place = next(p for p, arg in enumerate(call.args) if arg is value.tensor)
    if layer is not None and reads is None:
        module = call.run.module(layer)
        width = getattr(module, "in_channels", None) or module.in_features
        if not depthwise and width == 1:  # a single channel has no label
            reads = torch.from_numpy(call.run.tracer.new(1))
            call.run.tracer.pin(reads.numpy(), f"{layer} reads a single channel")
        elif depthwise:
            layer = None
    if layer is not None and written is None:
        ids = torch.from_numpy(call.run.tracer.new(1))
        call.run.tracer.pin(ids.numpy(), f"{layer} has a single channel")
        written = ids
    if layer is not None and reads is not None and written is not None:
        call.run.add_layer(layer, _ids(reads), _ids(written), groups, depthwise)
    counted = value.tensor if isinstance(call.run.module(layer or ""), TRANSPOSED) else call.result
    cells = counted.numel() // counted.shape[1]
    operands = {} if reads is None else {place: (axis, spread(reads, value.tensor.shape, axis))}
    call.product = Product(layer, operands, tuple(call.result.shape), bias, outputs, place, cells)


def matrix(call: Call) -> Labels:
    """mm, bmm, addmm, baddbmm: the last axis of the first and the one before the last of the second."""
    begin = 1 if call.func.overloadpacket in (aten.addmm, aten.baddbmm) else 0
    left, right = (call.run.look(call.args[begin + place]) for place in (0, 1))
    ndim = left.tensor.ndim
    a, b = left.labels.get(ndim - 1), right.labels.get(ndim - 2)
    operands: dict[int, tuple[int, Tensor]] = {}
    if a is not None and b is not None:
        call.run.tie(a.unsqueeze(-1), b.unsqueeze(ndim - 2))
        call.run.read += [_ids(compact(a)), _ids(compact(b))]
    elif a is not None or b is not None:
        call.run.pin(
            a if a is not None else b, f"{call.name} contracts it with a tensor that is not followed"
        )
    if a is not None:
        operands[begin] = (ndim - 1, a)
    if b is not None:
        operands[begin + 1] = (ndim - 2, b)
    found: dict[int, Tensor] = {}
    for each, gone in ((left, ndim - 1), (right, ndim - 2)):
        for axis, label in each.labels.items():
            if axis == gone:
                continue
            own = _at_start(call, label, gone).expand(call.result.shape)
            if axis in found:
                call.run.tie(found[axis], own)
            found[axis] = own
    for axis in range(ndim - 2):  # batch axes meet
        if axis in found and not all(
            axis in each.labels or each.tensor.shape[axis] == 1 for each in (left, right)
        ):
            call.keep(found[axis], f"{call.name} combines it with a tensor of fixed width")
    bias = None
    if begin:
        bias = call.run.look(call.args[0])
        own = meet(call, [bias, Seen(call.result, found)], call.result.shape)
        found = {**own, **found}
    _note_matrix(call, begin, left, right, found, operands)
    return found


def _note_matrix(
    call: Call, begin: int, left: Seen, right: Seen, found: Labels, operands: Mapping[int, tuple[int, Tensor]]
) -> None:
    layer, value, written, reads = None, None, None, None
    ndim = call.result.ndim
    outputs = ndim - 1
    if left.is_static != right.is_static and ndim == 2:
        value, weight, axis = (left, right, 1) if right.is_static else (right, left, 0)
        free = 1 if right.is_static else 0
        outputs = free
        label = weight.labels.get(free)
        written = None if label is None else torch.from_numpy(_along(label, free))
        contracted = weight.labels.get(1 - free)
        reads = None if contracted is None else torch.from_numpy(_along(contracted, 1 - free))
        layer = _layer_of(call, weight, written)
        if layer is not None and reads is not None and written is not None:
            module = call.run.module(layer)
            fits = isinstance(module, torch.nn.Linear) and len(written) == module.out_features
            layer = layer if fits and len(reads) == module.in_features else None
        if layer is not None and reads is not None and written is not None:
            call.run.add_layer(layer, _ids(reads), _ids(written), 1, False)
        if layer is not None and (reads is None or written is None):
            layer = None
    place = begin + (right.is_static is False)
    cells = call.result.numel() // call.result.shape[outputs]
    call.product = Product(
        layer, operands, tuple(call.result.shape), 0 if begin else None, outputs, place, cells
    )


def attention(call: Call) -> list[Labels]:
    """scaled_dot_product_attention: q and k are contracted, v passes; its scale keeps the width of q and k."""
    query, key, value = (call.run.look(each) for each in call.args[:3])
    last = query.tensor.ndim - 1
    for each in (query, key):
        if last in each.labels:
            call.keep(each.labels[last], f"{call.name} scales by its width")
    found: dict[int, Tensor] = {}
    for each in (query, key, value):
        for axis, label in each.labels.items():
            if axis == last and each is not value:
                continue
            if axis == last - 1:
                call.keep(label, f"{call.name} mixes it")
                continue
            own = _at_start(call, label, last - 1)
            if axis != last and last in varying(own):
                own = _at_start(call, own, last)
            own = own.expand(call.result[0].shape)
            if axis in found:
                call.run.tie(found[axis], own)
            found[axis] = own
    return [found]


# ------------------------------------------------------------------ norms


def batch_norm(call: Call) -> Labels | list[Labels]:
    """Batch norms of all kinds: one number of each parameter for each channel."""
    value = call.run.look(call.args[0])
    if _takes_statistics(call):
        for axis, label in value.labels.items():
            if axis != 1:
                call.keep(label, f"{call.name} {_MIXES}")
    others = [call.run.look(each) for each in call.args[1:5] if isinstance(each, Tensor) and each.numel()]
    label = value.labels.get(1)
    if label is None:
        for each in others:
            for own in each.labels.values():
                call.run.pin(own, f"{call.name} normalizes channels that are not followed")
        found: Labels = value.labels
    else:
        for axis in set(varying(label)) - {1}:
            label = _at_start(call, label, axis)
        along_one = torch.from_numpy(_along(label, 1))
        for each in others:
            if 0 in each.labels:
                call.run.tie(along_one, torch.from_numpy(_along(each.labels[0], 0)))
            elif len(each.tensor) > 1:
                call.run.pin(label, f"{call.name} has parameters that are not followed")
        found = {**value.labels, 1: label.expand(value.tensor.shape)}
        weight = next((each for each in others if 0 in each.labels), None)
        name = None if weight is None else call.run.module_of(torch.from_numpy(_along(weight.labels[0], 0)))
        if name is not None and call.run.is_norm(name):
            call.norm = name
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
    for axis in set(varying(label)) - {1}:
        label = _at_start(call, label, axis)
    vector = torch.from_numpy(_along(label, 1))
    for each in followers:
        if 0 in each.labels:
            call.run.tie(vector, torch.from_numpy(_along(each.labels[0], 0)))
        else:
            call.run.pin(vector, f"{call.name} has parameters that are not followed")
    if groups == 1:
        call.keep(vector, f"{call.name} {_MIXES}")
    else:
        parts = vector.view(groups, -1)
        call.run.tie(parts[:, :1], parts)
        call.counts.append(Count((6,), _ids(parts[:, 0])))
    return [{1: label.expand(value.tensor.shape)}]


def layer_norm(call: Call) -> list[Labels]:
    """Layer norm: its statistics are over the last axes, whose channels are kept."""
    value = call.run.look(call.args[0])
    over = len(call.argument("normalized_shape"))
    first = value.tensor.ndim - over
    found: dict[int, Tensor] = {}
    for axis, label in value.labels.items():
        if axis >= first:
            call.keep(label, f"{call.name} {_MIXES}")
        else:
            for other in range(first, value.tensor.ndim):
                label = _at_start(call, label, other)
            found[axis] = label.expand(value.tensor.shape)
    for each in call.tensors[1:]:
        for label in each.labels.values():
            call.keep(label, f"{call.name} {_MIXES}")
    return [found]


def written(call: Call) -> Labels | None:
    """A copy into a tensor: what is written meets what was there."""
    target, source = (call.run.look(each) for each in call.args[:2])
    found = meet(call, [target, source], target.tensor.shape)
    return found


def nothing(_call: Call) -> Labels:
    """Operations whose results hold no channels."""
    return {}


_SUMS = frozenset({aten.add, aten.add_, aten.sub, aten.sub_})
_ORDERED = frozenset({aten.roll, aten.unfold, aten.diagonal, aten.as_strided, aten.take, aten.cumsum})
_MOVERS = frozenset(
    {
        aten._unsafe_view, aten.reshape, aten.repeat, aten.roll, aten.flip, aten.pixel_shuffle,
        aten.pixel_unshuffle, aten.channel_shuffle, aten.split, aten.split_with_sizes, aten.unbind,
        aten.native_channel_shuffle, aten.lift_fresh,
    }
)  # fmt: skip
_SAME = frozenset(
    {
        aten.clone, aten.contiguous, aten._to_copy, aten.detach, aten.alias, aten.dropout, aten.hardswish_,
        aten.hardswish, aten.relu_, aten.elu_, aten.gelu, aten.copy, aten.hardtanh_, aten.hardtanh,
        aten.native_dropout, aten.celu_, aten.leaky_relu_, aten.silu_, aten.mish_, aten.threshold_,
        aten.sigmoid_, aten.tanh_, aten.clamp_, aten.clamp_min_, aten.clamp_max_, aten.hardsigmoid_, aten.zero_,
        aten.fill_, aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.rand_like, aten.randn_like,
        aten.bernoulli_, aten.nan_to_num_, aten.abs_, aten.exp_, aten.neg_, aten.sqrt_, aten.rsqrt_, aten.square_,
    }
)  # fmt: skip
_WINDOWS = frozenset(
    {
        aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.max_pool1d, aten.max_pool2d, aten.avg_pool1d,
        aten.avg_pool2d, aten.avg_pool3d, aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d,
        aten.adaptive_max_pool2d, aten.adaptive_max_pool3d, aten.adaptive_avg_pool1d,
        aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d, aten.upsample_linear1d,
        aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten.upsample_trilinear3d, aten._upsample_nearest_exact2d,
        aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa,
        aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d, aten.replication_pad1d,
        aten.replication_pad2d, aten.replication_pad3d, aten.grid_sampler_2d,
    }
)  # fmt: skip
_REDUCTIONS = frozenset(
    {
        aten.mean, aten.sum, aten.var, aten.std, aten.var_mean, aten.std_mean, aten.amax, aten.amin, aten.max,
        aten.min, aten.argmax, aten.argmin, aten.linalg_vector_norm, aten.norm, aten.logsumexp, aten.prod, aten.any,
        aten.all, aten.median, aten.mode,
    }
)  # fmt: skip
PRODUCTS = frozenset(
    {
        aten.index_select,
        aten.convolution, aten.mm, aten.bmm, aten.addmm, aten.baddbmm,
        aten._scaled_dot_product_flash_attention_for_cpu,
    }
)  # fmt: skip
_RULES: Mapping[Any, Rule] = MappingProxyType(
    {
        aten.convolution: convolution,
        **dict.fromkeys((aten.mm, aten.bmm, aten.addmm, aten.baddbmm), matrix),
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten.as_strided_: restrided,
        aten._prelu_kernel: elementwise,
        aten.embedding: embedded,
        aten.glu: gated,
        aten.im2col: unfolded,
        aten.cat: cat,
        aten.stack: stack,
        aten.index: indexed,
        aten.index_select: selected,
        aten.constant_pad_nd: padded,
        **dict.fromkeys(
            (
                aten.native_batch_norm, aten.cudnn_batch_norm, aten._native_batch_norm_legit,
                aten._native_batch_norm_legit_no_training, aten._batch_norm_with_update, aten._batch_norm_no_update,
            ),
            batch_norm,
        ),
        aten.native_group_norm: group_norm,
        aten.native_layer_norm: layer_norm,
        aten.copy_: written,
        **dict.fromkeys((aten._softmax, aten._log_softmax, aten._safe_softmax, aten.cumsum, aten.cumprod, aten.sort), along),
        **dict.fromkeys(_WINDOWS, windows),
        **dict.fromkeys(_REDUCTIONS, reduced),
        **dict.fromkeys(_SAME, passed),
        **dict.fromkeys(_MOVERS, move),
        **dict.fromkeys((aten.new_full, aten.new_zeros, aten.new_ones, aten.new_empty, aten.sym_size), nothing),
    }
)  # fmt: skip


def rule_of(func: OpOverload) -> Rule | None:
    """The rule of an operation, None for one that is not supported."""
    packet = func.overloadpacket
    if packet in _RULES:
        return _RULES[packet]
    if packet in _ORDERED or func.is_view:
        return move
    return elementwise if torch.Tag.pointwise in func.tags or _is_inplace_pointwise(packet) else None


def _is_inplace_pointwise(packet: Any) -> bool:
    name = packet.__name__
    plain = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    overloads = [getattr(plain, each) for each in plain.overloads()] if plain is not None else []
    return any(torch.Tag.pointwise in each.tags for each in overloads)
