"""One nn.Module for each section type; all they need to know is fixed when they are built.

Invariant: on CPU and float32, each computes what the C layer of the same name computes at inference.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.darknet import sections
from utils.darknet.sections import Section

# Inside the root, in double when fused (batchnorm_layer.c): torch's default is exact, OpenCV's 1e-6 is not.
BATCH_NORM_EPS = 1e-5


class HardMish(nn.Module):
    """x for x > 0, x^2 / 2 + x down to -2, 0 below (hard_mish_yashas in activations.h)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise on any shape."""
        return torch.where(x > 0, x, x * (x.clamp_min(-2) / 2 + 1))


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "linear": nn.Identity,
        "leaky": lambda: nn.LeakyReLU(0.1),
        "relu": nn.ReLU,
        "mish": nn.Mish,
        "swish": nn.SiLU,
        "logistic": nn.Sigmoid,
        "tanh": nn.Tanh,
        "elu": nn.ELU,
        "selu": nn.SELU,
        "gelu": lambda: nn.GELU("tanh"),
        "relu6": nn.ReLU6,
        "hard_mish": HardMish,
        "relie": lambda: nn.LeakyReLU(0.01),
    }
)


class ConvBlock(nn.Module):
    """Convolution, then batch norm if the section has it (else a bias), then the activation."""

    def __init__(self, section: sections.Convolutional, inputs: int) -> None:
        super().__init__()
        # skip_init: Darknet initialises every layer once itself.
        self.conv: nn.Conv2d = nn.utils.skip_init(
            nn.Conv2d,
            inputs,
            section.filters,
            section.size,
            stride=section.stride,
            padding=section.padding * section.dilation,  # im2col pads pad * dilation
            dilation=section.dilation,
            groups=section.groups,
            bias=not section.batch_normalize,
        )
        self.norm = nn.BatchNorm2d(section.filters, eps=BATCH_NORM_EPS) if section.batch_normalize else None
        self.activation = ACTIVATIONS[section.activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, filters, h', w')."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)


class Shortcut(nn.Module):
    """Sum of the sources, shaped as the first, over the channels that each has in common with it.

    Attributes:
        weights: None, or (sources, 1) or (sources, channels); row 0 belongs to the previous section.
    """

    def __init__(self, section: sections.Shortcut, channels: Sequence[int]) -> None:
        super().__init__()
        # shortcut_cpu and shortcut_multilayer_cpu add only the overlapping channels.
        self.overlaps = tuple(min(channels[0], count) for count in channels)
        self.channels = tuple(channels)
        self.normalization = section.weights_normalization
        columns = {"none": 0, "per_feature": 1, "per_channel": channels[0]}[section.weights_type]
        self.weights = nn.Parameter(torch.ones(len(channels), columns)) if columns else None
        self.activation = ACTIVATIONS[section.activation]()

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """All (B, their channels, h, w) -> the shape of `first`."""
        weights = self._normalized_weights()
        total = first if weights is None else first * weights[0]
        for row, other in enumerate(others, start=1):
            overlap = self.overlaps[row]
            part = other[:, :overlap] if overlap < self.channels[row] else other
            if weights is not None:
                part = part * weights[row, :overlap]
            if overlap == self.channels[0]:
                total = total + part
            else:
                total = torch.cat((total[:, :overlap] + part, total[:, overlap:]), dim=1)
        return self.activation(total)

    def _normalized_weights(self) -> Tensor | None:
        """Weights that sum to about 1 over the sources, (sources, 1 or channels, 1, 1)."""
        if self.weights is None:
            return None
        if self.normalization == "relu":
            positive = self.weights.clamp_min(0.001)
        else:
            positive = (self.weights - self.weights.amax(0, keepdim=True)).exp()
        return (positive / (1e-4 + positive.sum(0, keepdim=True)))[..., None, None]


class Route(nn.Module):
    """Concatenation of one part of the channels of each source.

    Attributes:
        parts: (first, end) of the channels taken, for each source.
    """

    def __init__(self, section: sections.Route, channels: Sequence[int]) -> None:
        super().__init__()
        widths = [count // section.groups for count in channels]
        self.parts = tuple((section.group_id * width, (section.group_id + 1) * width) for width in widths)
        self.is_whole = section.groups == 1

    def forward(self, *inputs: Tensor) -> Tensor:
        """All (B, their channels, h, w) -> (B, sum of the parts, h, w)."""
        if not self.is_whole:
            inputs = tuple(x[:, first:end] for x, (first, end) in zip(inputs, self.parts, strict=True))
        return inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)


class Maxpool(nn.Module):
    """Max-pooling whose windows start at -(padding // 2), the outside counting as -inf.

    Darknet pads by `padding` in total, for even windows one more at the right and bottom. Explicit padding
    is left to the cases that need it, because exported graphs with it are slower or wrongly fused.
    """

    def __init__(self, section: sections.Maxpool) -> None:
        super().__init__()
        self.size, self.stride, self.padding = section.size, section.stride, section.padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h', w')."""
        before = self.padding // 2
        if self.padding == 2 * before:
            return F.max_pool2d(x, self.size, self.stride, before)
        if self.stride == (1, 1):
            # One window more at each start than Darknet has.
            return F.max_pool2d(x, self.size, self.stride, before + 1)[..., 1:, 1:]
        if self.stride == (2, 2) and self.padding == self.size - 1:
            return F.max_pool2d(x, self.size, self.stride, before, ceil_mode=True)
        after = self.padding - before
        return F.max_pool2d(
            F.pad(x, (before, after, before, after), value=-torch.inf), self.size, self.stride
        )


class Upsample(nn.Module):
    """Nearest-neighbour enlargement, or the sum of windows for a negative stride, times `scale`."""

    def __init__(self, section: sections.Upsample) -> None:
        super().__init__()
        self.stride, self.scale = section.stride, section.scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, stride * h, stride * w)."""
        if self.stride > 0:
            x = F.interpolate(x, scale_factor=float(self.stride), mode="nearest")
        else:
            x = F.avg_pool2d(x, -self.stride) * self.stride**2
        return x if self.scale == 1 else x * self.scale


class YoloHead(nn.Module):
    """(B, A * width, h, w) as a raw head (B, A, h, w, width); a view, nothing is computed."""

    def __init__(self, section: sections.Yolo) -> None:
        super().__init__()
        self.anchors, self.width = len(section.mask), 5 + section.classes

    def forward(self, x: Tensor) -> Tensor:
        """(B, A * width, h, w) -> (B, A, h, w, width)."""
        # Not unflatten: torch.onnx takes the map's size behind it for a constant.
        return x.view(x.shape[0], self.anchors, self.width, x.shape[2], x.shape[3]).permute(0, 1, 3, 4, 2)


def build(section: Section, channels: Sequence[int]) -> nn.Module:
    """The module of one section.

    Args:
        channels: those of each of its sources, in order.
    """
    match section:
        case sections.Convolutional():
            return ConvBlock(section, channels[0])
        case sections.Shortcut():
            return Shortcut(section, channels)
        case sections.Route():
            return Route(section, channels)
        case sections.Maxpool():
            return Maxpool(section)
        case sections.Upsample():
            return Upsample(section)
        case sections.Dropout():
            return nn.Dropout(section.probability)
        case sections.Avgpool():
            return nn.AdaptiveAvgPool2d(1)
        case sections.Yolo():
            return YoloHead(section)
    raise TypeError(f"no module for {type(section).__name__}")
