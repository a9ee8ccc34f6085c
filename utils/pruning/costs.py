"""Costs of a network: parameters and multiply-adds, counted in it or by mask, without narrowing it.

Invariant: `parameters`, `macs` and `file_size` of a legal mask are those of the network narrowed by it; see
`count_macs` for the three ways to count.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..profiling import PLAIN_CONVOLUTIONS, TRANSPOSED, evaluating
from .channels import ChannelGraph, Layer, UnitMask
from .layers import bias_of, filters, layer_cells

Cost = Callable[[UnitMask], float]
# (layer name, kept inputs, kept outputs) -> cost of the layer at these widths
LayerCost = Callable[[str, int, int], float]
_BYTES = 4  # of a float32


def count_parameters(model: nn.Module) -> int:
    """Number of values in all parameters, frozen ones too; no buffers; a shared parameter counts once.

    >>> count_parameters(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)))
    232
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> int:
    """Multiply-adds of the convolutions and linear layers on one image; all else is left out.

    Counted from the shapes while the network runs, so it holds for any module, and the two quicker ways are
    tested against it: `costs_of` counts by mask, without building the narrowed network, and
    `darknet.network.section_costs` from the text of a cfg alone. Each gives the same number.

    Args:
        model: takes images (B, channels, H, W).
        image_size: (height, width) in pixels.
        channels: of the image.

    >>> count_macs(nn.Conv2d(3, 8, 3, padding=1, bias=False), (4, 6))
    5184
    """
    total = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += _macs(module, inputs[0], output)

    parameter = next(model.parameters(), torch.empty(0))
    image = torch.zeros(1, channels, *image_size, dtype=parameter.dtype, device=parameter.device)
    counted = (*PLAIN_CONVOLUTIONS, *TRANSPOSED, nn.Linear)
    hooks = [module.register_forward_hook(add) for module in model.modules() if isinstance(module, counted)]
    try:
        with evaluating(model), torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return total


@dataclass(frozen=True)
class Work:
    """The work of a layer per input and output channel.

    Attributes:
        kernel: weights of one output channel for one input channel.
        cells: how often the kernel is applied.
        bias: whether it has one.
        shared: whether its weights are counted at another layer, which has the same.
    """

    kernel: int
    cells: int
    bias: bool
    shared: bool = False


@dataclass(frozen=True)
class Costs:
    """The costs of a network by mask; see `costs_of`.

    Attributes:
        graph: its channels.
        work: layer name -> its work.
        followers: name of a follower -> parameters and statistics of one channel.
        other: parameters that belong to no channel.
    """

    graph: ChannelGraph
    work: Mapping[str, Work]
    followers: Mapping[str, tuple[float, float]]
    other: int

    def parameters(self, keep: UnitMask) -> float:
        """Number of parameters, frozen ones included."""
        weights = sum(self._weights(name, layer, keep) for name, layer in self.graph.layers.items())
        return self.other + weights + self._followers(keep, 0)

    def macs(self, keep: UnitMask) -> float:
        """Multiply-adds of one image."""
        layers = self.graph.layers.items()
        return sum(self.layer_macs(name, *_widths(layer, keep)) for name, layer in layers)

    def file_size(self, keep: UnitMask) -> float:
        """Bytes of all values as float32, statistics included."""
        return _BYTES * (self.parameters(keep) + self._followers(keep, 1))

    def layer_macs(self, name: str, inputs: int, outputs: int) -> float:
        """Multiply-adds of one layer at these widths."""
        layer, work = self.graph.layers[name], self.work[name]
        reads = 1 if layer.depthwise else inputs / layer.groups
        return outputs * reads * work.kernel * work.cells

    def layer_parameters(self, name: str, inputs: int, outputs: int) -> float:
        """Weights and bias of one layer at these widths."""
        layer, work = self.graph.layers[name], self.work[name]
        reads = 1 if layer.depthwise else inputs / layer.groups
        return 0 if work.shared else outputs * (reads * work.kernel + work.bias)

    def _weights(self, name: str, layer: Layer, keep: UnitMask) -> float:
        inputs, outputs = _widths(layer, keep)
        return self.layer_parameters(name, inputs, outputs)

    def _followers(self, keep: UnitMask, column: int) -> float:
        followers = self.graph.followers
        return sum(
            values[column] * int(keep[followers[name].channels].sum())
            for name, values in self.followers.items()
        )


def costs_of(
    model: nn.Module, graph: ChannelGraph, image: Tensor, cells: Mapping[str, int] | None = None
) -> Costs:
    """The costs of `model`, which `graph` describes, for images of the size of `image` (B, C, H, W).

    `cells`, how often each layer's kernel is applied, is found by a run if it is not given.
    """
    cells = layer_cells(model, graph, image) if cells is None else cells
    modules = dict(model.named_modules(remove_duplicate=False))
    counted: set[int] = set()  # identities of parameters: layers may share them

    def new(parameters: Iterable[Tensor]) -> int:
        fresh = [parameter for parameter in parameters if id(parameter) not in counted]
        counted.update(map(id, fresh))
        return sum(parameter.numel() for parameter in fresh)

    work, followers = {}, {}
    for name in graph.layers:
        weight, bias = filters(modules[name]), bias_of(modules[name])
        shared = not new(modules[name].parameters(recurse=False))
        work[name] = Work(weight[0, 0].numel(), cells[name], bias is not None, shared)
    for name, follower in graph.followers.items():
        module, width = modules.get(name), len(follower.channels)
        learned = new(module.parameters()) if module else new([model.get_parameter(name)])
        statistics = sum(b.numel() for b in module.buffers() if b.ndim) if module and learned else 0
        followers[name] = (learned / width, statistics / width)
    return Costs(graph, work, followers, new(model.parameters()))


def _macs(module: nn.Module, source: Tensor, output: Tensor) -> int:
    if isinstance(module, PLAIN_CONVOLUTIONS):
        return output.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, TRANSPOSED):  # each input value is spread by one kernel
        return source.numel() * module.out_channels // module.groups * math.prod(module.kernel_size)
    return output.numel() * module.in_features if isinstance(module, nn.Linear) else 0


def _widths(layer: Layer, keep: UnitMask) -> tuple[int, int]:
    return int(np.count_nonzero(keep[layer.inputs])), int(np.count_nonzero(keep[layer.outputs]))
