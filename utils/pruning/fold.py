"""Constants of dead channels: what a removed channel puts out is moved to where it is read.

With its gamma at 0 a channel puts out the constant act(beta). `fold` runs the masked network on these
constants: every layer answers with its bias alone, so all tensors are spatially constant, and adds, concats,
pools and activations just execute. At each layer the constant of its input, `weight.sum((2, 3)) @ constant`,
is subtracted from the running mean behind it or added to its bias.

Exact where no zero padding intervenes; at borders the padding has no constant, and an error remains.

The run has two rows: row 1 with the constants of removed blocks, row 0 without. On a removed channel the
constant is row 1; on a live one only the difference counts, what a removed block would have added to it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from utils.pruning.channels import ChannelGraph, Layer, UnitMask
from utils.pruning.subject import Block


def mask_gammas(
    model: nn.Module, graph: ChannelGraph, keep: UnitMask, blocks: Sequence[Block] = ()
) -> nn.Module:
    """Set the gammas of removed channels to 0, in place; a layer without norm keeps its bias alone.

    All channels of a removed block's layers count as removed.
    """
    gone = {name for block in blocks for name in block.layers}
    with torch.no_grad():
        for name, layer in graph.layers.items():
            dead = torch.from_numpy(~keep[layer.outputs]) | (name in gone)
            gamma = model.get_submodule(layer.norm or name).weight
            assert isinstance(gamma, Tensor)
            gamma[dead.to(gamma.device)] = 0
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


def fold(
    model: nn.Module,
    graph: ChannelGraph,
    keep: UnitMask,
    blocks: Sequence[Block],
    example: Tensor,
) -> tuple[str, ...]:
    """Move the constants of removed channels and blocks to their readers, in place.

    Args:
        model: a network whose gammas are masked (`mask_gammas`).
        graph: its channels.
        keep: (units,) legal mask.
        blocks: removed blocks; one that does not `travel` is not folded.
        example: (1, C, H, W) any input the network takes.

    Returns:
        Names of layers and blocks whose constant was dropped.
    """
    unfolded: list[str] = [block.name for block in blocks if not block.travels]
    was_training = model.training
    model.eval()
    with ExitStack() as hooks, torch.no_grad():

        def hooked(handle: RemovableHandle) -> None:
            hooks.callback(handle.remove)

        places = _places(model, graph)
        for name, layer in graph.layers.items():
            module = model.get_submodule(name)
            take = _constant_taker(name, places[name], layer, keep, unfolded)
            hooked(module.register_forward_pre_hook(take))
            hooked(module.register_forward_hook(_bias_alone))
        for block in blocks:
            hooked(model.get_submodule(block.output).register_forward_hook(_only_row_one(block.travels)))
        model(torch.zeros_like(example).repeat(2, *[1] * (example.ndim - 1)))
    model.train(was_training)
    return tuple(unfolded)


@dataclass(frozen=True)
class _Place:
    """Where a layer's constant goes: added to its bias, or subtracted from the running mean behind it."""

    tensor: Tensor
    sign: int


def _places(model: nn.Module, graph: ChannelGraph) -> dict[str, _Place | None]:
    """For each layer, None where it has no such place, or shares it with a layer of other constants."""
    places: dict[str, _Place | None] = {}
    for name, layer in graph.layers.items():
        norm = model.get_submodule(layer.norm) if layer.norm is not None else None
        bias = model.get_submodule(name).bias
        places[name] = _Place(bias, 1) if isinstance(bias, Tensor) else None
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d) and norm.running_mean is not None:
            places[name] = _Place(norm.running_mean, -1)
    uses = Counter(id(place.tensor) for place in places.values() if place)
    return {name: place if place and uses[id(place.tensor)] == 1 else None for name, place in places.items()}


def _constant_taker(
    name: str, place: _Place | None, layer: Layer, keep: UnitMask, unfolded: list[str]
) -> Callable[[nn.Module, Any], None]:
    live = torch.from_numpy(keep[layer.inputs])

    def take(module: nn.Module, inputs: tuple[Tensor]) -> None:
        maps = inputs[0].flatten(2) if inputs[0].ndim > 2 else inputs[0][..., None]  # (2, channels, cells)
        rows = maps[:, :, 0]
        constant = torch.where(live.to(rows.device), rows[1] - rows[0], rows[1]).double()
        shift = _response(module, layer, constant)
        if not bool(shift.any()):
            return
        if place is None or not torch.allclose(maps, rows[..., None], rtol=1e-5, atol=1e-6):
            unfolded.append(name)
        else:
            place.tensor.add_((place.sign * shift).to(place.tensor.dtype))

    return take


def _response(module: nn.Module, layer: Layer, constant: Tensor) -> Tensor:
    """(out,) what a layer puts out for a spatially constant input, bias apart and away from padding."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    kernel = weight.double().flatten(2).sum(2) if weight.ndim > 2 else weight.double()  # (out, in / groups)
    grouped = kernel.view(layer.groups, -1, kernel.shape[1])
    return torch.einsum("goi,gi->go", grouped, constant.view(layer.groups, -1)).flatten()


def _bias_alone(module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
    bias = module.bias
    if not isinstance(bias, Tensor):
        return torch.zeros_like(output)
    return bias.view(1, -1, *[1] * (output.ndim - 2)).expand_as(output)


def _times_zero(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return output * 0


def _only_row_one(travels: bool) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    def hook(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
        kept = torch.tensor([0, float(travels)], dtype=output.dtype, device=output.device)
        return output * kept.view(-1, *[1] * (output.ndim - 1))

    return hook


def _masking(mask: Tensor) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    def hook(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (value,) = inputs
        return (value * mask.to(value).view(1, -1, *[1] * (value.ndim - 2)),)

    return hook
