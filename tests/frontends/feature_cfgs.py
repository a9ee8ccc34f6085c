"""The cfgs in tests/cfgs, one feature each, as networks with random numbers."""

from pathlib import Path

import torch

from utils.darknet.model import Darknet

CFGS = sorted((Path(__file__).parents[1] / "cfgs").glob("*.cfg"))


def randomised(path: Path, seed: int) -> Darknet:
    """A float64 network with random batch norms, so that thresholds cut through every layer."""
    torch.manual_seed(seed)
    model = Darknet.from_cfg(path)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.01
    return model.double().eval()


def image(model: Darknet, batch: int = 2) -> torch.Tensor:
    size = (model.network.channels(-1), model.network.height, model.network.width)
    return torch.rand(batch, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def heads(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([head.flatten() for head in model(images)])
