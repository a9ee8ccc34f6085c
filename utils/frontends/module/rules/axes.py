"""Operations along axes: windows, padding, reductions, and what mixes the elements of one axis."""

import torch
from torch import Tensor

from ..run import MIXES, Call, Seen
from ..steps import Count, Labels, compact, resized, spread, varying
from .shape import Moves
from .values import elementwise

aten = torch.ops.aten
STATISTICS = frozenset(
    {aten.mean, aten.var, aten.std, aten.var_mean, aten.std_mean, aten.linalg_vector_norm, aten.norm}
)
_POOLS = frozenset(
    {
        aten.max_pool1d, aten.max_pool2d, aten.max_pool3d, aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d,
        aten.max_pool2d_with_indices, aten.max_pool3d_with_indices,
    }
)  # fmt: skip


def unfolded(call: Call) -> Labels:
    """im2col: the cells of each window follow each other, channel by channel."""
    source = call.run.look(call.args[0])
    for axis, label in source.labels.items():
        if axis > 1:
            call.keep(label, f"{call.name} slides along it")
    if 1 not in source.labels:
        return {}
    cells = call.result.shape[1] // source.tensor.shape[1]
    ids = call.along(source.labels[1], 1).repeat_interleave(cells)
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
                own = call.one_of(own, other)
        if before or after:
            own = compact(own)
            pieces = []
            depth = 2 * (ndim - 1 - axis)
            for count, piece in ((before, depth), (after, depth + 1)):
                ids = torch.from_numpy(call.run.tracer.new(count))
                pieces.append(spread(ids, [count if p == axis else 1 for p in range(ndim)], axis))
                if count:
                    call.counts.append(Count((1, piece), ids.numpy()))
            own = torch.cat(
                [
                    piece.expand([piece.shape[axis] if p == axis else n for p, n in enumerate(own.shape)])
                    for piece in (pieces[0], own, pieces[1])
                ],
                axis,
            )
        found[axis] = resized(own, call.result.shape)
    return found


def _slid(call: Call, source: Seen) -> list[int]:
    """The axes along which windows read several elements, though the size may stay."""
    ndim, packet = source.tensor.ndim, call.func.overloadpacket
    if packet is aten.grid_sampler_2d:
        return [ndim - 2, ndim - 1]
    if packet not in _POOLS:
        return []
    kernel = call.argument("kernel_size")
    sides = int(packet.__name__.split("pool")[1][0])
    sizes = [kernel] * sides if isinstance(kernel, int) else list(kernel) * (sides if len(kernel) == 1 else 1)
    return [ndim - sides + place for place, size in enumerate(sizes) if size > 1]


def windows(call: Call) -> Moves:
    """Operations within each channel that may change the sizes of other axes, as pools and resizing."""
    source = call.tensors[0]
    for axis in _slid(call, source):
        if axis in source.labels:
            call.keep(source.labels[axis], f"{call.name} slides along it")
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
                    label = call.one_of(label, other)
            own[axis] = resized(label, result.shape)
        found.append(own)
    return [*found] if isinstance(call.result, list | tuple) else found[0]


def reduced(call: Call) -> Moves:
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
            label = labels.pop(axis)
            if call.func.overloadpacket in STATISTICS and len(gone) == 1:
                call.computes_over(label, axis)
            else:
                call.keep(label, f"{call.name} {MIXES}")
    result = call.result[0] if isinstance(call.result, list | tuple) else call.result
    keepdim = result.ndim == ndim
    found: dict[int, Tensor] = {}
    for axis, label in labels.items():
        for each in gone:
            label = call.one_of(label, each)
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
    return {place: call.alike(label, axis) if place != axis else label for place, label in labels.items()}
