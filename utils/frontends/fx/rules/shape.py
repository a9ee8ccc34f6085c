"""Rules for shape operations: view, permute, cat, slice; channel counts in the code are recorded."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from torch.utils import _pytree as pytree

from ..call import INPUT, Call, Labels, Value, channels, spread
from .compute import channelwise

_WITH_SIZES = ("view", "reshape", "expand")


def moved(call: Call) -> Any:
    """Operations that only move numbers: run them on the labels."""
    if all(value.labels is None for value in call.values):
        return None
    return call.run(lambda value: _labels(call, value).contiguous())  # views of them must be possible


def _labels(call: Call, value: Value) -> Labels:
    """Labels of a tensor; new pinned ones if it has none but other tensors have."""
    if value.labels is not None:
        return value.labels
    ids = call.trace.tracer.new(1)
    call.trace.tracer.pin(ids, INPUT)
    return spread(ids, [1] * value.tensor.ndim, 0).expand(value.tensor.shape)


def pixels(call: Call) -> Labels | None:
    """Pixel shuffle: channels that become pixels of one map are tied."""
    labels = moved(call)
    if labels is None:
        return None
    ids = channels(call.trace.tracer, Value(call.result, labels), 1, INPUT)
    return spread(ids, call.result.shape, 1)


def expanded_as(call: Call) -> Labels | None:
    """expand_as: one channel broadcast over the channels of another tensor takes their labels."""
    value, target, shape = *call.values, call.values[0].tensor.shape
    offset = target.tensor.ndim - value.tensor.ndim
    one = not value.axes and all(axis < offset or shape[axis - offset] == 1 for axis in target.axes)
    if not target.axes or not one:
        return cast(Labels | None, moved(call))
    if value.labels is not None:
        call.keep_one(value)
    return target.labels


def pad(call: Call) -> Labels | None:
    """Padding of the map, or with channels of zeros, which are pinned."""
    (value,) = call.values
    pads = call.argument(1, "pad")
    if value.labels is None:
        return None
    if len(pads) // 2 < value.tensor.ndim - 1:
        return cast(Labels, channelwise(call))
    if call.argument(2, "mode", "constant") != "constant":
        return call.refuse("repeats channels")
    fresh = call.trace.tracer.new(1)
    call.trace.tracer.pin(fresh, f"padding channels of {call.node.name}")
    inside = channels(call.trace.tracer, value, 1, INPUT)
    before, after = pads[2 * (value.tensor.ndim - 2)], pads[2 * (value.tensor.ndim - 2) + 1]
    if before < 0 or after < 0:
        return call.refuse("crops channels")
    ids = np.concatenate([fresh.repeat(before), inside, fresh.repeat(after)])
    return spread(ids, call.result.shape, 1)


def reshaped(call: Call) -> Labels | None:
    """view, reshape, expand, ...: channel counts among the sizes are recorded."""
    labels = moved(call)
    if labels is None:
        return None
    axes = Value(call.result, labels).axes
    paths = dict(_size_arguments(call))
    literal = [axis for axis in axes if axis in paths]
    if len(axes) > 2:
        return call.refuse("spreads channels over more than two axes")
    if len(axes) == 2:
        return split_axes(call, labels, axes, paths)
    for axis in literal:
        call.counts(channels(call.trace.tracer, Value(call.result, labels), axis, INPUT), *paths[axis])
    return labels


def split_axes(
    call: Call, labels: Labels, axes: tuple[int, ...], paths: dict[int, tuple[int | str, ...]]
) -> Labels:
    """Channels divided over two axes, as in a shuffle: the axis with a literal size keeps its size.

    Of two literals the first is kept. Channels at the same place of all rows are tied: otherwise a shuffle
    would reorder the remaining ones.
    """
    outer, inner = axes
    gives = outer if inner in paths and outer not in paths else inner
    ids = channels(call.trace.tracer, Value(call.result, labels), gives, INPUT)
    if gives == inner and inner in paths:
        call.counts(ids, *paths[gives])
    return labels


def _size_arguments(call: Call) -> Iterator[tuple[int, tuple[int | str, ...]]]:
    """Axes of the result with a literal size in the code, and the path to it."""
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


def chunk(call: Call) -> Any:
    """chunk: equal parts must stay equal."""
    parts = moved(call)
    if parts is None:
        return None
    axis = call.argument(2, "dim", 0) % call.values[0].tensor.ndim
    if axis in call.values[0].axes:
        ids = [channels(call.trace.tracer, Value(part, part), axis, INPUT) for part in parts]
        if len({len(part) for part in ids}) > 1:
            return call.refuse("divides channels into unequal parts")
        call.trace.tracer.equal(ids)
    return parts


def split_sizes(call: Call) -> Any:
    """split: one size for all parts, or one for each."""
    parts = moved(call)
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
        return call.refuse("divides channels into unequal parts")
    call.trace.tracer.equal(ids)
    if call.literal(at) is not None:
        call.counts(ids[0], at)
    return parts


def item(call: Call) -> Any:
    """Indexing of a tensor, or of a tuple of tensors."""
    source, index = call.args
    if not isinstance(source, Value):
        found = source[index]
        return found.labels if isinstance(found, Value) else None
    if source.labels is None:
        return None
    indices = index if isinstance(index, tuple) else (index,)
    if any(isinstance(leaf, Value) for leaf in pytree.tree_leaves(indices)):
        return call.refuse("indexes with a tensor")
    for position, axis in _indexed_axes(indices, source.tensor.ndim):
        path = (1, position) if isinstance(index, tuple) else (1,)
        if axis in source.axes and not _bounds(call, source, axis, indices[position], path):
            return call.refuse("indexes channels with a computed number, or one by one")
    return source.labels[index]


def _indexed_axes(indices: tuple[Any, ...], count: int) -> Iterator[tuple[int, int]]:
    """Position of each index, and the axis that it indexes."""
    picking = [position for position, part in enumerate(indices) if part is not None and part is not Ellipsis]
    for number, position in enumerate(picking):
        behind = Ellipsis in indices and position > indices.index(Ellipsis)
        yield position, count - len(picking) + number if behind else number


def _bounds(call: Call, source: Value, axis: int, part: Any, path: tuple[int, ...]) -> bool:
    """Record the bounds of a slice of channels at `path`; return whether that is possible."""
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
