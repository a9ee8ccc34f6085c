"""Steps of a run: the labels of their tensors, their counts and products; and further runs beside them.

Labels say which channel each element of a tensor belongs to. A tensor that was seen has for each axis that
may become narrower a tensor of channel ids, expanded to its shape, so that an axis along which the ids do not
vary takes no memory. The ids of one axis may vary along others too: after `view(B, heads, width, N)` those of
axis 2 are other ones for each head, and all heads keep equally many.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from ...errors import PruningError
from ...pruning.channels import ChannelIds
from ...pruning.layers import DispatchMode

_aten = torch.ops.aten
SCALES = frozenset({_aten.mul, _aten.mul_, _aten.div, _aten.div_})  # that multiply by a number
_TORCHS = frozenset(vars(nn.Module()))  # attributes that every module has
Labels = Mapping[int, Tensor]  # axis -> (shape of the tensor) int64 channel ids


def spread(ids: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """Ids (n,) along `axis` of a tensor of `shape`, whose size there is n.

    >>> spread(torch.tensor([7, 8]), (2, 2), 1).tolist()
    [[7, 8], [7, 8]]
    """
    return ids.view([-1 if place == axis else 1 for place in range(len(shape))]).expand(tuple(shape))


def varying(label: Tensor) -> tuple[int, ...]:
    """The axes along which ids may differ."""
    sizes = zip(label.shape, label.stride(), strict=True)
    return tuple(axis for axis, (size, stride) in enumerate(sizes) if stride and size > 1)


def compact(label: Tensor) -> Tensor:
    """The same ids with size 1 along all other axes."""
    for axis in set(range(label.ndim)) - set(varying(label)):
        label = label.narrow(axis, 0, 1)
    return label


def rows(label: Tensor, axis: int) -> Tensor:
    """(rows, n) the different vectors of ids along `axis`; one row where ids vary along no other axis."""
    found = compact(label).movedim(axis, -1)
    found = found.reshape(-1, found.shape[-1])
    return found if len(found) == 1 else torch.unique(found, dim=0)


def ids_of(label: Tensor) -> ChannelIds:
    """All ids, as a vector."""
    found: ChannelIds = label.reshape(-1).numpy()
    return found


def vector(label: Tensor, axis: int) -> Tensor:
    """(n,) the ids along an axis, at the first place of all others."""
    return rows(label, axis)[0]


def resized(label: Tensor, shape: Sequence[int]) -> Tensor:
    """The ids for a tensor of the same rank that has other sizes along axes where ids do not vary."""
    return compact(label).expand(tuple(shape))


class Moved(NamedTuple):
    """Ids of one axis after an operation that only moves elements.

    Attributes:
        label: the ids.
        axis: what the axis became; of one that is split, the last part. None if it is gone or has size 1.
        torn: the other axes over which its elements lie now, as after a pixel shuffle: channels can go only
            with all that have the same place along `axis`.
    """

    label: Tensor
    axis: int | None
    torn: tuple[int, ...] = ()


def moved(label: Tensor, axis: int, move: Callable[[Tensor], Tensor]) -> Moved:
    """The ids of `axis` after `move`."""
    marker = spread(torch.arange(label.shape[axis]), label.shape, axis)
    after, found = move(marker), without_copies(move(label))
    axes = [place for place in range(after.ndim) if _varies(after, place)]
    if not axes:
        return Moved(found, None)
    if len(axes) > 1 and math.prod(after.shape[place] for place in axes) != label.shape[axis]:
        last = rows(after, axes[-1])[0]
        if len(last.unique()) == len(last) and axes[-1] in varying(found):
            return Moved(found, axes[-1])  # the other part is merged with a batch, as heads are in attention
        return Moved(found, axes[0], tuple(axes[1:]))
    # of a batch that was merged with channels and is split from them again, only one part has the ids
    own = [place for place in axes if place in varying(found)]
    return Moved(found, (own or axes)[-1])


def without_copies(label: Tensor) -> Tensor:
    """The same ids, expanded along all axes along which they are in fact equal."""
    small = compact(label)
    for axis in varying(small):
        first = small.narrow(axis, 0, 1)
        if bool((small == first).all()):
            small = first
    return small.expand(label.shape)


def interleaves(label: Tensor, axis: int, move: Callable[[Tensor], Tensor], new: int) -> bool:
    """Whether the vectors along `axis` alternate along the axis `new` that `move` makes of several axes.

    Then cutting them at different places would change the order of what is left.
    """
    others = [place for place in varying(label) if place != axis]
    if not others:
        return False
    shape = [label.shape[place] if place in others else 1 for place in range(label.ndim)]
    number = torch.arange(math.prod(shape)).view(shape).expand(label.shape)
    found = rows(move(number), new)[0]
    return int((found.diff() != 0).sum()) > len(found.unique()) - 1


def _varies(marker: Tensor, axis: int) -> bool:
    if marker.shape[axis] < 2 or not marker.stride(axis):
        return False
    first = compact(marker)
    return first.shape[axis] > 1 and bool((first.diff(dim=axis) != 0).any())


@dataclass(frozen=True)
class Count:
    """An argument of an operation that counts channels.

    Attributes:
        path: place in the arguments: position, and index in it if it is a list.
        ids: the channels that it counts.
    """

    path: tuple[int, ...]
    ids: ChannelIds


@dataclass(frozen=True)
class Product:
    """A contraction of channels: what reads them.

    Attributes:
        layer: name of the layer with these weights; None for other products.
        operands: position in the arguments -> axis that is contracted and its labels.
        value: position of the tensor that a layer reads.
        cells: how often a layer's kernel is applied.
        result: shape of the output.
        bias: position of the bias, if there is one.
        outputs: axis of the layer's channels in the output.
        is_norm: whether it computes statistics instead, which are of the kept channels alone.
    """

    layer: str | None
    operands: Mapping[int, tuple[int, Tensor]]
    result: tuple[int, ...]
    bias: int | None = None
    outputs: int = 1
    value: int = 0
    cells: int = 0
    is_norm: bool = False


@dataclass(frozen=True)
class Step:
    """An operation of the run, as far as a narrowed network needs to know it."""

    func: OpOverload
    counts: tuple[Count, ...] = ()
    product: Product | None = None
    args: tuple[Any, ...] = ()  # without tensors
    scaled: ChannelIds | None = None  # channels on the last axis of what it multiplies by a number
    whole: type[nn.Module] | None = None  # a type whose modules are one operation, which a rule describes


class OtherStepsError(PruningError):
    """The network did not run the operations of its trace."""


class Beside(DispatchMode):
    """A further run of a network beside some operations of its trace.

    Args:
        steps: all operations of the trace.
        matters: whether a run has to do an operation again; others may differ, as a reshape is a view or
            a view of a copy depending on the sizes.
    """

    def __init__(self, steps: Sequence[Step], matters: Callable[[OpOverload], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wholes = frozenset(step.whole for step in steps if step.whole is not None)
        self.steps, self.done = [step for step in steps if step.whole is None and matters(step.func)], 0
        self._matters = matters

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func`, as its step wants it if it has one."""
        step = self.next_step(func)
        return func(*args, **(kwargs or {})) if step is None else self.step(step, func, args, kwargs or {})

    def step(self, step: Step, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The result of an operation that matters."""
        del step
        return func(*args, **kwargs)

    def next_step(self, func: OpOverload) -> Step | None:
        """The step that `func` is; None if it does not matter.

        Raises:
            OtherStepsError: the trace has another operation here.
        """
        if not self._matters(func):
            return None
        step = self.steps[self.done] if self.done < len(self.steps) else None
        if step is None or not _is_same(step.func, func):
            wanted = "the end" if step is None else step.func
            fact = f"operation {self.done} is {func}, in the trace it was {wanted}"
            raise OtherStepsError("forward", fact, "give an example of the size that is used")
        self.done += 1
        return step


@contextmanager
def running(model: nn.Module, mode: Beside) -> Iterator[None]:
    """Run `model` under a mode, as its trace was run; it is afterwards as it was before."""
    with preserved(model), as_wholes(model, mode.wholes), Reshaping(), mode:
        yield


@contextmanager
def as_wholes(
    model: nn.Module,
    kinds: Collection[type[nn.Module]],
    describe: Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any], Any], None] | None = None,
) -> Iterator[None]:
    """Hide the operations of modules of these types; `describe` gets each call: arguments and result."""
    chosen = [module for module in model.modules() if isinstance(module, tuple(kinds))]
    before = [(module, vars(module).get("forward")) for module in chosen]

    def hidden(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with _disable_current_modes():
                result = forward(*args, **kwargs)
                if describe is not None:
                    describe(module, args, kwargs, result)
            return result

        return run

    for module in chosen:
        module.forward = hidden(module, module.forward)
    try:
        yield
    finally:
        for module, own in before:
            del module.forward
            if own is not None:
                module.forward = own


# code that slices nothing off gets an alias
_SLICES = frozenset({torch.ops.aten.slice, torch.ops.aten.alias})
_VIEWS = frozenset({torch.ops.aten.view, torch.ops.aten._unsafe_view})


def _is_same(one: OpOverload, other: OpOverload) -> bool:
    both = {one.overloadpacket, other.overloadpacket}
    return one == other or both <= _VIEWS or both <= _SLICES


class Reshaping(TorchFunctionMode):
    """`reshape` as a view or a view of a copy, `linear` as the product of two matrices.

    The check of a reshape comes before operations are dispatched, and linear layers are other operations for
    some strides.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func`."""
        kwargs = kwargs or {}
        if func in (torch.reshape, Tensor.reshape) and args:
            value, *shape = args
            shape = kwargs.get("shape", shape[0] if len(shape) == 1 else shape)
            shape = [shape] if isinstance(shape, int) else list(shape)
            return self._reshaped(value, shape)
        if func in (torch.unflatten, Tensor.unflatten) and len(args) == 3:
            value, axis, sizes = args
            axis %= value.ndim
            return self._reshaped(value, (*value.shape[:axis], *sizes, *value.shape[axis + 1 :]))
        if func is nn.functional.linear and args[0].ndim > 2:
            value, *rest = args
            rows = func(self._reshaped(value, (-1, value.shape[-1])), *rest, **kwargs)
            return rows.view(*value.shape[:-1], rows.shape[-1])
        return func(*args, **kwargs)

    def _reshaped(self, value: Tensor, shape: Sequence[int]) -> Tensor:
        return (value if _is_viewable(value, shape) else value.contiguous()).view(*shape)


def _is_viewable(value: Tensor, shape: Sequence[int]) -> bool:
    if value.is_contiguous():
        return True
    try:
        with _disable_current_modes():
            torch.empty_strided(value.shape, value.stride(), device="meta").view(*shape)
    except RuntimeError:
        return False
    return True


@contextmanager
def modules_noted(
    model: nn.Module, enter: Callable[[str], None], leave: Callable[[], None]
) -> Iterator[None]:
    """Call `enter` with the name of each module of `model` before it runs, and `leave` afterwards."""
    names = {id(module): name for name, module in model.named_modules()}

    def before(module: nn.Module, _inputs: object) -> None:
        if id(module) in names:
            enter(names[id(module)])

    def after(module: nn.Module, _inputs: object, _output: object) -> None:
        if id(module) in names:
            leave()

    handles = (
        nn.modules.module.register_module_forward_pre_hook(before),
        nn.modules.module.register_module_forward_hook(after, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Run the network in evaluation mode, all parameters learning; restore everything afterwards."""
    modules = list(model.modules())
    states = [
        (module, dict(vars(module)), dict(module._buffers), dict(module._parameters)) for module in modules
    ]
    holders = [value for module in modules for name, value in vars(module).items() if _is_cache(name, value)]
    contents = [(holder, holder.copy()) for holder in holders]
    values = [(tensor, tensor.detach().clone()) for tensor in model.buffers()]
    learns = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    random = torch.get_rng_state()
    try:
        model.eval()
        for parameter, _ in learns:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad():
            yield
    finally:
        torch.set_rng_state(random)
        for parameter, before in learns:
            parameter.requires_grad_(before)
        with torch.no_grad():
            for tensor, value in values:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
        for holder, content in contents:
            if holder != content:
                holder.clear()
                (holder.extend if isinstance(holder, list) else holder.update)(content)
        for module, state, buffers, parameters in states:
            vars(module).clear()
            vars(module).update(state)
            module._buffers.clear()
            module._buffers.update(buffers)
            module._parameters.clear()
            module._parameters.update(parameters)


def _is_cache(name: str, value: object) -> bool:
    """Whether it is a container of the user's, which a forward may fill."""
    return type(value) in (dict, list, set) and name not in _TORCHS
