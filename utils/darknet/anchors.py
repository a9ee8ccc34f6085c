"""The anchors of a network as one list in pixels, and the network with other anchors.

Idea: several heads write the same list and each masks a part of it; a *slot* is one anchor that some head
masks. Heads may share a slot; anchors that no head masks have none.

Invariant: `slots(with_anchors(network, sizes))` are `sizes` up to how many digits a cfg shows.
"""

from collections.abc import Iterator, Sequence

from .cfg import RawSection
from .heads import Head, Region
from .network import Network

Size = tuple[float, float]  # width, height


def slots(network: Network) -> tuple[Size, ...]:
    """Anchors in pixels of the network input, in the order of their numbers.

    Heads with different lists are ordered from the finest stride to the coarsest.
    """
    return tuple(
        _scaled(network, heads[0], heads[0].anchors[number])
        for heads in _lists(network)
        for number in _masked(heads)
    )


def with_anchors(network: Network, sizes: Sequence[Size]) -> Network:
    """The network with other anchors, as many as it has slots, in the order of `slots`.

    Raises:
        ValueError: there are more or fewer.
    """
    lines = anchor_lines(network, sizes)
    raw: list[RawSection] = list(network.raw)
    for heads, line in zip(_lists(network), lines, strict=True):
        for index in network.heads:
            if network[index] in heads:
                raw[index + 1] = raw[index + 1].with_options({"anchors": line})
    return Network(raw, network.source)


def anchor_lines(network: Network, sizes: Sequence[Size]) -> tuple[str, ...]:
    """The values of `anchors=` for sizes in pixels: one text for each list of the network.

    Raises:
        ValueError: there are not as many sizes as slots.
    """
    if len(sizes) != len(slots(network)):
        raise ValueError(f"{len(sizes)} anchors for the {len(slots(network))} that the heads mask")
    waiting = iter(sizes)
    lines = []
    for heads in _lists(network):
        anchors = list(heads[0].anchors)
        for number in _masked(heads):
            anchors[number] = _scaled(network, heads[0], next(waiting), back=True)
        digits = 4 if isinstance(heads[0], Region) else 1
        lines.append(",".join(_text(value, digits) for anchor in anchors for value in anchor))
    return tuple(lines)


def _lists(network: Network) -> Iterator[tuple[Head, ...]]:
    """The heads that share a list of anchors, list by list."""
    heads = [(network.stride(index), network[index]) for index in network.heads]
    groups: dict[tuple[Size, ...], list[tuple[int, Head]]] = {}
    for stride, head in heads:
        assert isinstance(head, Head)
        groups.setdefault(head.anchors, []).append((stride, head))
    for group in sorted(groups.values(), key=lambda group: min(stride for stride, _ in group)):
        yield tuple(head for _, head in group)


def _masked(heads: Sequence[Head]) -> list[int]:
    return sorted({number for head in heads for number in head.mask})


def _scaled(network: Network, head: Head, size: Size, *, back: bool = False) -> Size:
    """Convert from a head's unit to pixels, or `back`; [region] counts in cells."""
    if not isinstance(head, Region):
        return size
    _, rows, columns = network.shape(head.sources[0])
    cell = network.width / columns, network.height / rows
    return (size[0] / cell[0], size[1] / cell[1]) if back else (size[0] * cell[0], size[1] * cell[1])


def _text(value: float, digits: int) -> str:
    """A number with up to `digits` decimals, at least one unit of the last.

    >>> _text(116.0, 1), _text(10.25, 1), _text(0.01, 1)
    ('116', '10.2', '0.1')
    """
    return f"{max(value, 0.1**digits):.{digits}f}".rstrip("0").rstrip(".")
