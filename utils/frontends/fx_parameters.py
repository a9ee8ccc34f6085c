"""Parameters that the code of a network takes by itself, beside or instead of calling their module.

Invariant: a parameter is cut only if everything that reads it is cut with it.
"""

from collections.abc import Iterator

import numpy as np
from torch import Tensor, fx, nn

from utils.frontends.fx_calls import Trace
from utils.pruning.channels import ChannelIds


def attribute(owner: nn.Module, name: str) -> nn.Module | Tensor:
    """The module, parameter or buffer of this dotted name."""
    parent, _, leaf = name.rpartition(".")
    found = getattr(owner.get_submodule(parent), leaf)
    assert isinstance(found, nn.Module | Tensor)
    return found


def pin_taken(model: fx.GraphModule, trace: Trace) -> None:
    """Pin the channels of weights that are read otherwise than by their layer, and report it.

    Such as those of a layer in `functional.linear(x, self.encoder.weight.t())`.
    """
    channels = dict(_channels(model, trace))
    for node in model.graph.nodes:
        readers = [user.name for user in node.users if user.name not in trace.followed]
        if node.op != "get_attr" or not readers:
            continue
        ids = channels.get(id(attribute(model, str(node.target))))
        if ids is not None:
            text = f"{node.target} is read by {readers[0]} besides"
            trace.tracer.pin(ids, text)
            trace.not_followed.append(text)


def _channels(model: nn.Module, trace: Trace) -> Iterator[tuple[int, ChannelIds]]:
    """Identity of each tensor that is cut -> the channels that it has."""
    for name, ids in trace.layers.items():
        for tensor in _tensors(attribute(model, name)):
            yield id(tensor), np.concatenate(ids)
    for name, followed in trace.followers.items():
        for tensor in _tensors(attribute(model, name)):
            yield id(tensor), followed


def _tensors(found: nn.Module | Tensor) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    return [*found.parameters(recurse=False), *found.buffers(recurse=False)]
