"""The nn.Modules of sections without weights that pool or rearrange cells.

Invariant: as in `modules`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import resampling


class Maxpool(nn.Module):
    """Max-pooling whose windows start at -(padding // 2), the outside counting as -inf.

    Darknet pads by `padding` in total, for even windows one more at the right and bottom. Explicit padding
    is left to the cases that need it, because exported graphs with it are slower or wrongly fused.
    """

    def __init__(self, section: resampling.Maxpool) -> None:
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


class LocalAvgpool(nn.Module):
    """Mean of the cells of each window that are inside the map; windows as in `Maxpool`."""

    def __init__(self, section: resampling.LocalAvgpool) -> None:
        super().__init__()
        self.size, self.stride, self.padding = section.size, section.stride, section.padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h', w')."""
        before, after = self.padding // 2, self.padding - self.padding // 2
        if before == after:
            return F.avg_pool2d(x, self.size, self.stride, before, count_include_pad=False)
        borders = (before, after, before, after)
        inside = F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), borders), self.size, self.stride)
        return F.avg_pool2d(F.pad(x, borders), self.size, self.stride) / inside


class Upsample(nn.Module):
    """Nearest-neighbour enlargement, or the sum of windows for a negative stride, times `scale`."""

    def __init__(self, section: resampling.Upsample) -> None:
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

    def __init__(self, section: resampling.Reorg3d) -> None:
        super().__init__()
        self.stride = section.stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, s * s * C, h / s, w / s)."""
        s, (batch, channels, height, width) = self.stride, x.shape
        squares = x.reshape(batch, channels, height // s, s, width // s, s)
        return squares.permute(0, 3, 5, 1, 2, 4).reshape(batch, s * s * channels, height // s, width // s)


class Reorg(nn.Module):
    """The same on the buffer read as C / s^2 channels of s * h rows, s * w columns (reorg_old_layer.c)."""

    def __init__(self, section: resampling.Reorg) -> None:
        super().__init__()
        self.stride = section.stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, s * s * C, h / s, w / s)."""
        s, (batch, channels, height, width) = self.stride, x.shape
        squares = x.reshape(batch, channels // s**2, height, s, width, s)
        return squares.permute(0, 3, 5, 1, 2, 4).reshape(batch, s * s * channels, height // s, width // s)
