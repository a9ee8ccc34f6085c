"""Folding: constants of dead channels are moved into the layers that read them.

With its gamma at 0 a channel outputs the constant act(beta). `constants` runs the masked network on these
constants: every layer returns its bias alone, so all tensors are spatially constant, and adds,
concatenations, pools and activations run as they are. `fold` then compensates in each layer that reads them:
`weight.sum((2, 3)) @ constant` is subtracted from the running mean after it or added to its bias.

This is exact without zero padding; at borders the padding lacks the constant, and an error remains. Keeping
one dead channel, a *carrier*, makes it exact: its own constant c is still there, at borders too, so with the
kernel `sum(kernel of d * constant of d) / c` it represents all dead channels d together.

The batch has two rows: row 1 with the constants of removed blocks, row 0 without. The constant of a removed
channel is row 1; that of a live channel is the difference, the contribution of removed blocks.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..profiling import TRANSPOSED
from .channels import ChannelGraph, Layer, UnitMask
from .layers import BATCH_NORMS, answering, bias_alone, bias_of, channel_axis, filters, weight_of
from .subject import Block

# A carrier's kernel is divided by its constant, and float32 has to hold the quotient.
_LEAST_CARRIED = 1e-2


@dataclass(frozen=True)
class Constant:
    """The constant input of a layer.

    Attributes:
        values: (in,) float64, constants of dead channels and removed blocks; 0 elsewhere.
        carried: (in,) float64, the part that a dead channel would still output itself if it were kept.
        is_uniform: whether it is the same in every cell, as folding needs it.
        is_whole: whether `values` has all of it; a part that depends on the image is left out.
    """

    values: Tensor
    carried: Tensor
    is_uniform: bool
    is_whole: bool = True


class Folded(NamedTuple):
    """Constants that `fold` could not move exactly.

    Attributes:
        dropped: names of layers whose constant is lost.
        bordered: names of zero-padded layers whose constant is now in a bias or mean, and so at borders too,
            where the padding had none.
    """

    dropped: tuple[str, ...]
    bordered: tuple[str, ...]


def constants(
    model: nn.Module, graph: ChannelGraph, alive: UnitMask, blocks: Sequence[Block], example: Tensor
) -> dict[str, Constant]:
    """Layer name -> the constant at its input, for layers that have one.

    Args:
        model: a network whose gammas are masked (`mask_gammas`).
        graph: its channels.
        alive: (units,) those whose gammas are not masked.
        blocks: removed blocks; the constant of one that does not `travel` is dropped.
        example: (B, ...) any input of the network.
    """
    found: dict[str, Constant] = {}

    def answer(name: str, module: nn.Module, value: Tensor) -> Tensor:
        channels = value.movedim(channel_axis(module, value), 1)
        constant = _constant(channels, torch.from_numpy(alive[graph.layers[name].inputs]))
        before = found.setdefault(name, constant)
        if not torch.allclose(before.values, constant.values):  # called on several tensors, it has one bias
            found[name] = replace(before if before.values.any() else constant, is_uniform=False)
        return bias_alone(module, value)

    with ExitStack() as undo, answering(model, graph, answer):
        for block in blocks:
            hook = _only_row_one(block.travels)
            undo.callback(model.get_submodule(block.output).register_forward_hook(hook).remove)
        model(torch.zeros_like(example[:1]).repeat(2, *[1] * (example.ndim - 1)))
    return {name: constant for name, constant in found.items() if bool(constant.values.any())}


def carriers(model: nn.Module, graph: ChannelGraph, found: Mapping[str, Constant]) -> UnitMask:
    """(units,) dead channels to keep so that zero-padded layers are folded exactly; few, one per layer."""
    chosen = np.zeros(graph.unit_count, dtype=np.bool_)
    for name in _carrying(model, graph, found):
        inputs, strength = graph.layers[name].inputs, found[name].carried.abs().numpy()
        if not (strength[chosen[inputs]] >= _LEAST_CARRIED).any():
            best = int(strength.argmax())
            chosen[inputs[best]] |= strength[best] >= _LEAST_CARRIED
    return chosen


def fold(
    model: nn.Module,
    graph: ChannelGraph,
    found: Mapping[str, Constant],
    carried: UnitMask,
) -> Folded:
    """Move the constants into their readers, in place: biases, running means and, with carriers, weights.

    Args:
        model: a network whose gammas are masked.
        graph: its channels.
        found: its `constants`.
        carried: (units,) result of `carriers`; all False to fold into biases and means only.
    """
    dropped: list[str] = []
    bordered: list[str] = []
    places, carrying = _places(model, graph), _carrying(model, graph, found)
    with torch.no_grad():
        for name, constant in found.items():
            layer, place = graph.layers[name], places[name]
            dropped += [] if constant.is_whole else [name]
            module = model.get_submodule(name)
            weight = filters(module)
            own = constant.carried * torch.from_numpy(carried[layer.inputs])  # stays where it is
            moved, carrier = constant.values - own, int(own.abs().argmax())
            shift = _response(weight, layer, moved)
            if not bool(shift.any()):
                continue
            if name in carrying and own[carrier].abs() >= _LEAST_CARRIED:
                _load(weight, moved / own[carrier], carrier)
            elif place is None or not constant.is_uniform or isinstance(module, TRANSPOSED):
                dropped.append(name)
            else:
                place.tensor.add_((place.sign * shift).to(place.tensor))
                bordered += [name] if _pads_with_zeros(module) else []
    return Folded(tuple(dict.fromkeys(dropped)), tuple(bordered))


def written_tensors(model: nn.Module, graph: ChannelGraph, carried: UnitMask) -> list[Tensor]:
    """The tensors that `fold` may write to."""
    places = [place.tensor for place in _places(model, graph).values() if place]
    readers = (name for name, layer in graph.layers.items() if carried[layer.inputs].any())
    return [*places, *(parameter for name in readers for parameter in model.get_submodule(name).parameters())]


def _only_row_one(travels: bool) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """A forward hook that zeroes row 0 of a batch of two, and row 1 too unless `travels`."""

    def hook(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
        kept = torch.tensor([0, float(travels)], dtype=output.dtype, device=output.device)
        return output * kept.view(-1, *[1] * (output.ndim - 1))

    return hook


@dataclass(frozen=True)
class _Place:
    """Tensor to fold into: a layer's bias (sign 1), or the running mean after it (sign -1)."""

    tensor: Tensor
    sign: int


def _places(model: nn.Module, graph: ChannelGraph) -> dict[str, _Place | None]:
    """Layer name -> its place; None if it has none or shares it with another layer."""
    places: dict[str, _Place | None] = {}
    for name, layer in graph.layers.items():
        norm = model.get_submodule(layer.norm) if layer.norm is not None else None
        bias = bias_of(model.get_submodule(name))
        places[name] = _Place(bias, 1) if isinstance(bias, Tensor) else None
        if isinstance(norm, BATCH_NORMS) and norm.running_mean is not None:
            places[name] = _Place(norm.running_mean, -1)
    uses = Counter(id(place.tensor) for place in places.values() if place)
    return {name: place if place and uses[id(place.tensor)] == 1 else None for name, place in places.items()}


def _constant(value: Tensor, live: Tensor) -> Constant:
    maps = value.flatten(2) if value.ndim > 2 else value[..., None]  # (rows, channels, cells)
    # The code may fold other axes into the batch: then the first half of all rows belongs to row 0.
    half = max(1, len(maps) // 2)
    rows = maps[[0, -1], :, 0]
    without, with_blocks = rows.cpu().double()  # some devices have no float64
    values = torch.where(live, with_blocks - without, with_blocks)
    parts = ((maps[:half], rows[:1, :, None]), (maps[half:], rows[1:, :, None]))
    uniform = all(torch.allclose(part, row.expand_as(part), rtol=1e-5, atol=1e-6) for part, row in parts)
    return Constant(values, without.masked_fill(live, 0), uniform)


def _response(weight: Tensor, layer: Layer, constant: Tensor) -> Tensor:
    """(out,) output of a layer for a spatially constant input, without bias and away from padding."""
    if layer.groups == 1:
        columns = constant.nonzero().flatten()
        kernels = weight.index_select(1, columns.to(weight.device)).cpu().double()
        return (
            kernels.flatten(2).sum(2) @ constant[columns] if weight.ndim > 2 else kernels @ constant[columns]
        )
    kernel = weight.cpu().double().flatten(2).sum(2)  # (out, in / groups)
    grouped = kernel.view(layer.groups, -1, kernel.shape[1])
    return torch.einsum("goi,gi->go", grouped, constant.view(layer.groups, -1)).flatten()


def _load(weight: Tensor, shares: Tensor, carrier: int) -> None:
    """Add to the carrier's column those of the others, each times its constant over the carrier's."""
    columns = shares.nonzero().flatten()
    kernels = weight.index_select(1, columns.to(weight.device)).cpu().double()
    weight[:, carrier] += torch.einsum("oi...,i->o...", kernels, shares[columns]).to(weight)


def _carrying(model: nn.Module, graph: ChannelGraph, found: Mapping[str, Constant]) -> tuple[str, ...]:
    """Layers in which a carrier can represent all constants: zero-padded, dense, with unshared weights."""
    uses = Counter(id(weight_of(model.get_submodule(name))) for name in graph.layers)

    def can(name: str, constant: Constant) -> bool:
        module = model.get_submodule(name)
        dense = graph.layers[name].groups == 1
        return _pads_with_zeros(module) and dense and constant.is_uniform and uses[id(weight_of(module))] == 1

    return tuple(name for name, constant in found.items() if can(name, constant))


def _pads_with_zeros(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) or module.padding_mode != "zeros":
        return False
    return module.padding == "same" if isinstance(module.padding, str) else any(module.padding)
