"""The network as it is deployed: batch norms fused into the convolutions before them.

Invariant: `fused(model)(x) == model(x)` up to rounding, in evaluation mode.
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .model import Darknet
from .modules import ConvBlock

_IN_PLACE = (nn.LeakyReLU, nn.ReLU, nn.SiLU, nn.Mish)


def fused(model: Darknet) -> Darknet:
    """A copy of `model` with fused batch norms, channels last, in evaluation mode: it cannot be saved."""
    copy = deepcopy(model).eval()
    for layer in copy.layers:
        if isinstance(layer, ConvBlock) and layer.norm is not None:
            layer.conv = fuse_conv_bn_eval(layer.conv, layer.norm)
            layer.norm = None
        if isinstance(layer, ConvBlock) and isinstance(layer.activation, _IN_PLACE):
            layer.activation.inplace = True  # nothing else reads the convolution's own output
    return copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its stub


def deployed_run(model: Darknet, image_size: tuple[int, int]) -> Callable[[], object]:
    """One inference of `fused(model)` on a random image of (height, width), to be timed."""
    return inference(fused(model), image_size)


def inference(deployed: Darknet, image_size: tuple[int, int]) -> Callable[[], object]:
    """One inference of a fused network on a random image of (height, width), to be timed."""
    device = next(deployed.parameters()).device
    image = torch.rand(1, deployed.network.channels(-1), *image_size, device=device)
    image = image.to(memory_format=torch.channels_last)

    def run() -> object:
        with torch.inference_mode():
            return deployed(image)

    return run
