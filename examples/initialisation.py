"""Initialization of networks with ReLUs (He et al., "Delving Deep into Rectifiers", ICCV 2015).

With the default initialization of torch the signal fades in every layer and vanishes after about fifty.
"""

import math

from torch import nn


def he_normal(model: nn.Module) -> None:
    """Initialize in place: gradients keep their scale in convolutions, linear layers get small weights."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            readers = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0, math.sqrt(2 / readers))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
