"""New networks from old ones: narrower, shorter, or for other classes. Nothing is changed in place.

Invariants: every result is a valid `Network`; a reference keeps pointing at the same tensor; a relative
one stays relative and an absolute one absolute. All functions are linear in the number of sections.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import CfgError
from .cfg import RawSection
from .heads import Head
from .network import Network
from .sections import Connected, Convolutional, Shortcut

_NOTHING: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True)
class ResidualBlock:
    """A shortcut and its branch: `shortcut` adds `identity` to the end of `branch`; `identity` replaces both.

    Attributes:
        identity: section whose output is passed on.
        branch: all sections between identity and shortcut, in order; the last gives the other summand.
        shortcut: the adding section.
        activation: kept in place of the shortcut as an [activation] section; nothing if "linear".
    """

    identity: int
    branch: tuple[int, ...]
    shortcut: int
    activation: str = "linear"

    @property
    def sections(self) -> tuple[int, ...]:
        """Sections that are removed with the block."""
        return (*self.branch, self.shortcut) if self.activation == "linear" else self.branch


def with_filters(
    network: Network, filters: Mapping[int, int], groups: Mapping[int, int] = _NOTHING
) -> Network:
    """The network with other numbers of filters (and groups), or outputs of a connected section.

    A depthwise convolution's groups follow its filters unless `groups` names it.

    Args:
        filters: section number -> new filters.
        groups: section number -> new groups.

    Raises:
        ValueError: a section is not a convolution.
        CfgError: the result would be invalid, such as groups that no longer divide the channels.
    """
    changes: dict[int, dict[str, str]] = {}
    for index in sorted({*filters, *groups}):
        section = network[index]
        if isinstance(section, Connected):
            changes[index] = {"output": str(filters[index])}
            continue
        if not isinstance(section, Convolutional):
            raise ValueError(f"{network.place(index)} has no filters to change")
        count = filters.get(index, section.filters)
        group_count = section.groups
        if section.is_depthwise(network.input_channels(index)):
            group_count = count // (section.filters // section.groups)
        group_count = groups.get(index, group_count)
        changes[index] = {"filters": str(count)}
        if group_count != section.groups:
            changes[index]["groups"] = str(group_count)
    return _changed(network, changes)


def with_classes(network: Network, classes: int) -> Network:
    """The network with every detection head, and the convolution in front of it, made for `classes`.

    Raises:
        CfgError: a head does not directly follow a convolution.
    """
    changes: dict[int, dict[str, str]] = {}
    for head in network.heads:
        section, source = network[head], network.sources(head)[0]
        assert isinstance(section, Head)
        if not isinstance(network[source], Convolutional):
            remedy = "give a cfg with the class count of the weights"
            fact = "does not directly follow a convolution that could be resized"
            raise CfgError(network.place(head), fact, remedy)
        changes[head] = {"classes": str(classes)}
        changes[source] = {"filters": str(len(section.mask) * (section.box_values + 1 + classes))}
    return _changed(network, changes)


def residual_blocks(network: Network) -> tuple[ResidualBlock, ...]:
    """All residual blocks that can be removed, in order.

    A block is an unweighted two-input shortcut over a branch that fills the whole gap between identity and
    shortcut, reads nothing but the identity and is not read elsewhere; identity and shortcut have the same
    number of channels. Branches may hold any sections (dropout, depthwise convolutions, ...) but none whose
    weights others share. The identity may reach the shortcut without passing weights only by the shortcut
    itself: a branch that adds it too is not zero when its weights are. With the branch at zero a shortcut
    gives act(identity), so its activation stays when the block is removed.
    """
    lenders = {s.shared_with for s in network.sections if isinstance(s, Convolutional)}
    blocks = (_block_at(network, index, lenders) for index in range(len(network)))
    return tuple(block for block in blocks if block is not None)


def _block_at(network: Network, index: int, lenders: Container[int | None]) -> ResidualBlock | None:
    section = network[index]
    if not isinstance(section, Shortcut) or len(section.sources) != 2:
        return None
    if section.weights_type != "none":
        return None
    identity = section.sources[1]
    branch = tuple(range(identity + 1, index))
    if not branch or network.channels(identity) != network.channels(index):
        return None
    for member in branch:
        if member in lenders:
            return None
        if not all(identity <= source < index for source in network.sources(member)):
            return None
        if not all(reader <= index for reader in network.readers(member)) or not network.readers(member):
            return None
    if _reaches_past_weights(network, identity, branch):
        return None
    return ResidualBlock(identity, branch, index, section.activation)


def _reaches_past_weights(network: Network, identity: int, branch: tuple[int, ...]) -> bool:
    """Whether some path from the identity to the end of the branch has no convolution."""
    carrying = {identity}
    for member in branch:
        weighted = isinstance(network[member], Convolutional | Connected)
        if not weighted and not carrying.isdisjoint(network.sources(member)):
            carrying.add(member)
    return branch[-1] in carrying


def without_blocks(network: Network, blocks: Iterable[ResidualBlock]) -> tuple[Network, dict[int, int]]:
    """The network without some of its residual blocks.

    Sections that read a removed shortcut read the block's identity instead, after the shortcut's activation
    if it has one. In numbers, as in the published pruners: absolute k becomes k - #(removed <= k), and a
    relative reference moves towards 0 by the number of sections removed strictly between.

    Args:
        blocks: out of `residual_blocks(network)`.

    Returns:
        The shorter network, and old -> new number of every section that is kept.

    Raises:
        ValueError: a block is not one of this network's.
    """
    chosen = set(blocks)
    if not chosen <= set(residual_blocks(network)):
        raise ValueError(f"{network.source}: some blocks are not residual blocks of this network")
    removed = {index for block in chosen for index in block.sections}
    moved, kept = {-1: -1}, 0
    for index in range(len(network)):
        kept += index not in removed
        moved[index] = kept - 1
    renumbering = {old: new for old, new in moved.items() if old >= 0 and old not in removed}
    alone = {block.shortcut: block.activation for block in chosen}
    sections = [network.raw[0]]
    for index in renumbering:
        if index in alone:
            sections.append(RawSection("activation", {"activation": alone[index]}))
        else:
            sections.append(_renumbered(network, index, moved))
    return Network(sections, network.source), renumbering


def _renumbered(network: Network, index: int, moved: Mapping[int, int]) -> RawSection:
    raw = network.raw[index + 1]
    for key in network[index].reference_keys:
        if key not in raw.options:
            continue
        written = [int(value) for value in raw.options[key].split(",")]
        absolute = [index + value if value < 0 else value for value in written]
        renumbered = [
            moved[target] - moved[index] if value < 0 else moved[target]
            for value, target in zip(written, absolute, strict=True)
        ]
        raw = raw.with_options({key: ",".join(map(str, renumbered))})
    return raw


def _changed(network: Network, changes: Mapping[int, Mapping[str, str]]) -> Network:
    sections = list(network.raw)
    for index, options in changes.items():
        sections[index + 1] = sections[index + 1].with_options(options)
    return Network(sections, network.source)
