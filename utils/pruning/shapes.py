"""A network run without its products: every layer is asked for an answer instead of computing one.

That takes milliseconds where a forward pass takes seconds, and all that is between the layers (adds, concats,
pools, activations) executes as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ..profiling import evaluating
from .channels import ChannelGraph
from .layers import TRANSPOSED, channel_axis, filters, map_size

Answer = Callable[[str, nn.Module, Tensor], Tensor]  # layer name, the layer, its input -> its output


@contextmanager
def answering(model: nn.Module, graph: ChannelGraph, answer: Answer) -> Iterator[None]:
    """Let `answer` stand in for every layer; the network is in evaluation mode inside."""
    with evaluating(model), ExitStack() as undo, torch.no_grad():
        for name in graph.layers:
            module = model.get_submodule(name)

            def stand_in(value: Tensor, name: str = name, module: nn.Module = module) -> Tensor:
                return answer(name, module, value)

            # An attribute of the instance shadows the method of its class, or the user's own of that kind.
            undo.callback(_give_back, module, vars(module).get("forward"))
            module.forward = stand_in
        yield


def _give_back(module: nn.Module, forward: Callable[..., Tensor] | None) -> None:
    del module.forward
    if forward is not None:
        module.forward = forward


def bias_alone(module: nn.Module, value: Tensor) -> Tensor:
    """What a layer puts out for zeros, shaped as its answer to `value` (B, in, ...)."""
    bias, axis, outputs = module.bias, channel_axis(module, value), len(filters(module))
    size = value.shape[1:-1] if isinstance(module, nn.Linear) else map_size(module, value)
    shape = (len(value), *size, outputs) if axis > 1 else (len(value), outputs, *size)
    out = torch.zeros(shape, dtype=value.dtype, device=value.device)
    return out + bias.view(-1, *[1] * (out.ndim - 1 - axis)) if isinstance(bias, Tensor) else out


def layer_cells(model: nn.Module, graph: ChannelGraph, image: Tensor) -> dict[str, int]:
    """Layer name -> how often its kernel is used: cells of its output map, or of a transposed one's input.

    Args:
        model: the network that `graph` describes.
        graph: its channels.
        image: (B, C, H, W) of the size that counts.
    """
    cells: dict[str, int] = {}

    def answer(name: str, module: nn.Module, value: Tensor) -> Tensor:
        output = bias_alone(module, value)
        counted = value if isinstance(module, TRANSPOSED) else output  # where kernels are set down
        # code may fold other axes into the batch, and call a layer several times
        uses = counted.numel() // counted.shape[channel_axis(module, counted)] // len(image)
        cells[name] = cells.get(name, 0) + uses
        return output

    with answering(model, graph, answer):
        model(image)
    return cells
