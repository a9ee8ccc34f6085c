"""The nn.Module of each section type, and `build`, which makes it.

Invariant: on CPU and in float32, each computes what the C layer of the same name computes at inference.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import heads, sections
from .sections import Section, Shape

# Inside the root (batchnorm_layer.c): torch's default is the same, OpenCV's 1e-6 is not.
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
    """Convolution, then batch norm if the section has it (else a bias), then the activation.

    Attributes:
        shared: whether weights, bias and batch norm are those of another section.
    """

    def __init__(
        self, section: sections.Convolutional, inputs: int, lender: "ConvBlock | None" = None
    ) -> None:
        super().__init__()
        self.shared = lender is not None
        self.conv = nn.Conv2d(
            inputs,
            section.filters,
            section.size,
            stride=section.stride,
            padding=section.padding * section.dilation,  # im2col pads pad * dilation
            dilation=section.dilation,
            groups=section.groups,
            bias=not section.batch_normalize,
            device="meta",
        )
        # `Darknet` initialises every layer once. nn.utils.skip_init does the same, but imports sympy.
        for name, parameter in list(self.conv.named_parameters()):
            setattr(self.conv, name, nn.Parameter(torch.empty(parameter.shape)))
        self.norm = nn.BatchNorm2d(section.filters, eps=BATCH_NORM_EPS) if section.batch_normalize else None
        self.activation = ACTIVATIONS[section.activation]()
        if lender is not None:
            # Parameters one by one, since stride, padding and dilation are this section's own.
            self.conv.weight, self.conv.bias = lender.conv.weight, lender.conv.bias
            self.norm = lender.norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, filters, h', w')."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)


class ConnectedBlock(nn.Module):
    """Fully connected layer, then batch norm or bias, then the activation."""

    def __init__(self, section: sections.Connected, inputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, section.output, bias=not section.batch_normalize)
        self.norm = nn.BatchNorm1d(section.output, eps=BATCH_NORM_EPS) if section.batch_normalize else None
        self.activation = ACTIVATIONS[section.activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) with C * h * w inputs -> (B, output, 1, 1)."""
        x = self.linear(x.flatten(1))
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)[..., None, None]


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
        """Weights with a sum of about 1 over the sources, (sources, 1 or channels, 1, 1)."""
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


class Gate(nn.Module):
    """Product of the second input and the first, broadcast, then the activation: [scale_channels], [sam]."""

    def __init__(self, section: sections.ScaleChannels | sections.Sam) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[section.activation]()

    def forward(self, gate: Tensor, scaled: Tensor) -> Tensor:
        """(B, C or 1, h or 1, w or 1) and (B, C, h, w) -> (B, C, h, w)."""
        return self.activation(scaled * gate)


class Softmax(nn.Module):
    """Softmax over parts of all values, or over the channels of each cell (softmax_layer.c)."""

    def __init__(self, section: sections.Softmax) -> None:
        super().__init__()
        self.groups, self.temperature, self.spatial = section.groups, section.temperature, section.spatial

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        if self.spatial:
            return (x / self.temperature).softmax(dim=1)
        parts = (x / self.temperature).reshape(x.shape[0], self.groups, -1)
        return parts.softmax(dim=2).view_as(x)


class Maxpool(nn.Module):
    """Max-pooling whose windows start at -(padding // 2), padded with -inf.

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
            # One window more at the top and left than in Darknet, cut off again.
            return F.max_pool2d(x, self.size, self.stride, before + 1)[..., 1:, 1:]
        if self.stride == (2, 2) and self.padding == self.size - 1:
            return F.max_pool2d(x, self.size, self.stride, before, ceil_mode=True)
        after = self.padding - before
        return F.max_pool2d(
            F.pad(x, (before, after, before, after), value=-torch.inf), self.size, self.stride
        )


class LocalAvgpool(nn.Module):
    """Mean of the cells of each window that are inside the map; windows as in `Maxpool`."""

    def __init__(self, section: sections.LocalAvgpool) -> None:
        super().__init__()
        self.size, self.stride, self.padding = section.size, section.stride, section.padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h', w')."""
        before, after = self.padding // 2, self.padding - self.padding // 2
        if before == after:
            return F.avg_pool2d(x, self.size, self.stride, before, count_include_pad=False)
        borders = (before, after, before, after)
        inside = F.avg_pool2d(F.pad(x.new_ones(1, 1, *x.shape[2:]), borders), self.size, self.stride)
        return F.avg_pool2d(F.pad(x, borders), self.size, self.stride) / inside


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


class Reorg3d(nn.Module):
    """Each square of s * s cells becomes channels: out[off * C + c] = in[c, off // s::s, off % s::s]."""

    def __init__(self, section: sections.Reorg3d) -> None:
        super().__init__()
        self.stride = section.stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, s * s * C, h / s, w / s)."""
        s, (batch, channels, height, width) = self.stride, x.shape
        squares = x.reshape(batch, channels, height // s, s, width // s, s)
        return squares.permute(0, 3, 5, 1, 2, 4).reshape(batch, s * s * channels, height // s, width // s)


class Reorg(nn.Module):
    """`Reorg3d` on the buffer read as C / s^2 channels of s * h rows, s * w columns (reorg_old_layer.c)."""

    def __init__(self, section: sections.Reorg) -> None:
        super().__init__()
        self.stride = section.stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, s * s * C, h / s, w / s)."""
        s, (batch, channels, height, width) = self.stride, x.shape
        squares = x.reshape(batch, channels // s**2, height, s, width, s)
        return squares.permute(0, 3, 5, 1, 2, 4).reshape(batch, s * s * channels, height // s, width // s)


class RawHead(nn.Module):
    """A raw head (B, A, h, w, width) as a view of (B, A * width, h, w)."""

    def __init__(self, section: heads.Head) -> None:
        super().__init__()
        self.anchors, self.width = len(section.mask), section.width

    def forward(self, x: Tensor) -> Tensor:
        """(B, A * width, h, w) -> (B, A, h, w, width)."""
        # Not unflatten: after it torch.onnx takes the size of the map for a constant.
        return x.view(x.shape[0], self.anchors, self.width, x.shape[2], x.shape[3]).permute(0, 1, 3, 4, 2)


def build(section: Section, inputs: Sequence[Shape], built: Sequence[nn.Module]) -> nn.Module:
    """The module of one section.

    Args:
        section: what to build.
        inputs: shapes of its sources, in order; sizes count for [connected] alone.
        built: the modules of the sections before it, since a convolution may share another's weights.
    """
    channels = [shape.channels for shape in inputs]
    match section:
        case sections.Convolutional():
            lender = None if section.shared_with is None else built[section.shared_with]
            assert lender is None or isinstance(lender, ConvBlock)
            return ConvBlock(section, channels[0], lender)
        case sections.Connected():
            return ConnectedBlock(section, math.prod(inputs[0]))
        case sections.BatchNorm():
            return nn.BatchNorm2d(channels[0], eps=BATCH_NORM_EPS)
        case sections.Activation():
            return ACTIVATIONS[section.activation]()
        case sections.Shortcut():
            return Shortcut(section, channels)
        case sections.Route():
            return Route(section, channels)
        case sections.ScaleChannels() | sections.Sam():
            return Gate(section)
        case sections.Dropout():
            return nn.Dropout(section.probability)
        case sections.Empty():
            return nn.Identity()
        case sections.Softmax():
            return Softmax(section)
        case heads.Head():
            return RawHead(section)
    return _pooling(section)


def _pooling(section: Section) -> nn.Module:
    match section:
        case sections.Maxpool():
            return Maxpool(section)
        case sections.LocalAvgpool():
            return LocalAvgpool(section)
        case sections.Avgpool():
            return nn.AdaptiveAvgPool2d(1)
        case sections.Upsample():
            return Upsample(section)
        case sections.Reorg():
            return Reorg(section)
        case sections.Reorg3d():
            return Reorg3d(section)
    raise TypeError(f"no module for {type(section).__name__}")
