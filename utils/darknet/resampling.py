"""Sections that pool or rearrange the cells of a map and have no weights.

Invariant: as in `sections`; pooling geometry is that of make_maxpool_layer, which pads by `padding` in total
and starts its windows at -(padding // 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .sections import Section, Shape


@dataclass(frozen=True, kw_only=True)
class Pool(Section):
    """A window that moves over each channel. Pairs are (vertical, horizontal)."""

    size: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: int = 0

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Window count, floor division: with the default padding that is ceil(size / stride)."""
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
class Reorg3d(Section):
    """Cells become channels: squares of `stride` x `stride` cells, channel after channel for each place."""

    kind: ClassVar[str] = "reorg3d"
    stride: int = 1

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """`stride`^2 times the channels, `stride` times lower and narrower."""
        channels, height, width = inputs[0]
        if height % self.stride or width % self.stride:
            raise ValueError(f"stride={self.stride} does not divide a {width}x{height} map; use a divisor")
        return Shape(channels * self.stride**2, height // self.stride, width // self.stride)


@dataclass(frozen=True, kw_only=True)
class Reorg(Reorg3d):
    """YOLOv2's: the same shape, but runs of `stride`^2 channels get mixed (reorg_old_layer.c)."""

    kind: ClassVar[str] = "reorg"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """As `Reorg3d`; the channels must be whole runs."""
        if inputs[0].channels % self.stride**2:
            whole = f"the {inputs[0].channels} channels of section #{self.sources[0]}"
            raise ValueError(f"stride={self.stride} squared does not divide {whole}; use a multiple")
        return super().shape(inputs)
