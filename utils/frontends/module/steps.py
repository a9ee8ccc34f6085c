"""Steps of a run: the labels of their tensors, their counts and products; and further runs beside them.

Labels say which channel each element of a tensor belongs to. A tensor that was seen has for each axis that
may become narrower a tensor of channel ids, expanded to its shape, so that an axis along which the ids do not
vary takes no memory. The ids of one axis may vary along others too: after `view(B, heads, width, N)` those of
axis 2 are other ones for each head, and all heads keep equally many.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from ...pruning.channels import ChannelIds

_aten = torch.ops.aten
SCALES = frozenset({_aten.mul, _aten.mul_, _aten.div, _aten.div_})  # that multiply by a number
Labels = Mapping[int, Tensor]  # axis -> (shape of the tensor) int64 channel ids


def spread(ids: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """Ids (n,) along `axis` of a tensor of `shape`, whose size there is n.

    >>> spread(torch.tensor([7, 8]), (2, 2), 1).tolist()
    [[7, 8], [7, 8]]
    """
    return ids.view([-1 if place == axis else 1 for place in range(len(shape))]).expand(tuple(shape))


def varying(label: Tensor) -> tuple[int, ...]:
    """The axes along which ids may differ."""
    sizes = zip(label.shape, label.stride(), strict=True)
    return tuple(axis for axis, (size, stride) in enumerate(sizes) if stride and size > 1)


def compact(label: Tensor) -> Tensor:
    """The same ids with size 1 along all other axes."""
    for axis in set(range(label.ndim)) - set(varying(label)):
        label = label.narrow(axis, 0, 1)
    return label


def rows(label: Tensor, axis: int) -> Tensor:
    """(rows, n) the different vectors of ids along `axis`; one row where ids vary along no other axis."""
    found = compact(label).movedim(axis, -1)
    found = found.reshape(-1, found.shape[-1])
    return found if len(found) == 1 else torch.unique(found, dim=0)


def ids_of(label: Tensor) -> ChannelIds:
    """All ids, as a vector."""
    found: ChannelIds = label.reshape(-1).numpy()
    return found


def vector(label: Tensor, axis: int) -> Tensor:
    """(n,) the ids along an axis, at the first place of all others."""
    return rows(label, axis)[0]


def resized(label: Tensor, shape: Sequence[int]) -> Tensor:
    """The ids for a tensor of the same rank that has other sizes along axes where ids do not vary."""
    return compact(label).expand(tuple(shape))


class Moved(NamedTuple):
    """Ids of one axis after an operation that only moves elements.

    Attributes:
        label: the ids.
        axis: what the axis became; of one that is split, the last part. None if it is gone or has size 1.
        torn: the other axes over which its elements lie now, as after a pixel shuffle: channels can go only
            with all that have the same place along `axis`.
    """

    label: Tensor
    axis: int | None
    torn: tuple[int, ...] = ()


def moved(label: Tensor, axis: int, move: Callable[[Tensor], Tensor]) -> Moved:
    """The ids of `axis` after `move`."""
    marker = spread(torch.arange(label.shape[axis]), label.shape, axis)
    after, found = move(marker), without_copies(move(label))
    axes = [place for place in range(after.ndim) if _varies(after, place)]
    if not axes:
        return Moved(found, None)
    if len(axes) > 1 and math.prod(after.shape[place] for place in axes) != label.shape[axis]:
        last = rows(after, axes[-1])[0]
        if len(last.unique()) == len(last) and axes[-1] in varying(found):
            return Moved(found, axes[-1])  # the other part is merged with a batch, as heads are in attention
        return Moved(found, axes[0], tuple(axes[1:]))
    # of a batch that was merged with channels and is split from them again, only one part has the ids
    own = [place for place in axes if place in varying(found)]
    return Moved(found, (own or axes)[-1])


def without_copies(label: Tensor) -> Tensor:
    """The same ids, expanded along all axes along which they are in fact equal."""
    small = compact(label)
    for axis in varying(small):
        first = small.narrow(axis, 0, 1)
        if bool((small == first).all()):
            small = first
    return small.expand(label.shape)


def interleaves(label: Tensor, axis: int, move: Callable[[Tensor], Tensor], new: int) -> bool:
    """Whether the vectors along `axis` alternate along the axis `new` that `move` makes of several axes.

    Then cutting them at different places would change the order of what is left.
    """
    others = [place for place in varying(label) if place != axis]
    if not others:
        return False
    shape = [label.shape[place] if place in others else 1 for place in range(label.ndim)]
    number = torch.arange(math.prod(shape)).view(shape).expand(label.shape)
    found = rows(move(number), new)[0]
    return int((found.diff() != 0).sum()) > len(found.unique()) - 1


def _varies(marker: Tensor, axis: int) -> bool:
    if marker.shape[axis] < 2 or not marker.stride(axis):
        return False
    first = compact(marker)
    return first.shape[axis] > 1 and bool((first.diff(dim=axis) != 0).any())


@dataclass(frozen=True)
class Count:
    """An argument of an operation that counts channels.

    Attributes:
        path: place in the arguments: position, and index in it if it is a list.
        ids: the channels that it counts.
    """

    path: tuple[int, ...]
    ids: ChannelIds


@dataclass(frozen=True)
class Product:
    """A contraction of channels: what reads them.

    Attributes:
        layer: name of the layer with these weights; None for other products.
        operands: position in the arguments -> axis that is contracted and its labels.
        value: position of the tensor that a layer reads.
        cells: how often a layer's kernel is applied.
        result: shape of the output.
        bias: position of the bias, if there is one.
        outputs: axis of the layer's channels in the output.
        is_norm: whether it computes statistics instead, which are of the kept channels alone.
    """

    layer: str | None
    operands: Mapping[int, tuple[int, Tensor]]
    result: tuple[int, ...]
    bias: int | None = None
    outputs: int = 1
    value: int = 0
    cells: int = 0
    is_norm: bool = False


@dataclass(frozen=True)
class Step:
    """An operation of the run, as far as a narrowed network needs to know it."""

    func: OpOverload
    counts: tuple[Count, ...] = ()
    product: Product | None = None
    args: tuple[Any, ...] = ()  # None in place of tensors and lists
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # numbers alone
    near: ChannelIds | None = None  # channels of the tensors that it combines with numbers
    scaled: ChannelIds | None = None  # channels on the last axis of what it multiplies by a number
    whole: type[nn.Module] | None = None  # a type whose modules are one operation, which a rule describes
