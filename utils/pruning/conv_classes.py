"""The convolutions that a network runs on an image, each as its class and its widths.

Recorded while the network runs, so this works for any module, pruned or not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..profiling import evaluating
from .latency import ConvClass, LatencyTable


@dataclass(frozen=True)
class Convolution:
    """One run of a convolution.

    Attributes:
        name: name of its module.
        conv: its class: everything but the widths.
        inputs, outputs: channels.
        reads_image: whether its input is the image itself, whose channels are never removed.
    """

    name: str
    conv: ConvClass
    inputs: int
    outputs: int
    reads_image: bool = False


def conv_classes(
    model: nn.Module,
    image_size: tuple[int, int],
    activations: Mapping[str, str],
    channels: int = 3,
) -> tuple[Convolution, ...]:
    """All convolutions in the order in which they run; a module that runs twice is listed twice.

    Args:
        model: takes images (B, channels, H, W).
        image_size: (height, width) in pixels.
        activations: name of a convolution -> name of the activation after it; "none" if absent.
        channels: channels of the image.
    """
    found: list[Convolution] = []
    names = {module: name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    parameter = next(model.parameters(), torch.empty(0))
    image = torch.zeros(1, channels, *image_size, dtype=parameter.dtype, device=parameter.device)

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        name = names[module]
        conv = _conv_class(module, inputs[0], activations.get(name, "none"))
        reads_image = inputs[0].data_ptr() == image.data_ptr()
        found.append(Convolution(name, conv, module.in_channels, module.out_channels, reads_image))

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        with evaluating(model), torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(found)


def total_milliseconds(table: LatencyTable, convolutions: Iterable[Convolution]) -> float:
    """Total milliseconds of the convolutions, without the operations between them (pools, sums, routes).

    Raises:
        PruningError: the table lacks a class.
    """
    return sum(table.milliseconds(found.conv, found.inputs, found.outputs) for found in convolutions)


def _conv_class(module: nn.Conv2d, source: Tensor, activation: str) -> ConvClass:
    height, width = source.shape[2:]
    return ConvClass(
        kernel=_pair(module.kernel_size),
        stride=_pair(module.stride),
        padding=_padding(module),
        dilation=_pair(module.dilation),
        groups=_groups(module),
        activation=activation,
        height=height,
        width=width,
    )


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def _padding(module: nn.Conv2d) -> tuple[int, int]:
    if isinstance(module.padding, tuple):
        return _pair(module.padding)
    sizes = zip(module.kernel_size, module.dilation, strict=True)
    halves = tuple(dilation * (kernel - 1) // 2 for kernel, dilation in sizes)
    return _pair(halves) if module.padding == "same" else (0, 0)


def _groups(module: nn.Conv2d) -> str:
    if module.groups == 1:
        return "dense"
    if module.groups == module.in_channels:
        return f"depthwise:{module.out_channels // module.in_channels}"
    return f"grouped:{module.groups}"
