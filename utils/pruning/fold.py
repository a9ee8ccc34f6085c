"""Constants of dead channels: what a removed channel puts out is moved to where it is read.

With its gamma at 0 a channel puts out the constant act(beta). `constants` runs the masked network on these
constants: every layer answers with its bias alone, so all tensors are spatially constant, and adds, concats,
pools and activations just execute. `fold` then makes up for them at each layer that reads them:
`weight.sum((2, 3)) @ constant` is subtracted from the running mean behind it or added to its bias.

Exact where no zero padding intervenes; at borders the padding has no constant, and an error remains. A cfg
can say it exactly by keeping one dead channel, a *carrier*: its own constant c is still there, borders and
all, so with the kernel `sum(kernel of d * constant of d) / c` it stands for all dead channels d together.

The run has two rows: row 1 with the constants of removed blocks, row 0 without. On a removed channel the
constant is row 1; on a live one only the difference counts, what a removed block would have added to it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .channels import ChannelGraph, Layer, UnitMask
from .layers import BATCH_NORMS, TRANSPOSED, answering, bias_alone, channel_axis, filters
from .subject import Block

# A carrier's kernel is divided by its constant: float32 has to hold it.
_LEAST_CARRIED = 1e-2


@dataclass(frozen=True)
class Constant:
    """What dead channels hand a layer.

    Attributes:
        values: (in,) float64, of dead channels and of removed blocks; 0 where there is none.
        carried: (in,) float64, what of it a dead channel would still put out itself if it were kept.
        is_uniform: whether it is the same in every cell, as it must be to be folded.
    """

    values: Tensor
    carried: Tensor
    is_uniform: bool


class Folded(NamedTuple):
    """What `fold` could not move as it is.

    Attributes:
        dropped: names of layers whose constant is lost.
        bordered: names of zero-padded layers whose constant is in a bias or mean, and so at borders too,
            where the padding had none.
    """

    dropped: tuple[str, ...]
    bordered: tuple[str, ...]


def constants(
    model: nn.Module, graph: ChannelGraph, alive: UnitMask, blocks: Sequence[Block], example: Tensor
) -> dict[str, Constant]:
    """Layer name -> the constant at its input, for layers that are handed one.

    Args:
        model: a network whose gammas are masked (`mask_gammas`).
        graph: its channels.
        alive: (units,) whose gammas are not masked.
        blocks: removed blocks; what one that does not `travel` would add is dropped.
        example: (B, ...) any input the network takes.
    """
    found: dict[str, Constant] = {}

    def answer(name: str, module: nn.Module, value: Tensor) -> Tensor:
        channels = value.movedim(channel_axis(module, value), 1)
        constant = _constant(channels, torch.from_numpy(alive[graph.layers[name].inputs]))
        before = found.setdefault(name, constant)
        if not torch.allclose(before.values, constant.values):  # called for several maps, it has one bias
            found[name] = replace(before if before.values.any() else constant, is_uniform=False)
        return bias_alone(module, value)

    with ExitStack() as undo, answering(model, graph, answer):
        for block in blocks:
            hook = _only_row_one(block.travels)
            undo.callback(model.get_submodule(block.output).register_forward_hook(hook).remove)
        model(torch.zeros_like(example[:1]).repeat(2, *[1] * (example.ndim - 1)))
    return {name: constant for name, constant in found.items() if bool(constant.values.any())}


def carriers(model: nn.Module, graph: ChannelGraph, found: Mapping[str, Constant]) -> UnitMask:
    """(units,) dead channels to keep so that zero-padded layers are folded exactly: few, one a layer."""
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
    """Move the constants to their readers, in place: biases, running means and, with carriers, weights.

    Args:
        model: a network whose gammas are masked.
        graph: its channels.
        found: its `constants`.
        carried: (units,) of `carriers`; all False to fold into biases and means alone.

    Returns:
        What of them is lost, and where.
    """
    dropped: list[str] = []
    bordered: list[str] = []
    places, carrying = _places(model, graph), _carrying(model, graph, found)
    with torch.no_grad():
        for name, constant in found.items():
            layer, place = graph.layers[name], places[name]
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
    return Folded(tuple(dropped), tuple(bordered))


def written_tensors(model: nn.Module, graph: ChannelGraph, carried: UnitMask) -> list[Tensor]:
    """The tensors that `fold` may write to."""
    places = [place.tensor for place in _places(model, graph).values() if place]
    readers = (name for name, layer in graph.layers.items() if carried[layer.inputs].any())
    return [*places, *(parameter for name in readers for parameter in model.get_submodule(name).parameters())]


def _only_row_one(travels: bool) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """A hook that leaves row 1 of a batch as it is, or nothing unless `travels`."""

    def hook(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
        kept = torch.tensor([0, float(travels)], dtype=output.dtype, device=output.device)
        return output * kept.view(-1, *[1] * (output.ndim - 1))

    return hook


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
        if isinstance(norm, BATCH_NORMS) and norm.running_mean is not None:
            places[name] = _Place(norm.running_mean, -1)
    uses = Counter(id(place.tensor) for place in places.values() if place)
    return {name: place if place and uses[id(place.tensor)] == 1 else None for name, place in places.items()}


def _constant(value: Tensor, live: Tensor) -> Constant:
    maps = value.flatten(2) if value.ndim > 2 else value[..., None]  # (rows, channels, cells)
    # Code may fold other axes into the batch: then the first half of all rows is row 0's.
    half = max(1, len(maps) // 2)
    rows = maps[[0, -1], :, 0]
    without, with_blocks = rows.cpu().double()  # some devices have no float64
    values = torch.where(live, with_blocks - without, with_blocks)
    parts = ((maps[:half], rows[:1, :, None]), (maps[half:], rows[1:, :, None]))
    uniform = all(torch.allclose(part, row.expand_as(part), rtol=1e-5, atol=1e-6) for part, row in parts)
    return Constant(values, without.masked_fill(live, 0), uniform)


def _response(weight: Tensor, layer: Layer, constant: Tensor) -> Tensor:
    """(out,) what a layer puts out for a spatially constant input, bias apart and away from padding."""
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
    """Add to the carrier's column those of all others, each times its constant over the carrier's."""
    columns = shares.nonzero().flatten()
    kernels = weight.index_select(1, columns.to(weight.device)).cpu().double()
    weight[:, carrier] += torch.einsum("oi...,i->o...", kernels, shares[columns]).to(weight)


def _carrying(model: nn.Module, graph: ChannelGraph, found: Mapping[str, Constant]) -> tuple[str, ...]:
    """Layers to which a carrier can bring all constants: zero-padded, dense, with weights of their own."""
    uses = Counter(id(model.get_submodule(name).weight) for name in graph.layers)

    def can(name: str, constant: Constant) -> bool:
        module = model.get_submodule(name)
        dense = graph.layers[name].groups == 1
        return _pads_with_zeros(module) and dense and constant.is_uniform and uses[id(module.weight)] == 1

    return tuple(name for name, constant in found.items() if can(name, constant))


def _pads_with_zeros(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) or module.padding_mode != "zeros":
        return False
    return module.padding == "same" if isinstance(module.padding, str) else any(module.padding)
