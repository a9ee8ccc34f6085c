"""The typed sections of a network and the shapes they put out.

Invariant: every reference is an absolute section number, -1 being the image. Defaults and geometry are
those of Darknet's parser.c and make_*_layer functions. `reading` makes these out of cfg text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple


class Shape(NamedTuple):
    """Size of one feature map."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section after [net].

    Attributes:
        sources: absolute numbers of the sections it reads, the previous one first where it is read.
        line: line of its header in the cfg; 0 if made by code.
        options: all its options as written, also those that nobody here knows.
    """

    kind: ClassVar[str]
    reference_key: ClassVar[str | None] = None

    sources: tuple[int, ...]
    line: int = field(default=0, compare=False)
    options: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output for inputs in the order of `sources`.

        Raises:
            ValueError: the inputs do not fit; the message is "fact; remedy".
        """
        return inputs[0]


@dataclass(frozen=True, kw_only=True)
class Convolutional(Section):
    """Convolution, then batch norm or bias, then an activation. Pairs are (vertical, horizontal)."""

    kind: ClassVar[str] = "convolutional"
    filters: int = 1
    size: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    batch_normalize: bool = False
    activation: str = "logistic"

    def is_depthwise(self, inputs: int) -> bool:
        """Whether each of `inputs` > 1 input channels has filters of its own."""
        return self.groups == inputs > 1

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Window count at this stride; `groups` must divide the channels on both sides."""
        channels, height, width = inputs[0]
        if channels % self.groups or self.filters % self.groups:
            numbers = f"{channels} input channels and filters={self.filters}"
            raise ValueError(f"groups={self.groups} does not divide {numbers}; use a common divisor")
        # Darknet leaves dilation out of this formula; it is right for the 'same' padding that is accepted.
        reach = 2 * self.padding - self.size
        rows, columns = (height + reach) // self.stride[0] + 1, (width + reach) // self.stride[1] + 1
        return Shape(self.filters, rows, columns)


@dataclass(frozen=True, kw_only=True)
class Shortcut(Section):
    """Sum of the previous section and one or more others; shaped as the previous one.

    Attributes:
        weights_type: "none", "per_feature" (one weight a source) or "per_channel" (one a source and channel).
        weights_normalization: "none", "relu" or "softmax".
    """

    kind: ClassVar[str] = "shortcut"
    reference_key: ClassVar[str | None] = "from"
    activation: str = "linear"
    weights_type: str = "none"
    weights_normalization: str = "none"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """That of the previous section; all summands must have its height and width."""
        _require_equal_sizes(self.sources, inputs)
        return inputs[0]


@dataclass(frozen=True, kw_only=True)
class Route(Section):
    """Concatenation of part `group_id` out of `groups` equal channel parts of each source."""

    kind: ClassVar[str] = "route"
    reference_key: ClassVar[str | None] = "layers"
    groups: int = 1
    group_id: int = 0

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Channels add up; all sources must have one height and width."""
        _require_equal_sizes(self.sources, inputs)
        for source, shape in zip(self.sources, inputs, strict=True):
            if shape.channels % self.groups:
                whole = f"the {shape.channels} channels of section #{source}"
                raise ValueError(f"groups={self.groups} does not divide {whole}; use a divisor")
        return Shape(sum(shape.channels // self.groups for shape in inputs), *inputs[0].size)


@dataclass(frozen=True, kw_only=True)
class Maxpool(Section):
    """Largest value of each window; `padding` is the total of both ends, filled with -inf."""

    kind: ClassVar[str] = "maxpool"
    size: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: int = 0

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Window count, floor division: with the default padding that is ceil(size / stride)."""
        channels, height, width = inputs[0]
        reach = self.padding - self.size
        return Shape(channels, (height + reach) // self.stride[0] + 1, (width + reach) // self.stride[1] + 1)


@dataclass(frozen=True, kw_only=True)
class Upsample(Section):
    """Nearest neighbour by `stride`, or for a negative one the sum of each window; times `scale`."""

    kind: ClassVar[str] = "upsample"
    stride: int = 2
    scale: float = 1.0

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """`stride` times as high and wide, or that much smaller."""
        channels, height, width = inputs[0]
        if self.stride > 0:
            return Shape(channels, height * self.stride, width * self.stride)
        return Shape(channels, height // -self.stride, width // -self.stride)


@dataclass(frozen=True, kw_only=True)
class Dropout(Section):
    """Random zeros in training, nothing otherwise."""

    kind: ClassVar[str] = "dropout"
    probability: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Avgpool(Section):
    """Mean of each channel over the whole map."""

    kind: ClassVar[str] = "avgpool"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """One cell."""
        return Shape(inputs[0].channels, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Yolo(Section):
    """A detection head.

    Attributes:
        mask: which of `anchors` this head predicts, in channel order.
        anchors: (width, height) of all anchors in pixels of the network input.
    """

    kind: ClassVar[str] = "yolo"
    mask: tuple[int, ...] = ()
    anchors: tuple[tuple[float, float], ...] = ()
    classes: int = 20
    scale_x_y: float = 1.0
    new_coords: bool = False
    nms_kind: str = "default"
    beta_nms: float = 0.6
    ignore_thresh: float = 0.5

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """That of the input, which must hold a box, an objectness and all classes for each anchor."""
        wanted = len(self.mask) * (5 + self.classes)
        if inputs[0].channels != wanted:
            needs = f"needs {wanted} channels = {len(self.mask)} anchors x (5 + {self.classes} classes)"
            gives = f"section #{self.sources[0]} gives {inputs[0].channels}"
            raise ValueError(f"{needs} but {gives}; set filters={wanted} there, or correct mask or classes")
        return inputs[0]


def _require_equal_sizes(sources: Sequence[int], inputs: Sequence[Shape]) -> None:
    for source, shape in zip(sources, inputs, strict=True):
        if shape.size != inputs[0].size:
            ours = f"{inputs[0].width}x{inputs[0].height} of section #{sources[0]}"
            theirs = f"{shape.width}x{shape.height} of section #{source}"
            remedy = "correct the reference or the input size"
            raise ValueError(f"joins maps of different size, {ours} and {theirs}; {remedy}")
