"""The typed sections of a network and their output shapes.

Invariant: every reference is an absolute section number, -1 being the image. Defaults and geometry are
those of Darknet's parser.c and make_*_layer functions; a pooling section pads by `padding` in total and
starts its windows at -(padding // 2). `reading` makes these out of cfg text, detection heads are in `heads`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple


class ShapeError(Exception):
    """The inputs of a section do not fit it.

    Attributes:
        fact: what is wrong.
        remedy: what the user can do about it.
    """

    def __init__(self, fact: str, remedy: str) -> None:
        super().__init__(fact, remedy)
        self.fact, self.remedy = fact, remedy


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
        options: all its options as written, known or not.
    """

    kind: ClassVar[str]
    reference_keys: ClassVar[tuple[str, ...]] = ()  # options that name other sections

    sources: tuple[int, ...]
    line: int = field(default=0, compare=False)
    options: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output for inputs in the order of `sources`.

        Raises:
            ShapeError: the inputs do not fit.
        """
        return inputs[0]

    def weight_count(self, inputs: Sequence[Shape]) -> int:  # noqa: ARG002
        """Number of floats of the section in a .weights file."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Convolutional(Section):
    """Convolution, then batch norm or bias, then an activation. Pairs are (vertical, horizontal).

    Attributes:
        shared_with: section whose weights, biases and batch norm this one uses too (`share_index`), or None.
    """

    kind: ClassVar[str] = "convolutional"
    reference_keys: ClassVar[tuple[str, ...]] = ("share_index",)
    filters: int = 1
    size: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    batch_normalize: bool = False
    activation: str = "logistic"
    shared_with: int | None = None

    def is_depthwise(self, inputs: int) -> bool:
        """Whether each of `inputs` > 1 input channels has filters of its own."""
        return self.groups == inputs > 1

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Number of windows at this stride; `groups` must divide the channels on both sides."""
        channels, height, width = inputs[0]
        if channels % self.groups or self.filters % self.groups:
            numbers = f"{channels} input channels and filters={self.filters}"
            raise ShapeError(f"groups={self.groups} does not divide {numbers}", "use a common divisor")
        # Darknet leaves dilation out of this formula; it is right for the 'same' padding that is accepted.
        reach = 2 * self.padding - self.size
        rows, columns = (height + reach) // self.stride[0] + 1, (width + reach) // self.stride[1] + 1
        return Shape(self.filters, rows, columns)

    def weight_count(self, inputs: Sequence[Shape]) -> int:
        """Kernels, and for each filter four numbers of batch norm, or its bias."""
        if self.shared_with is not None:
            return 0
        kernels = self.filters * (inputs[0].channels // self.groups) * self.size**2
        return kernels + self.filters * (4 if self.batch_normalize else 1)


@dataclass(frozen=True, kw_only=True)
class Connected(Section):
    """Fully connected layer, then batch norm or bias, then an activation."""

    kind: ClassVar[str] = "connected"
    output: int = 1
    batch_normalize: bool = False
    activation: str = "logistic"

    def shape(self, inputs: Sequence[Shape]) -> Shape:  # noqa: ARG002
        """One cell."""
        return Shape(self.output, 1, 1)

    def weight_count(self, inputs: Sequence[Shape]) -> int:
        """Biases, the matrix, and with batch norm three more numbers for each output."""
        return self.output * (math.prod(inputs[0]) + (4 if self.batch_normalize else 1))


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Section):
    """Batch norm as a section of its own."""

    kind: ClassVar[str] = "batchnorm"

    def weight_count(self, inputs: Sequence[Shape]) -> int:
        """Bias, scale, mean and variance of each channel."""
        return 4 * inputs[0].channels


@dataclass(frozen=True, kw_only=True)
class Activation(Section):
    """An activation alone."""

    kind: ClassVar[str] = "activation"
    activation: str = "linear"


@dataclass(frozen=True, kw_only=True)
class Shortcut(Section):
    """Sum of the previous section and one or more others; shaped as the previous one.

    Attributes:
        weights_type: "none", "per_feature" (one weight a source) or "per_channel" (one a source and channel).
        weights_normalization: "none", "relu" or "softmax".
    """

    kind: ClassVar[str] = "shortcut"
    reference_keys: ClassVar[tuple[str, ...]] = ("from",)
    activation: str = "linear"
    weights_type: str = "none"
    weights_normalization: str = "none"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the previous section; all summands must have its height and width."""
        _require_equal_sizes(self.sources, inputs)
        return inputs[0]

    def weight_count(self, inputs: Sequence[Shape]) -> int:
        """One for each source, or for each source and channel."""
        per_source = {"none": 0, "per_feature": 1, "per_channel": inputs[0].channels}
        return len(inputs) * per_source[self.weights_type]


@dataclass(frozen=True, kw_only=True)
class Route(Section):
    """Concatenation of part `group_id` out of `groups` equal channel parts of each source."""

    kind: ClassVar[str] = "route"
    reference_keys: ClassVar[tuple[str, ...]] = ("layers",)
    groups: int = 1
    group_id: int = 0

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Channels add up; all sources must have the same height and width."""
        _require_equal_sizes(self.sources, inputs)
        for source, shape in zip(self.sources, inputs, strict=True):
            if shape.channels % self.groups:
                whole = f"the {shape.channels} channels of section #{source}"
                raise ShapeError(f"groups={self.groups} does not divide {whole}", "use a divisor")
        return Shape(sum(shape.channels // self.groups for shape in inputs), *inputs[0].size)


@dataclass(frozen=True, kw_only=True)
class ScaleChannels(Section):
    """Product of the section `from` and the previous one, which has one value for each channel.

    Attributes:
        scale_wh: the previous section has one channel with a value for each cell instead.
    """

    kind: ClassVar[str] = "scale_channels"
    reference_keys: ClassVar[tuple[str, ...]] = ("from",)
    activation: str = "linear"
    scale_wh: bool = False

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of `from`."""
        gate, scaled = inputs
        wanted = Shape(1, *scaled.size) if self.scale_wh else Shape(scaled.channels, 1, 1)
        if gate != wanted:
            found = f"has {_text(gate)} as scales for the {_text(scaled)} of section #{self.sources[1]}"
            raise ShapeError(found, f"make section #{self.sources[0]} give {_text(wanted)}")
        return scaled


@dataclass(frozen=True, kw_only=True)
class Sam(Section):
    """Elementwise product of the section `from` and the previous one."""

    kind: ClassVar[str] = "sam"
    reference_keys: ClassVar[tuple[str, ...]] = ("from",)
    activation: str = "linear"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of both."""
        if inputs[0] != inputs[1]:
            found = f"multiplies {_text(inputs[0])} and {_text(inputs[1])} of section #{self.sources[1]}"
            raise ShapeError(found, "make their shapes equal")
        return inputs[1]


@dataclass(frozen=True, kw_only=True)
class Dropout(Section):
    """Dropout: random zeros in training, the identity otherwise."""

    kind: ClassVar[str] = "dropout"
    probability: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Empty(Section):
    """A section that does nothing but counts as one."""

    kind: ClassVar[str] = "empty"


@dataclass(frozen=True, kw_only=True)
class Softmax(Section):
    """Softmax over `groups` equal parts of all values, or over the channels of each cell (`spatial`)."""

    kind: ClassVar[str] = "softmax"
    groups: int = 1
    temperature: float = 1.0
    spatial: bool = False

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the input."""
        if math.prod(inputs[0]) % self.groups:
            fact = f"groups={self.groups} does not divide {math.prod(inputs[0])} values"
            raise ShapeError(fact, "use a divisor")
        return inputs[0]


@dataclass(frozen=True, kw_only=True)
class Pool(Section):
    """A window that moves over each channel. Pairs are (vertical, horizontal)."""

    size: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: int = 0

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Number of windows, rounded down: with the default padding that is ceil(size / stride)."""
        channels, height, width = inputs[0]
        reach = self.padding - self.size
        return Shape(channels, (height + reach) // self.stride[0] + 1, (width + reach) // self.stride[1] + 1)


@dataclass(frozen=True, kw_only=True)
class Maxpool(Pool):
    """Largest value of each window; `padding` is the total of both ends, filled with -inf."""

    kind: ClassVar[str] = "maxpool"


@dataclass(frozen=True, kw_only=True)
class LocalAvgpool(Pool):
    """Mean of each window over the cells that are inside the map; geometry as for `Maxpool`."""

    kind: ClassVar[str] = "local_avgpool"


@dataclass(frozen=True, kw_only=True)
class Avgpool(Section):
    """Mean of each channel over the whole map."""

    kind: ClassVar[str] = "avgpool"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """One cell."""
        return Shape(inputs[0].channels, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Upsample(Section):
    """Nearest-neighbour enlargement by `stride`, or the sum of windows if negative; times `scale`."""

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
class Reorg3d(Section):
    """Space to depth: squares of `stride` x `stride` cells become channels, all channels of a place first."""

    kind: ClassVar[str] = "reorg3d"
    stride: int = 1

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """`stride`^2 times the channels, `stride` times lower and narrower."""
        channels, height, width = inputs[0]
        if height % self.stride or width % self.stride:
            raise ShapeError(f"stride={self.stride} does not divide a {width}x{height} map", "use a divisor")
        return Shape(channels * self.stride**2, height // self.stride, width // self.stride)


@dataclass(frozen=True, kw_only=True)
class Reorg(Reorg3d):
    """Space to depth of YOLOv2: the same shape, but runs of `stride`^2 channels mix (reorg_old_layer.c)."""

    kind: ClassVar[str] = "reorg"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape as of `Reorg3d`; the channels must be whole runs."""
        if inputs[0].channels % self.stride**2:
            whole = f"the {inputs[0].channels} channels of section #{self.sources[0]}"
            raise ShapeError(f"stride={self.stride} squared does not divide {whole}", "use a multiple")
        return super().shape(inputs)


def _text(shape: Shape) -> str:
    """A shape as Darknet prints it: width x height x channels."""
    return f"{shape.width}x{shape.height}x{shape.channels}"


def _require_equal_sizes(sources: Sequence[int], inputs: Sequence[Shape]) -> None:
    for source, shape in zip(sources, inputs, strict=True):
        if shape.size != inputs[0].size:
            ours = f"{inputs[0].width}x{inputs[0].height} of section #{sources[0]}"
            theirs = f"{shape.width}x{shape.height} of section #{source}"
            fact = f"joins maps of different size, {ours} and {theirs}"
            raise ShapeError(fact, "correct the reference or the input size")
