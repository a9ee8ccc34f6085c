"""Parameters that several parts of a network have or read.

Invariant: a parameter is cut only if everything that reads it is cut with it.
"""

from collections.abc import Iterator

import numpy as np
from torch import Tensor, fx, nn

from ...pruning.channels import ChannelIds
from .call import Trace


def attribute(owner: nn.Module, name: str) -> nn.Module | Tensor:
    """The module, parameter or buffer of this dotted name."""
    parent, _, leaf = name.rpartition(".")
    found = getattr(owner.get_submodule(parent), leaf)
    assert isinstance(found, nn.Module | Tensor)
    return found


def settle_shared(model: fx.GraphModule, trace: Trace) -> None:
    """Tie the channels of layers and norms that share a parameter; pin, and report, what others read.

    Such as the weights of a layer in `functional.linear(x, self.encoder.weight.t())`, or of an embedding.
    """
    channels: dict[int, ChannelIds] = {}
    for tensor, ids in _cut(model, trace):
        known = channels.setdefault(id(tensor), ids)
        if known is not ids:
            trace.tracer.tie(known, ids, "joint")
    for tensor, text in _read_besides(model, trace):
        if id(tensor) in channels:
            trace.tracer.pin(channels[id(tensor)], text)
            trace.not_followed.append(text)


def _cut(model: nn.Module, trace: Trace) -> Iterator[tuple[Tensor, ChannelIds]]:
    """Each tensor that is cut, and the channels that it has."""
    for name, (inputs, outputs) in trace.layers.items():
        for leaf, tensor in _tensors(attribute(model, name)):
            yield tensor, outputs if leaf == "bias" else np.concatenate((inputs, outputs))
    for name, followed in trace.followers.items():
        for _, tensor in _tensors(attribute(model, name)):
            yield tensor, followed


def _read_besides(model: fx.GraphModule, trace: Trace) -> Iterator[tuple[Tensor, str]]:
    """Tensors that the code takes by itself, or that modules have which are not cut; a text each."""
    for node in model.graph.nodes:
        name = str(node.target)
        if node.op == "get_attr":
            readers = [user.name for user in node.users if user.name not in trace.followed]
            for _, tensor in _tensors(attribute(model, name)) if readers else ():
                yield tensor, f"{name} is read by {readers[0]} besides"
        elif node.op == "call_module" and name not in trace.layers and name not in trace.followers:
            for leaf, tensor in model.get_submodule(name).named_parameters():
                if f"{name}.{leaf}" not in trace.followers:
                    yield tensor, f"{name}.{leaf} is shared with a layer that could be cut"


def _tensors(found: nn.Module | Tensor) -> list[tuple[str, Tensor]]:
    if isinstance(found, Tensor):
        return [("", found)]
    return [*found.named_parameters(recurse=False), *found.named_buffers(recurse=False)]
