"""Tensors on their way through a traced network, each number labelled with the channel it belongs to.

Operations that only move numbers (view, permute, cat, chunk, slices, ...) are run on the labels as they are
run on the numbers, so a flattened map, a channel shuffle or half of a tensor needs no rule of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.pruning.channels import ChannelIds, ChannelTracer, Tie

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
        return tuple(
            axis
            for axis in range(self.labels.ndim)
            if self.labels.shape[axis] > 1
            and bool((self.labels != self.labels.select(axis, 0).unsqueeze(axis)).any())
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
    rows = value.labels.movedim(axis, 0).reshape(value.labels.shape[axis], -1)
    first = rows[:, :1]
    if bool((rows != first).any()):
        tie_labels(tracer, first.expand_as(rows), rows, "joint")
    return first.flatten().numpy().astype(np.intp)


def tie_labels(tracer: ChannelTracer, first: Labels, second: Labels, kind: Tie) -> None:
    """Tie what stands at the same place of both."""
    pairs = torch.stack((first.flatten(), second.flatten()), dim=1)
    one, other = torch.unique(pairs[pairs[:, 0] != pairs[:, 1]], dim=0).T.numpy().astype(np.intp)
    tracer.tie(one, other, kind)


def pin_labels(tracer: ChannelTracer, value: Value, reason: str) -> None:
    """Never remove any of a tensor's channels."""
    if value.labels is not None:
        tracer.pin(torch.unique(value.labels).numpy().astype(np.intp), reason)
