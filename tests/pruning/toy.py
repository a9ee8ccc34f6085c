"""A small residual network written by hand, and the subject that traces it: no Darknet, no fx."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from utils.pruning.channels import ChannelGraph, ChannelTracer, UnitMask
from utils.pruning.fold import Constant, constants
from utils.pruning.narrow import narrow
from utils.pruning.subject import Block
from utils.pruning.surgery import zero_removed


class ConvNorm(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, act: nn.Module, size: int = 3, groups: int = 1, pad: str = "zeros"
    ):
        super().__init__()
        padding = 0 if pad == "none" else size // 2
        mode = "zeros" if pad == "none" else pad
        self.conv = nn.Conv2d(
            inputs, outputs, size, padding=padding, groups=groups, bias=False, padding_mode=mode
        )
        self.norm = nn.BatchNorm2d(outputs)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class ToyNet(nn.Module):
    """stem -> `blocks` residual blocks -> depthwise -> head with bias, which also reads the stem."""

    def __init__(
        self, width: int = 8, blocks: int = 2, act: str = "LeakyReLU", pad: str = "zeros", size: int = 1
    ):
        super().__init__()
        new = getattr(nn, act)
        self.stem = ConvNorm(3, width, new(), pad=pad)
        self.branches = nn.ModuleList(
            nn.Sequential(
                ConvNorm(width, width // 2, new(), size, pad=pad),
                ConvNorm(width // 2, width, new(), 1, pad=pad),
            )
            for _ in range(blocks)
        )
        self.depthwise = ConvNorm(width, width, new(), groups=width, pad=pad)
        self.head = nn.Conv2d(2 * width, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        stem = x = self.stem(image)
        for branch in self.branches:
            x = x + branch(x)
        x = self.depthwise(x)
        cut = (stem.shape[2] - x.shape[2]) // 2
        return self.head(torch.cat((x, stem[:, :, cut : cut + x.shape[2], cut : cut + x.shape[3]]), 1))


@dataclass(frozen=True)
class ToySubject:
    model: nn.Module
    graph: ChannelGraph
    blocks: Sequence[Block]
    example: Tensor

    @classmethod
    def of(cls, model: ToyNet) -> "ToySubject":
        tracer = ChannelTracer()

        def conv_norm(name: str, x, groups: int = 1):
            conv = model.get_submodule(f"{name}.conv")
            return tracer.layer(f"{name}.conv", x, conv.out_channels, conv.groups, norm=f"{name}.norm")

        image = tracer.new(3)
        tracer.pin(image, "image")
        stem = x = conv_norm("stem", image)
        blocks = []
        for i in range(len(model.branches)):
            name = f"branches.{i}"
            y = conv_norm(f"{name}.1", conv_norm(f"{name}.0", x))
            tracer.tie(y, x)
            blocks.append(Block(name, (f"{name}.0.conv", f"{name}.1.conv"), name))
            x = y
        x = conv_norm("depthwise", x, groups=model.depthwise.conv.groups)
        import numpy as np

        tracer.pin(tracer.layer("head", np.concatenate((x, stem)), 5), "output")
        example = torch.zeros(1, 3, 12, 12, dtype=next(model.parameters()).dtype)
        return cls(model, tracer.finish(), tuple(blocks), example)

    def constants(self, alive: UnitMask, blocks: Sequence[Block]) -> dict[str, Constant]:
        return constants(self.model, self.graph, alive, blocks, self.example)

    def zeroed(self, keep: UnitMask, blocks: Sequence[Block]) -> "ToySubject":
        return self.with_model(zero_removed(self.model, self.graph, keep, blocks))

    def with_model(self, model: nn.Module) -> "ToySubject":
        return replace(self, model=model)

    def narrowed(self, keep: UnitMask) -> "ToySubject":
        return ToySubject.of(narrow(self.model, self.graph, keep))

    def shortened(self, blocks: Sequence[Block]) -> "ToySubject":
        from copy import deepcopy

        model = deepcopy(self.model)
        gone = {block.name for block in blocks}
        kept = [branch for i, branch in enumerate(model.branches) if f"branches.{i}" not in gone]
        model.branches = nn.ModuleList(kept)
        return ToySubject.of(model)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random batch norms (some gammas near 0), float64, evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(draw(parameter) * 0.5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(draw(module.running_mean) * 0.3)
                module.running_var.copy_(draw(module.running_var).abs() + 0.3)
    return model.double().eval()
