"""Parameters and multiply-adds of each section of a network, from its shapes alone.

Invariant: the sums equal what `profiling` counts on the built network.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .network import Network
from .sections import BatchNorm, Connected, Convolutional, Shape


@dataclass(frozen=True)
class SectionCost:
    """Learnable parameters, and multiply-adds for one image."""

    parameters: int
    macs: int


def section_costs(network: Network, image_size: tuple[int, int] | None = None) -> tuple[SectionCost, ...]:
    """Costs of all sections, in order.

    Args:
        network: what to count.
        image_size: (height, width) of the image in pixels; None for the network's own.

    Raises:
        CfgError: the network cannot work at that size.

    >>> text = "[net]\\nwidth=6\\nheight=4\\nchannels=3\\n[conv]\\nfilters=8\\nsize=3\\npad=1"
    >>> section_costs(Network.from_text(text))
    (SectionCost(parameters=224, macs=5184),)
    """
    shapes = network.shapes_at(*(image_size or (network.height, network.width)))
    return tuple(
        SectionCost(network.weight_counts[index] - _statistics(network, index), _macs(network, index, shapes))
        for index in range(len(network))
    )


def _statistics(network: Network, index: int) -> int:
    """Number of means and variances: they are in the .weights file but are not learned."""
    section = network[index]
    if isinstance(section, BatchNorm):
        return 2 * network.channels(index)
    has_norm = isinstance(section, Convolutional | Connected) and section.batch_normalize
    return 2 * network.channels(index) if has_norm and network.weight_counts[index] else 0


def _macs(network: Network, index: int, shapes: Mapping[int, Shape]) -> int:
    section, inputs = network[index], shapes[network.sources(index)[0]]
    match section:
        case Convolutional():
            kernel = section.size**2 * (inputs.channels // section.groups)
            return math.prod(shapes[index]) * kernel
        case Connected():
            return section.output * math.prod(inputs)
        case _:
            return 0
