"""Full-size networks in which something is as good as gone: gammas set to 0, or hooks that multiply by 0."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .channels import ChannelGraph, UnitMask
from .layers import channel_axis, output_axis
from .subject import Block


def masked_tensors(
    model: nn.Module, graph: ChannelGraph, keep: UnitMask, blocks: Sequence[Block] = ()
) -> list[tuple[Tensor, Tensor, int]]:
    """What `mask_gammas` writes to: gammas, or weights of a layer without norm; (out,) where; the axis."""
    gone = {name for block in blocks for name in block.layers}
    found = []
    for name, layer in graph.layers.items():
        dead = torch.from_numpy(~keep[layer.outputs]) | (name in gone)
        module = model.get_submodule(layer.norm or name)
        if not isinstance(module.weight, Tensor):  # a norm without gammas
            module = model.get_submodule(name)
        assert isinstance(module.weight, Tensor)
        if bool(dead.any()):
            found.append((module.weight, dead, output_axis(module)))
    return found


def mask_gammas(
    model: nn.Module, graph: ChannelGraph, keep: UnitMask, blocks: Sequence[Block] = ()
) -> nn.Module:
    """Set the gammas of removed channels to 0, in place; a layer without norm keeps its bias alone.

    All channels of a removed block's layers count as removed.
    """
    with torch.no_grad():
        for gamma, dead, axis in masked_tensors(model, graph, keep, blocks):
            gamma.index_fill_(axis, dead.nonzero().flatten().to(gamma.device), 0)
    return model


def zero_removed(
    model: nn.Module, graph: ChannelGraph, keep: UnitMask, blocks: Sequence[Block] = ()
) -> nn.Module:
    """Let every layer read 0 where a channel is removed, and every shortcut 0 where a block is; by hooks.

    Between two layers a channel meets only itself, so masking what layers read is the same as multiplying
    the activations by 0, and right even behind activations with act(0) != 0.
    """
    for name, layer in graph.layers.items():
        mask = torch.from_numpy(keep[layer.inputs])
        if not mask.all():
            model.get_submodule(name).register_forward_pre_hook(_masking(mask))
    for block in blocks:
        model.get_submodule(block.output).register_forward_hook(_times_zero)
    return model


def only_row_one(travels: bool) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """A hook that leaves row 1 of a batch as it is, or nothing unless `travels`."""

    def hook(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
        kept = torch.tensor([0, float(travels)], dtype=output.dtype, device=output.device)
        return output * kept.view(-1, *[1] * (output.ndim - 1))

    return hook


def _times_zero(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return output * 0


def _masking(mask: Tensor) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    def hook(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (value,) = inputs
        behind = value.ndim - 1 - channel_axis(module, value)
        return (value * mask.to(value).view(-1, *[1] * behind),)

    return hook
