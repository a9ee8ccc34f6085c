"""The network as it is deployed: batch norms merged into the convolutions before them.

Invariant: `fused(model)(x) == model(x)` up to rounding, in evaluation mode.
"""

from copy import deepcopy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from utils.darknet.model import Darknet
from utils.darknet.modules import ConvBlock


def fused(model: Darknet) -> nn.Module:
    """A copy of `model`, channels last, in evaluation mode and without batch norms: it cannot be saved."""
    copy = deepcopy(model).eval()
    for layer in copy.layers:
        if isinstance(layer, ConvBlock) and layer.norm is not None:
            layer.conv = fuse_conv_bn_eval(layer.conv, layer.norm)
            layer.norm = None
    return copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its stub
