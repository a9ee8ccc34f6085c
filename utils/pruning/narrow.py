"""A network without the removed channels, cut as its graph says."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .channels import ChannelGraph, Layer, UnitMask
from .layers import filters, output_axis, set_widths, shared_copy
from .selection import ChannelSelection


def narrow(model: nn.Module, graph: ChannelGraph, keep: UnitMask) -> nn.Module:
    """A copy of `model` without the removed channels.

    Args:
        model: the network that `graph` describes; unchanged.
        graph: its channels.
        keep: (units,) a legal mask.
    """
    model = shared_copy(model)
    before = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    shared = _shared(model)
    for name, layer in graph.layers.items():
        _cut_layer(model.get_submodule(name), layer, keep)
    norms: set[nn.Module] = set()  # layers that share their weights share their norm too
    for name, follower in graph.followers.items():
        found = _named(model, name)
        if found not in norms:
            _cut_follower(model, name, keep[follower.channels], follower.axis)
        if isinstance(found, nn.Module):
            norms.add(found)
    for places in shared:
        _share_again(places)
    for module in model.modules():
        set_widths(module)
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) in before:  # not narrowed: the copy gets its own all the same
            tensor.data = tensor.data.clone()
    return model


def _shared(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """For each shared parameter its places: a module and the name in it."""
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(parameter, []).append((module, name))
    return [found for found in places.values() if len(found) > 1]


def _share_again(places: list[tuple[nn.Module, str]]) -> None:
    """Put the narrowed parameter in all of its places."""
    found = [getattr(module, name) for module, name in places]
    smallest = min(found, key=torch.numel)
    for module, name in places:
        setattr(module, name, smallest)


def _cut_layer(module: nn.Module, layer: Layer, keep: UnitMask) -> None:
    inputs, outputs = keep[layer.inputs], keep[layer.outputs]
    weight, rows = module.weight, np.flatnonzero(outputs)
    if isinstance(module, ChannelSelection):
        module.index = module.index[torch.from_numpy(rows).to(module.index.device)]
        return
    assert isinstance(weight, Tensor)
    cut = narrow_weight(filters(module).detach(), inputs, rows, layer)
    module.weight = _parameter(weight, cut.movedim(0, output_axis(module)).contiguous())
    if isinstance(module.bias, Tensor):
        module.bias = _parameter(module.bias, module.bias.detach()[torch.from_numpy(rows)])


def narrow_weight(weight: Tensor, inputs: NDArray[np.bool_], rows: NDArray[np.intp], layer: Layer) -> Tensor:
    """Rows `rows` of `weight` (out, in / groups, ...) with the kept columns of each row's group."""
    if layer.depthwise:
        return weight[torch.from_numpy(rows)]
    if layer.groups == 1:
        columns = torch.from_numpy(np.flatnonzero(inputs)).to(weight.device)
        return weight.index_select(0, torch.from_numpy(rows).to(weight.device)).index_select(1, columns)
    per_group = len(inputs) // layer.groups
    kept = np.stack([np.flatnonzero(part) for part in inputs.reshape(layer.groups, per_group)])
    own = kept[rows // (len(layer.outputs) // layer.groups)]  # (kept rows, kept columns)
    return weight[torch.from_numpy(rows)[:, None], torch.from_numpy(own)]


def _cut_follower(model: nn.Module, name: str, mask: NDArray[np.bool_], axis: int) -> None:
    rows = torch.from_numpy(np.flatnonzero(mask))

    def cut(tensor: Tensor) -> Tensor:
        return tensor.detach().index_select(axis, rows.to(tensor.device))

    found = _named(model, name)
    if isinstance(found, nn.Parameter):
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, _parameter(found, cut(found)))
        return
    for key, parameter in list(found.named_parameters(recurse=False)):
        setattr(found, key, _parameter(parameter, cut(parameter)))
    for key, buffer in list(found.named_buffers(recurse=False)):
        if buffer.ndim:
            setattr(found, key, cut(buffer))


def _named(model: nn.Module, name: str) -> nn.Module | nn.Parameter:
    parent, _, leaf = name.rpartition(".")
    found = getattr(model.get_submodule(parent), leaf)
    assert isinstance(found, nn.Module | nn.Parameter)
    return found


def _parameter(old: Tensor, new: Tensor) -> nn.Parameter:
    return nn.Parameter(new, requires_grad=old.requires_grad)
