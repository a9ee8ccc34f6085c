"""Copies of networks that share their weights."""

from collections import OrderedDict
from collections.abc import Collection, Iterator
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from ..errors import PruningError

_ATOMS = (int, float, bool, str, type(None), type)
_COPIES_ITSELF = (
    "__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs_ex__", "__getnewargs__",
)  # fmt: skip


def shared_copy(model: nn.Module, own: Collection[Tensor] = ()) -> nn.Module:
    """A copy of `model` that shares all tensors with it but those in `own`; three versions fit in memory.

    The copy has modules, `nn.Parameter`s and buffers of its own, so converting or replacing a tensor in one
    network (`.double()`, `.to()`) leaves the other unchanged; writing into a shared tensor changes both.

    Raises:
        PruningError: an attribute cannot be copied.

    >>> layer = nn.Linear(2, 2)
    >>> copy = shared_copy(layer, own=[layer.bias])
    >>> copy.weight.data_ptr() == layer.weight.data_ptr(), copy.bias.data_ptr() == layer.bias.data_ptr()
    (True, False)
    """
    chosen = {id(tensor) for tensor in own}
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        data = parameter.detach().clone() if id(parameter) in chosen else parameter.detach()
        memo[id(parameter)] = nn.Parameter(data, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().clone() if id(buffer) in chosen else buffer.detach()
    kinds = {kind for kind in set(map(type, model.modules())) if _is_plain(kind)}
    plain = [(name, module) for name, module in model.named_modules() if type(module) in kinds]
    for _, module in plain:
        memo[id(module)] = object.__new__(type(module))
    for name, module in plain:
        for own_name, value in _attributes(module):
            try:
                copy = _copied(value, memo)
                if own_name in vars(module):
                    vars(memo[id(module)])[own_name] = copy
                else:
                    setattr(memo[id(module)], own_name, copy)
            except Exception as error:
                raise _uncopied(f"{name}.{own_name}".lstrip("."), error) from error
    try:
        copied = deepcopy(model, memo)
    except Exception as error:
        raise _uncopied(type(model).__name__, error) from error
    if copied is model:
        raise PruningError(type(model).__name__, "its __deepcopy__ returns itself", "let it return a copy")
    return copied


def _uncopied(place: str, error: Exception) -> PruningError:
    fact = f"cannot be copied ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    return PruningError(place, fact, "keep it out of the network, or give its class a __deepcopy__")


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether nothing in the class says how it is copied, so that a copy is a copy of its attributes."""
    is_torchs = kind.__setstate__.__module__.startswith("torch.nn.modules.")  # to read old files
    own = [getattr(kind, name, None) is not getattr(nn.Module, name, None) for name in _COPIES_ITSELF]
    return is_torchs and kind.__new__ is object.__new__ and not any(own)


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from vars(module).items()
    for kind in type(module).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(module, name):
                yield name, getattr(module, name)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy; the short way for what a module mostly holds, where `deepcopy` takes ten times as long."""
    kind = type(value)
    if kind in _ATOMS or (kind is tuple and all(type(each) in _ATOMS for each in value)):
        return value
    if kind in (dict, OrderedDict) and id(value) not in memo:
        memo[id(value)] = copy = kind()
        copy.update({name: _copied(each, memo) for name, each in value.items()})
        return copy
    if isinstance(value, Tensor) and not value.is_leaf and id(value) not in memo:
        memo[id(value)] = value.detach()  # computed, as by a hook before each run
    return deepcopy(value, memo)
