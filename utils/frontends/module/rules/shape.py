"""Operations that move elements, or change the sizes of other axes than the channels."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ....pruning.channels import ChannelIds
from ....pruning.selection import ChannelSelection
from ..run import Call, Seen
from ..steps import (
    Count,
    Labels,
    Product,
    compact,
    ids_of,
    interleaves,
    moved,
    resized,
    rows,
    spread,
    vector,
)
from .values import meet

aten = torch.ops.aten
Moves = Labels | list[Labels]
ORDERED = frozenset({aten.roll, aten.unfold, aten.diagonal, aten.as_strided, aten.take})


def move(call: Call) -> Moves | None:
    """A view or copy that only moves elements of its first tensor."""
    return moving(call, lambda tensor: _again(call, tensor))


def _again(call: Call, tensor: Tensor) -> Any:
    packet = call.func.overloadpacket
    if packet in (aten.view, aten._unsafe_view, aten.reshape):
        return tensor.reshape(call.result.shape)
    if packet is aten.expand:
        return tensor.expand(call.result.shape)
    return call.func(tensor, *call.args[1:], **call.kwargs)


def moving(call: Call, again: Callable[[Tensor], Any]) -> Moves | None:
    """Labels after `again`, which does to ids what the operation does to elements."""
    (source, *_) = call.tensors
    results = call.result if isinstance(call.result, list | tuple) else [call.result]
    found: list[dict[int, Tensor]] = [{} for _ in results]
    for axis, label in source.labels.items():
        for place in range(len(results)):
            part = partial(_moved_part, again, place)
            own, new = _followed(call, label, axis, part)
            if new is None:
                if own.numel() and source.tensor.shape[axis] > 1:
                    call.keep(label, f"{call.name} selects by number")
                continue
            if interleaves(label, axis, part, new):
                vectors = rows(label, axis)
                call.run.tie(vectors[:1], vectors)
            call.run.equal(own, new)
            found[place][new] = own
    _note_counts(call, source, found)
    return [*found] if isinstance(call.result, list | tuple) else found[0]


def _followed(
    call: Call, label: Tensor, axis: int, again: Callable[[Tensor], Tensor]
) -> tuple[Tensor, int | None]:
    """The ids of an axis after `again`, and what it became; elements that are torn apart go together."""
    own, new, torn = moved(label, axis, again)
    for other in torn:
        own = call.alike(own, other)
    return own, new


def _moved_part(again: Callable[[Tensor], Any], place: int, tensor: Tensor) -> Tensor:
    found = again(tensor)
    part: Tensor = found[place] if isinstance(found, list | tuple) else found
    return part


def _note_counts(call: Call, source: Seen, found: list[dict[int, Tensor]]) -> None:
    packet = call.func.overloadpacket
    if packet in (aten.view, aten._unsafe_view, aten.expand, aten.reshape):
        for axis, label in found[0].items():
            call.counts.append(Count((1, axis), ids_of(vector(label, axis))))
    elif packet is aten.split_with_sizes:
        axis = call.argument("dim") % source.tensor.ndim
        sizes: dict[int, list[ChannelIds]] = {}
        for place, labels in enumerate(found):
            if axis in labels:
                ids = ids_of(vector(labels[axis], axis))
                call.counts.append(Count((1, place), ids))
                sizes.setdefault(len(ids), []).append(ids)
        for parts in sizes.values():  # one number of the code may be the size of all
            call.run.tracer.equal(parts)
    elif packet is aten.split:
        axis = call.argument("dim") % source.tensor.ndim
        parts = [ids_of(vector(labels[axis], axis)) for labels in found if axis in labels]
        if len(parts) == len(found) and len({len(part) for part in parts}) == 1:
            call.counts.append(Count((1,), parts[0]))
            call.run.tracer.equal(parts)
        elif axis in source.labels:
            call.keep(source.labels[axis], f"{call.name} splits unevenly")
    elif packet is aten.slice:
        _note_slice(call, source)
    elif packet in ORDERED and any(axis in source.labels for axis in _named_axes(call, source)):
        for axis in _named_axes(call, source):
            if axis in source.labels:
                call.keep(source.labels[axis], f"{call.name} moves channels by number")


def _note_slice(call: Call, source: Seen) -> None:
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
    ids = ids_of(vector(label, axis))
    ends = {2: (call.argument("start"), start), 3: (call.argument("end"), stop)}
    for place, (given, end) in ends.items():
        if given is not None and 0 < end < size:  # one below 0 counts from the end
            call.counts.append(Count((place,), ids[end:] if given < 0 else ids[:end]))
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
        first, *others = (compact(call.one_of(each.labels[place], axis)) for each in labelled)
        for other in others:
            call.run.tie(first, other)
        if len(labelled) < len(parts):
            call.keep(first, f"{call.name} joins it with a tensor of fixed width")
        found[place] = first.expand(call.result.shape)
    return found


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
        if axis in places or masks:
            call.keep(label, f"{call.name} selects by number")
            continue
        own, new = _followed(call, label, axis, lambda tensor: call.func(tensor, indices))
        if new is not None:
            found[new] = own
    return found


def selected(call: Call) -> Labels:
    """index_select: of another axis than the channels', or by a ChannelSelection."""
    source = call.run.look(call.args[0])
    axis = call.argument("dim") % source.tensor.ndim
    module = call.run.module(call.run.where)
    found = {place: label for place, label in source.labels.items() if place != axis}
    found = {place: resized(call.one_of(label, axis), call.result.shape) for place, label in found.items()}
    if axis in source.labels:
        keep = call.run.pin if isinstance(module, ChannelSelection) else call.keep
        keep(source.labels[axis], f"{call.name} selects by number")
    index = call.run.look(call.args[2])
    if isinstance(module, ChannelSelection) and 0 in index.labels and axis in source.labels:
        ids = index.labels[0]
        reads = vector(source.labels[axis], axis)
        call.run.add_layer(call.run.where, ids_of(reads), ids_of(ids), 1, False)
        operands = {0: (axis, spread(reads, source.tensor.shape, axis))}
        call.product = Product(call.run.where, operands, tuple(call.result.shape), outputs=axis)
        found[axis] = spread(ids, call.result.shape, axis)
    return found


def shuffled(call: Call) -> Moves | None:
    """A channel shuffle: each place is removed from all groups at once, so that the same shuffle is left."""
    source, groups = call.run.look(call.args[0]), call.argument("groups")
    if 1 in source.labels:
        parts = call.along(source.labels[1], 1).view(groups, -1)
        call.run.tie(parts[:1], parts)
    return move(call)


def embedded(call: Call) -> Labels:
    """An embedding: rows are selected by number, columns follow; a layer whose inputs are the rows."""
    table, module = call.run.look(call.args[0]), call.run.module(call.run.where)
    if 1 not in table.labels:
        return {}
    columns = vector(table.labels[1], 1)
    if 0 in table.labels:
        call.run.pin(table.labels[0], f"{call.name} selects by number")
        if isinstance(module, nn.Embedding) and module.weight is table.tensor:
            call.run.add_layer(call.run.where, ids_of(vector(table.labels[0], 0)), ids_of(columns), 1, False)
    return {call.result.ndim - 1: spread(columns, call.result.shape, call.result.ndim - 1)}


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
            call.run.tracer.equal([ids_of(vector(first, axis)), ids_of(vector(second, axis))])
        found[place] = first
    return found


def restrided(call: Call) -> Labels:
    """Other strides of the same elements, as pools give maps of one cell."""
    (source,) = call.tensors
    if any(label.shape != call.result.shape for label in source.labels.values()):
        call.refuse("reads memory in another order")
        return {}
    return source.labels
