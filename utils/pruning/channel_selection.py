"""Some channels of a map, by number: how a block takes less of a residual sum than the sum holds.

Pre-activation networks are pruned so in Network Slimming (Liu et al., ICCV 2017): the norm that opens a block
judges what the block reads, and the sum itself stays whole. The authors select behind that norm; a norm works
channel by channel, so selecting before it computes the same and lets the norm become narrow too.

>>> select = ChannelSelection(4)
>>> select.index = select.index[[0, 3]]
>>> select(torch.tensor([[10.0, 11.0, 12.0, 13.0]]))
tensor([[10., 13.]])
"""

import torch
from torch import Tensor, nn


class ChannelSelection(nn.Module):
    """(B, channels, ...) -> (B, selected, ...): at first all of them, after pruning those that are left.

    For the engine it is a layer without weights: the channels that it puts out are its own, and what it
    selects from stays as it is. Scores of norms, such as "gamma", judge it; by others, such as "l1", it
    stays whole.

    Args:
        channels: that it selects from.

    Attributes:
        index: (selected,) which ones, ascending.
    """

    index: Tensor
    bias = None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("index", torch.arange(channels))

    @property
    def weight(self) -> Tensor:
        """(selected, channels, 0): it has none."""
        return torch.zeros(len(self.index), self.channels, 0, device=self.index.device)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, ...) -> (B, selected, ...)."""
        return x.index_select(1, self.index)
