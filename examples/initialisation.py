"""How networks with ReLUs start (He et al., "Delving Deep into Rectifiers", ICCV 2015).

torch's own start lets the signal fade in every layer: after fifty of them nothing is left of it.
"""

import math

from torch import nn


def he_normal(model: nn.Module) -> None:
    """Convolutions such that gradients keep their size on the way back; small linear layers; in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            readers = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0, math.sqrt(2 / readers))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
