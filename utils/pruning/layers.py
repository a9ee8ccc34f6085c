"""Layers of every kind in one form, copied, and replaced by stand-ins.

Weights are seen as (outputs, inputs, kernel), however torch stores them: an embedding and a transposed
convolution store their inputs first, which are its outputs where the latter is depthwise; a linear layer has
its channels on the last axis.

With stand-ins (`answering`) each layer returns a given answer instead of computing one. That takes
milliseconds where a forward pass takes seconds; everything between the layers (adds, concatenations, pools,
activations) runs as it is.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import PruningError
from ..profiling import PLAIN_CONVOLUTIONS, TRANSPOSED, evaluating
from .channels import ChannelGraph
from .selection import ChannelSelection

_ATOMS = (int, float, bool, str, type(None), type)
_COPIES_ITSELF = (
    "__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs_ex__", "__getnewargs__",
)  # fmt: skip
Answer = Callable[[str, nn.Module, Tensor], Tensor]  # layer name, the layer, its input -> its output
CONVOLUTIONS = (*PLAIN_CONVOLUTIONS, *TRANSPOSED)
LAYERS = (
    nn.Linear,
    nn.MultiheadAttention,
    nn.Embedding,
    *CONVOLUTIONS,
)  # what has channels of its own to remove
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_DIMENSIONS = (F.conv1d, F.conv2d, F.conv3d)


def is_depthwise(module: nn.Module) -> bool:
    """Whether it is a convolution with one filter per channel."""
    return isinstance(module, CONVOLUTIONS) and module.groups == module.in_channels == module.out_channels


def filters(module: nn.Module) -> Tensor:
    """(out, in / groups, ...) the weights, or a view of them: writing to it changes them."""
    weight = weight_of(module)
    assert isinstance(weight, Tensor)
    return weight.transpose(0, 1) if output_axis(module) else weight


def weight_of(module: nn.Module) -> Tensor | nn.Module | None:
    """The weights of a layer or norm; of attention those that give q, k and v."""
    return module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight


def bias_of(module: nn.Module) -> Tensor | nn.Module | None:
    """The bias of a layer, see `weight_of`."""
    if isinstance(module, nn.MultiheadAttention):
        return module.in_proj_bias
    return None if isinstance(module, nn.Embedding) else module.bias


def output_axis(module: nn.Module) -> int:
    """The output axis of the weight tensor."""
    has_inputs_first = isinstance(module, TRANSPOSED) and not is_depthwise(module)
    return 1 if has_inputs_first or isinstance(module, nn.Embedding) else 0


def channel_axis(module: nn.Module, value: Tensor) -> int:
    """The channel axis of a layer's input (B, ...)."""
    return value.ndim - 1 if isinstance(module, nn.Linear) else 1


def map_size(module: nn.Module, value: Tensor) -> Size:
    """Output size of a convolution for the map (B, in, ...), from one channel."""
    if isinstance(module, ChannelSelection):
        return value.shape[2:]
    assert isinstance(module, CONVOLUTIONS)
    if isinstance(module, TRANSPOSED):
        given, kernel = value.shape[2:], module.kernel_size
        parts = zip(
            given, kernel, module.stride, module.padding, module.dilation, module.output_padding, strict=True
        )
        return Size((n - 1) * s - 2 * int(p) + d * (k - 1) + o + 1 for n, k, s, p, d, o in parts)
    convolve = _DIMENSIONS[value.ndim - 3]
    one = (value[:1, :1], module.weight[:1, :1])
    return convolve(*one, None, module.stride, module.padding, module.dilation).shape[2:]


@contextmanager
def answering(model: nn.Module, graph: ChannelGraph, answer: Answer) -> Iterator[None]:
    """Replace every layer by `answer`; the network is in evaluation mode inside."""
    with evaluating(model), ExitStack() as undo, torch.no_grad():
        for name in graph.layers:
            module = model.get_submodule(name)

            def stand_in(value: Tensor, name: str = name, module: nn.Module = module) -> Tensor:
                return answer(name, module, value)

            # An attribute of the instance hides the method of its class; the user may have set one.
            undo.callback(_give_back, module, vars(module).get("forward"))
            module.forward = stand_in
        yield


def _give_back(module: nn.Module, forward: Callable[..., Tensor] | None) -> None:
    del module.forward
    if forward is not None:
        module.forward = forward


def bias_alone(module: nn.Module, value: Tensor) -> Tensor:
    """Output of a layer for zeros, in the shape of its output for `value` (B, in, ...)."""
    bias, axis, outputs = module.bias, channel_axis(module, value), len(filters(module))
    size = value.shape[1:-1] if isinstance(module, nn.Linear) else map_size(module, value)
    shape = (len(value), *size, outputs) if axis > 1 else (len(value), outputs, *size)
    out = torch.zeros(shape, dtype=value.dtype, device=value.device)
    return out + bias.view(-1, *[1] * (out.ndim - 1 - axis)) if isinstance(bias, Tensor) else out


def layer_cells(model: nn.Module, graph: ChannelGraph, image: Tensor) -> dict[str, int]:
    """Layer name -> how often its kernel is applied: cells of its output, or of a transposed one's input.

    Args:
        model: the network that `graph` describes.
        graph: its channels.
        image: (B, C, H, W) an input of the size to count for.
    """
    cells: dict[str, int] = {}

    def answer(name: str, module: nn.Module, value: Tensor) -> Tensor:
        output = bias_alone(module, value)
        counted = value if isinstance(module, TRANSPOSED) else output  # where kernels are applied
        # code may fold other axes into the batch, and call a layer several times
        uses = counted.numel() // counted.shape[channel_axis(module, counted)] // len(image)
        cells[name] = cells.get(name, 0) + uses
        return output

    with answering(model, graph, answer):
        model(image)
    return cells


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let each operation of torch use `count` threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that nothing is compiled under: without this torch loads its compiler, which takes seconds."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def tensors_in(found: Any, *, numbers: bool = False) -> list[Tensor]:
    """The tensors in the outputs of a network: in containers and attributes of any kind, and arrays of numpy.

    Args:
        found: the outputs.
        numbers: whether plain numbers count too.

    >>> tensors_in({"a": torch.zeros(1), "b": (None, 2, [torch.ones(1)])})
    [tensor([0.]), tensor([1.])]
    """
    return list(_tensors_in(found, numbers, set()))


def _tensors_in(value: Any, numbers: bool, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        yield torch.from_numpy(np.ascontiguousarray(value))
    elif isinstance(value, int | float | complex):
        yield from [torch.tensor(value)] if numbers else []
    elif value is None or isinstance(value, str | bytes | type | nn.Module):
        return
    elif id(value) not in seen:
        seen.add(id(value))
        for part in _parts_of(value):
            yield from _tensors_in(part, numbers, seen)


def _parts_of(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, Iterable):
        return value
    leaves = pytree.tree_leaves(value)  # of types that their authors registered
    if len(leaves) != 1 or leaves[0] is not value:
        return leaves
    slots = (name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()))
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]


def set_widths(module: nn.Module) -> None:
    """Set the numbers that one of torch's own modules holds from the shapes of its narrowed tensors."""
    weight = getattr(module, "weight", None)
    weight = weight if isinstance(weight, Tensor) else None
    if isinstance(module, nn.MultiheadAttention) and isinstance(module.in_proj_weight, Tensor):
        if module.kdim == module.vdim == module.embed_dim:
            module.kdim = module.vdim = module.in_proj_weight.shape[1]
        module.embed_dim = module.in_proj_weight.shape[1]
        module.head_dim = module.embed_dim // module.num_heads
    elif isinstance(module, nn.RNNBase):
        module.input_size = module.get_parameter("weight_ih_l0").shape[1]
    elif isinstance(module, nn.RNNCellBase):
        module.input_size = module.weight_ih.shape[1]
    elif isinstance(module, (*BATCH_NORMS, *INSTANCE_NORMS)):
        tensor = weight if weight is not None else module.running_mean
        if tensor is not None:
            module.num_features = len(tensor)
    elif weight is None:
        return
    elif isinstance(module, CONVOLUTIONS):
        _set_convolution(module, weight)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm):
        if module.num_groups > 1:
            module.num_groups = len(weight) * module.num_groups // module.num_channels
        module.num_channels = len(weight)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape


def _set_convolution(module: nn.Module, weight: Tensor) -> None:
    """The numbers of a convolution; those of before tell how many channels each group has."""
    assert isinstance(module, CONVOLUTIONS)
    transposed = isinstance(module, TRANSPOSED)
    if module.groups == module.in_channels > 1:
        rows = module.in_channels if transposed else module.out_channels
        module.groups = len(weight) * module.groups // rows
    in_groups, out_groups = (1, module.groups) if transposed else (module.groups, 1)
    rows, columns = (1, 0) if transposed else (0, 1)
    module.out_channels = weight.shape[rows] * out_groups
    module.in_channels = weight.shape[columns] * in_groups


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
