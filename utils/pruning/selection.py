"""A layer that selects channels, which networks have in place before they are pruned."""

import torch
from torch import Tensor, nn


class ChannelSelection(nn.Module):
    """(B, channels, ...) -> (B, selected, ...): all channels at first, the kept ones after pruning.

    Pre-activation networks are pruned with it in Network Slimming (Liu et al., ICCV 2017): the norm that
    opens a block is scored by what the block reads, and the residual sum stays whole. The authors select
    after that norm; a norm works channel by channel, so selecting before it computes the same and lets the
    norm become narrow too.

    To the engine it is a layer without weights: its output channels are its own, and the tensor that it
    selects from is not narrowed. Scores of norms, such as "gamma", apply to it; under others, such as "l1",
    it stays whole.

    >>> select = ChannelSelection(4)
    >>> select.index = select.index[[0, 3]]
    >>> select(torch.tensor([[10.0, 11.0, 12.0, 13.0]]))
    tensor([[10., 13.]])

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
