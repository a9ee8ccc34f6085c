"""Networks scaled in width or in image size.

Idea: the new width is one function of the number of filters, so equally wide convolutions stay equal. Where a
concatenation is added to a convolution, rounding can make them differ: then the convolution follows.

Invariants: what was added or multiplied with equally many channels still is; the heads keep their inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd

from ..errors import CfgError
from .anchors import slots, with_anchors
from .edit import with_filters
from .network import Network
from .sections import (
    Activation,
    BatchNorm,
    Connected,
    Convolutional,
    Dropout,
    Empty,
    Pool,
    Sam,
    ScaleChannels,
    Section,
    Shape,
    ShapeError,
    Shortcut,
    Upsample,
)

MULTIPLE = 8
_WRITERS = (Convolutional, Connected)
# Sections as wide as their first source, so that its writer decides on their width too.
_AS_WIDE = (Shortcut, BatchNorm, Activation, Dropout, Empty, Pool, Upsample)


@dataclass(frozen=True)
class _Widths:
    """An attempt: filters and groups of the convolutions, and the first join that they break, if any."""

    filters: Mapping[int, int]
    groups: Mapping[int, int]
    broken: int | None
    shapes: Mapping[int, Shape]


def scaled(filters: int, factor: float, multiple: int = MULTIPLE) -> int:
    """`filters` times `factor`, rounded to a multiple; at least one, and no more than before if smaller.

    >>> scaled(64, 0.5), scaled(36, 0.5), scaled(6, 0.5), scaled(6, 2)
    (32, 16, 6, 16)
    """
    rounded = max(multiple, multiple * int(filters * factor / multiple + 0.5))
    return min(rounded, filters) if factor <= 1 else rounded


def with_width(network: Network, factor: float) -> Network:
    """The network with `factor` times the filters, multiples of 8, in all convolutions but the heads'.

    The groups of depthwise convolutions follow; others keep the largest number that still divides.

    Raises:
        CfgError: no such network is found.
    """
    fixed = {network.sources(head)[0] for head in network.heads}
    fixed |= {section.sources[0] for section in network.sections if _has_one_channel_gate(section)}
    filters = {
        index: scaled(section.output if isinstance(section, Connected) else section.filters, factor)
        for index, section in enumerate(network.sections)
        if isinstance(section, _WRITERS) and index not in fixed
    }
    for _ in range(len(network)):
        widths = _try(network, filters)
        if widths.broken is None:
            return with_filters(network, widths.filters, widths.groups)
        first, other = network.sources(widths.broken)[:2]
        writer = _writer(network, first)
        if writer is None or writer in fixed:
            break
        filters[writer] = widths.shapes[other].channels
    fact = f"its inputs would have different widths with factor {factor:g}"
    raise CfgError(network.place(widths.broken or 0), fact, "try another width")


def _try(network: Network, filters: Mapping[int, int]) -> _Widths:
    shapes, used, groups = {-1: network.shape(-1)}, dict(filters), {}
    for index, section in enumerate(network.sections):
        inputs = [shapes[source] for source in section.sources]
        if isinstance(section, Convolutional) and index in filters:
            section = _convolution(section, network.input_channels(index), inputs[0].channels, filters[index])
            used[index], groups[index] = section.filters, section.groups
        elif isinstance(section, Connected) and index in filters:
            section = replace(section, output=filters[index])
        if _is_broken(network, section, inputs):
            return _Widths(used, groups, index, shapes)
        try:
            shapes[index] = section.shape(inputs)
        except ShapeError as error:
            remedy = f"{error.remedy}, or try another width"
            raise CfgError(network.place(index), error.fact, remedy) from None
    return _Widths(used, groups, None, shapes)


def _convolution(section: Convolutional, before: int, inputs: int, filters: int) -> Convolutional:
    if section.is_depthwise(before):
        filters = inputs * (section.filters // section.groups)
        return replace(section, filters=filters, groups=inputs)
    return replace(section, filters=filters, groups=gcd(section.groups, inputs, filters))


def _is_broken(network: Network, section: Section, inputs: list[Shape]) -> bool:
    """Whether a join whose sources were equally wide has sources of different widths."""
    if not isinstance(section, Shortcut | Sam | ScaleChannels):
        return False
    before = {network.channels(source) for source in section.sources}
    return len(before) == 1 and len({shape.channels for shape in inputs}) > 1


def _has_one_channel_gate(section: Section) -> bool:
    return isinstance(section, ScaleChannels) and section.scale_wh


def _writer(network: Network, index: int) -> int | None:
    """The convolution that decides how many channels section `index` has; None where several do."""
    while isinstance(network[index], _AS_WIDE) and index >= 0:
        index = network.sources(index)[0]
    return index if index >= 0 and isinstance(network[index], _WRITERS) else None


def with_size(network: Network, height: int, width: int) -> Network:
    """The network for images of another size, its anchors scaled alike.

    Raises:
        CfgError: the network cannot work at that size.
    """
    network.shapes_at(height, width)
    net = network.raw[0].with_options({"width": str(width), "height": str(height)})
    resized = Network([net, *network.raw[1:]], network.source)
    scale = width / network.width, height / network.height
    anchors = [(anchor[0] * scale[0], anchor[1] * scale[1]) for anchor in slots(network)]
    return with_anchors(resized, anchors) if scale != (1, 1) else resized
