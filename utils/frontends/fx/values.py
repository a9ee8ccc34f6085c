"""Tensors on their way through a traced network, each number labelled with the channel it belongs to.

Operations that only move numbers (view, permute, cat, chunk, slices, ...) are run on the labels as they are
run on the numbers, so a flattened map, a channel shuffle or half of a tensor needs no rule of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...pruning.channels import ChannelIds, ChannelTracer, Tie

Labels = Tensor  # int64, shaped as the numbers


@dataclass(frozen=True)
class Value:
    """A tensor of the example run.

    Attributes:
        tensor: its numbers.
        labels: id of the channel of each number; None where nothing can be removed: images, constants.
        name: of the parameter or buffer that it is; empty for all others.
    """

    tensor: Tensor
    labels: Labels | None = None
    name: str = ""

    @property
    def axes(self) -> tuple[int, ...]:
        """Those along which the labels vary."""
        if self.labels is None:
            return ()
        (labels,) = _once(self.labels)
        return tuple(
            axis
            for axis in range(labels.ndim)
            if labels.shape[axis] > 1 and bool((labels != labels.narrow(axis, 0, 1)).any())
        )


def spread(ids: ChannelIds, shape: Sequence[int], axis: int) -> Labels:
    """Labels of a tensor of `shape` whose channels lie along `axis`."""
    sizes = [1] * len(shape)
    sizes[axis] = len(ids)
    return torch.from_numpy(ids.astype(np.int64)).view(sizes).expand(*shape)


def channels(tracer: ChannelTracer, value: Value, axis: int, reason: str) -> ChannelIds:
    """Ids of the channels of `value` along `axis`; what is mixed in one channel lives and dies together.

    Args:
        tracer: is told of ties, and pins the channels of a tensor that has none.
        value: any tensor.
        axis: where its channels are looked for.
        reason: why channels of a tensor without labels are pinned.
    """
    if value.labels is None:
        ids = tracer.new(value.tensor.shape[axis])
        tracer.pin(ids, reason)
        return ids
    (labels,) = _once(value.labels, but=axis)
    rows = labels.movedim(axis, 0).reshape(labels.shape[axis], -1)
    first = rows[:, :1]
    if bool((rows != first).any()):
        tie_labels(tracer, first.expand_as(rows), rows, "joint")
    return first.flatten().numpy().astype(np.intp)


def tie_labels(tracer: ChannelTracer, first: Labels, second: Labels, kind: Tie) -> None:
    """Tie what stands at the same place of both."""
    one, other = (labels.flatten().numpy() for labels in _once(first, second))
    differ = one != other
    tracer.tie(*unique_pairs(one[differ], other[differ]), kind)


def unique_pairs(one: ChannelIds, other: ChannelIds) -> tuple[ChannelIds, ChannelIds]:
    """What stands at the same place of both, each pair once."""
    base = int(other.max(initial=0)) + 1  # a pair as one number: sorting these is much faster than rows
    first, second = np.divmod(np.unique(one * base + other), base)
    return first, second


def pin_labels(tracer: ChannelTracer, value: Value, reason: str) -> None:
    """Never remove any of a tensor's channels."""
    if value.labels is not None:
        tracer.pin(np.unique(_once(value.labels)[0].numpy()).astype(np.intp), reason)


def _once(*labels: Labels, but: int | None = None) -> tuple[Labels, ...]:
    """Without their repetitions along axes, other than `but`, that all of them are expanded along."""
    for axis in range(labels[0].ndim):
        if axis != but and all(each.stride(axis) == 0 for each in labels):
            labels = tuple(each.narrow(axis, 0, 1) for each in labels)
    return labels
