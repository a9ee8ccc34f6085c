"""Copies of a network that share every tensor they do not change, so that three versions fit in memory.

Invariant: the copy has modules and `nn.Parameter`s of its own, so converting or replacing a tensor in one
network (`.double()`, `.to()`) leaves the other alone; writing into a shared tensor would change both.
"""

from collections.abc import Collection
from copy import deepcopy

from torch import Tensor, nn


def shared_copy(model: nn.Module, own: Collection[Tensor] = ()) -> nn.Module:
    """A copy of `model` whose tensors lie where those of `model` lie, but for the ones in `own`.

    >>> layer = nn.Linear(2, 2)
    >>> copy = shared_copy(layer, own=[layer.bias])
    >>> copy.weight.data_ptr() == layer.weight.data_ptr(), copy.bias.data_ptr() == layer.bias.data_ptr()
    (True, False)
    """
    chosen = {id(tensor) for tensor in own}
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        data = parameter.detach().clone() if id(parameter) in chosen else parameter.detach()
        memo[id(parameter)] = nn.Parameter(data, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().clone() if id(buffer) in chosen else buffer
    return deepcopy(model, memo)
