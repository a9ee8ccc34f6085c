"""What kinds of layers have in common: outputs by inputs by kernel, however torch stores them.

A transposed convolution keeps its weights inputs first, which are its outputs where it is depthwise; a linear
layer has its channels along the last axis.
"""

import torch.nn.functional as F
from torch import Size, Tensor, nn

from .channel_selection import ChannelSelection

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_DIMENSIONS = (F.conv1d, F.conv2d, F.conv3d)


def is_depthwise(module: nn.Module) -> bool:
    """Whether it is a convolution with a filter of its own for each channel."""
    return isinstance(module, CONVOLUTIONS) and module.groups == module.in_channels == module.out_channels


def filters(module: nn.Module) -> Tensor:
    """(out, in / groups, ...) its weights, or a view of them: writing to it writes to them."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.transpose(0, 1) if output_axis(module) else weight


def output_axis(module: nn.Module) -> int:
    """Axis of its weight tensor along which its outputs lie."""
    return 1 if isinstance(module, TRANSPOSED) and not is_depthwise(module) else 0


def channel_axis(module: nn.Module, value: Tensor) -> int:
    """Axis along which the channels of a layer's input (B, ...) lie."""
    return value.ndim - 1 if isinstance(module, nn.Linear) else 1


def map_size(module: nn.Module, value: Tensor) -> Size:
    """What a convolution makes of the size of the map (B, in, ...): one channel through it tells."""
    if isinstance(module, ChannelSelection):
        return value.shape[2:]
    assert isinstance(module, CONVOLUTIONS)
    if isinstance(module, TRANSPOSED):
        given, kernel = value.shape[2:], module.kernel_size
        parts = zip(
            given, kernel, module.stride, module.padding, module.dilation, module.output_padding, strict=True
        )
        return Size((n - 1) * s - 2 * int(p) + d * (k - 1) + o + 1 for n, k, s, p, d, o in parts)
    convolve = _DIMENSIONS[value.ndim - 3]
    one = (value[:1, :1], module.weight[:1, :1])
    return convolve(*one, None, module.stride, module.padding, module.dilation).shape[2:]
