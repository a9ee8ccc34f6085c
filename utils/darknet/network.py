"""The description of a network: typed sections, absolute references, shapes.

Invariant: a `Network` that exists is valid (references, channel counts, sizes at its own input size), and
`Network.from_text(network.to_cfg())` equals it. It is immutable; `edit` makes new ones.

Example:
    >>> text = "[net]\\nwidth=8\\nheight=8\\nchannels=3\\n[conv]\\nfilters=4\\n[route]\\nlayers=-1,0"
    >>> network = Network.from_text(text)
    >>> network.sources(1), network.channels(1), network.shape(-1)
    ((0, 0), 8, Shape(channels=3, height=8, width=8))
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CfgError, UnsupportedSectionError
from .cfg import Options, RawSection, format_cfg, parse_cfg, read_cfg, section_place
from .heads import Head
from .reading import read_section
from .sections import (
    BatchNorm,
    Connected,
    Convolutional,
    Maxpool,
    Reorg,
    Section,
    Shape,
    ShapeError,
    Upsample,
)

# The widest stock detector tried has 3,584 channels in a map and YOLOv4-P7, the largest published, 2.9e8
# weights; beyond these limits a cfg is a typing error, or meant to fill the memory.
MOST_CHANNELS = 1 << 16
MOST_CELLS = 1 << 30  # values of one map
MOST_FLOATS = 400_000_000


class Network:
    """The sections of a cfg in order, each with what it reads, who reads it and its shape.

    Attributes:
        source: file name for messages.
        raw: the sections as written, [net] first.
        options: those of [net].
        width, height: size of the input in pixels.
        sections: the typed sections; number `index` everywhere counts these, as Darknet does.
        heads: numbers of the detection heads in order.
        weight_counts: how many floats of a .weights file belong to each section.
    """

    def __init__(self, raw: Sequence[RawSection], source: str = "<cfg>") -> None:
        net = Options(raw[0], -1, source)
        if raw[0].kind != "net":
            place = f"{source}:{raw[0].line}"
            raise CfgError(place, f"the first section is [{raw[0].kind}]", "begin with [net]")
        if len(raw) == 1:
            net.fail(None, "is the only section", "add the network's sections below it")
        self.source = source
        self.raw = tuple(raw)
        self.options: Mapping[str, str] = raw[0].options
        self.width, self.height = (net.integer(key, 0, least=0) for key in ("width", "height"))
        self._image_channels = net.integer("channels", 0, least=0)
        for key in ("width", "height", "channels"):
            if net.integer(key, 0) == 0:
                fact = "is not positive" if key in net.section.options else f"{key}= is missing"
                net.fail(key, fact, f"write {key}= and a positive number")
        self.sections: tuple[Section, ...] = tuple(
            read_section(Options(section, index, source)) for index, section in enumerate(raw[1:])
        )
        self.heads = tuple(index for index, section in enumerate(self.sections) if isinstance(section, Head))
        self._readers = _readers(self.sections)
        self._shapes = self._shapes_of(self.height, self.width)
        self._check_shared_weights()
        self._refuse_readers_of_heads()
        self.weight_counts = self._weight_counts()

    def __deepcopy__(self, memo: object) -> "Network":
        """The network itself: it is immutable, so a copied model shares it."""
        return self

    @classmethod
    def from_cfg(cls, path: str | Path) -> "Network":
        """Read a cfg file.

        Raises:
            CfgError: with file:line, fact and remedy.
            UnsupportedSectionError: the same for what this project cannot represent.
        """
        return cls(read_cfg(Path(path)), str(path))

    @classmethod
    def from_text(cls, text: str, source: str = "<cfg>") -> "Network":
        """Read cfg text; `source` names it in messages."""
        return cls(parse_cfg(text, source), source)

    def to_cfg(self) -> str:
        """Cfg text with every option, in the order it was read.

        Defaults that differ in OpenCV are written out, so that all programs read the same network.
        """
        sections = (
            raw.with_options({key: value for key, value in _defaults(section) if key not in raw.options})
            for raw, section in zip(self.raw[1:], self.sections, strict=True)
        )
        return format_cfg([self.raw[0], *sections])

    def resized(self, height: int, width: int) -> "Network":
        """The network for an input of another size.

        Raises:
            CfgError: the network cannot work at that size.
        """
        size = {"height": str(height), "width": str(width)}
        return Network([self.raw[0].with_options(size), *self.raw[1:]], self.source)

    def __len__(self) -> int:
        return len(self.sections)

    def __getitem__(self, index: int) -> Section:
        return self.sections[index]

    def sources(self, index: int) -> tuple[int, ...]:
        """Absolute numbers of the sections that `index` reads; -1 is the image."""
        return self.sections[index].sources

    def readers(self, index: int) -> tuple[int, ...]:
        """Numbers of the sections that read `index` (-1 is the image), each once, ascending."""
        return self._readers[index]

    def shape(self, index: int) -> Shape:
        """Output shape of section `index` (-1 is the image) at the network's own input size."""
        return self._shapes[index]

    def channels(self, index: int) -> int:
        """Output channels of section `index`; -1 is the image."""
        return self._shapes[index].channels

    def input_channels(self, index: int) -> int:
        """Channels of the first source of section `index`."""
        return self.channels(self.sources(index)[0])

    def stride(self, index: int) -> int:
        """Pixels of the input per cell of section `index`."""
        return round(self.width / self.shape(index).width)

    @property
    def size_step(self) -> int:
        """Pixels in a cell of the coarsest map: sizes that are multiples of it keep all maps aligned."""
        maps = [index for index in range(len(self)) if min(self.shape(index).size) > 1]
        return max((self.stride(index) for index in (*maps, *self.heads)), default=1)

    @property
    def letterbox(self) -> bool:
        """Whether [net] asks for images that keep their aspect (letter_box=1)."""
        return self.options.get("letter_box", "0") == "1"

    def place(self, index: int) -> str:
        """Place of a section in messages: `file:line: [kind] #index`."""
        return section_place(self.source, self.sections[index].line, self.sections[index].kind, index)

    def shapes_at(self, height: int, width: int) -> Mapping[int, Shape]:
        """Shape of every section's output, and of the image as -1, at another input size.

        Raises:
            CfgError: some section cannot work at that size.
        """
        shapes = self._shapes_of(height, width)
        for index, section in enumerate(self.sections):
            source = section.sources[0]
            if isinstance(section, Connected) and shapes[source] != self._shapes[source]:
                own = f"{self.width}x{self.height}"
                fact = f"has weights for an image of {own}, not of {width}x{height}"
                raise CfgError(self.place(index), fact, f"use {own}")
        return shapes

    def _shapes_of(self, height: int, width: int) -> Mapping[int, Shape]:
        shapes = {-1: Shape(self._image_channels, height, width)}
        for index, section in enumerate(self.sections):
            try:
                shapes[index] = section.shape([shapes[source] for source in section.sources])
                _check_limits(shapes[index])
                if min(shapes[index]) < 1:
                    raise ShapeError(f"is empty for an image of {width}x{height}", "use a larger one")
            except ShapeError as error:
                raise CfgError(self.place(index), error.fact, error.remedy) from None
        return shapes

    def _weight_counts(self) -> tuple[int, ...]:
        counts = []
        for index, section in enumerate(self.sections):
            counts.append(section.weight_count([self._shapes[source] for source in section.sources]))
            if sum(counts) > MOST_FLOATS:
                fact = f"raises the weights to {sum(counts):,} floats, above the limit of {MOST_FLOATS:,}"
                raise CfgError(self.place(index), fact, "correct filters, size or groups")
        return tuple(counts)

    def _check_shared_weights(self) -> None:
        """Check that a convolution with `share_index` has the shape of the one whose weights it uses."""
        for index, section in enumerate(self.sections):
            if not isinstance(section, Convolutional) or section.shared_with is None:
                continue
            other = self.sections[section.shared_with]
            if not isinstance(other, Convolutional):
                fact = f"shares the weights of #{section.shared_with}, which is [{other.kind}]"
                raise CfgError(self.place(index), fact, "correct share_index")
            ours = (*_form(section), self.input_channels(index))
            if ours != (*_form(other), self.input_channels(section.shared_with)):
                fact = f"differs from #{section.shared_with}, whose weights it shares"
                remedy = "make filters, size, groups, batch_normalize and the input channels equal"
                raise CfgError(self.place(index), fact, remedy)

    def _refuse_readers_of_heads(self) -> None:
        for head in self.heads:
            for reader in self.readers(head):
                fact = f"reads detection head #{head}"
                remedy = "put a [route] before it that names the section it should read"
                raise UnsupportedSectionError(self.place(reader), fact, remedy)


def _defaults(section: Section) -> list[tuple[str, str]]:
    """Options whose default in OpenCV's importer is not Darknet's, with their values."""
    match section:
        case Convolutional():
            return [(key, str(getattr(section, key))) for key in ("filters", "size", "activation")]
        case Connected():
            return [("output", str(section.output)), ("activation", section.activation)]
        case Reorg():
            return [("stride", str(section.stride))]
        case Maxpool():
            return [("size", str(section.size)), ("stride", "1")]
        case Upsample():
            return [("stride", str(section.stride))]
        case Head():
            mask = ",".join(map(str, section.mask))
            written = [("classes", str(section.classes)), ("num", str(len(section.anchors)))]
            return written if section.kind == "region" else [("mask", mask), *written]
        case _:
            return []


def _check_limits(shape: Shape) -> None:
    for what, value, limit in (
        ("channels", shape.channels, MOST_CHANNELS),
        ("values in its map", math.prod(shape), MOST_CELLS),
    ):
        if value > limit:
            fact = f"has {value:,} {what}, above the limit of {limit:,}"
            raise ShapeError(fact, "correct the sizes in the sections above")


def _form(section: Convolutional) -> tuple[int, int, int, bool]:
    return section.filters, section.size, section.groups, section.batch_normalize


def _readers(sections: Sequence[Section]) -> dict[int, tuple[int, ...]]:
    readers: dict[int, list[int]] = {index: [] for index in range(-1, len(sections))}
    for index, section in enumerate(sections):
        for source in dict.fromkeys(section.sources):
            readers[source].append(index)
    return {source: tuple(found) for source, found in readers.items()}


NEVER = 1 << 31  # an iteration that no training reaches


def learns_from(network: Network) -> tuple[int, ...]:
    """For each section the first iteration (optimizer step, from 0) at which its weights learn, or NEVER.

    Raises:
        CfgError: one of the options is not a number.
    """
    burn_in = Options(network.raw[0], -1, network.source).integer("burn_in", 0)
    starts = []
    before = 0  # limit that later sections set for all before them
    for index in reversed(range(len(network))):
        options = _options(network, index)
        stop = options.integer("stopbackward", 0)
        before = max(before, NEVER if stop == 1 or options.flag("train_only_bn") else stop)
        update = options.integer("dont_update", 0)
        own = (
            NEVER if options.flag("onlyforward") else 0,
            update + 1 if update > 0 else 0,
            options.integer("burnin_update", 0) * burn_in,
        )
        starts.append(min(NEVER, max(before, *own)))
    return tuple(reversed(starts))


def detached(network: Network) -> frozenset[int]:
    """Sections through which no gradient passes back to what they read (`onlyforward`)."""
    return frozenset(i for i in range(len(network)) if _options(network, i).flag("onlyforward"))


def _options(network: Network, index: int) -> Options:
    return Options(network.raw[index + 1], index, network.source)


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
