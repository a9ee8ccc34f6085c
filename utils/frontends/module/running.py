"""Running a network: watched beside its trace, in the same operations, and left as it was."""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from ...errors import PruningError
from ...pruning.layers import DispatchMode
from .steps import Step

_TORCHS = frozenset(vars(nn.Module()))  # attributes that every module has


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
    embeddings = [m.weight for m in modules if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.max_norm]
    values = [(tensor, tensor.detach().clone()) for tensor in (*model.buffers(), *embeddings)]
    learns = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    random = torch.get_rng_state()
    try:
        model.eval()
        for parameter, _ in learns:
            parameter.requires_grad_(parameter.is_floating_point())
        is_recurrent = any(isinstance(module, nn.RNNBase) for module in modules)
        with torch.enable_grad(), _decomposed() if is_recurrent else nullcontext():
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


@contextmanager
def _decomposed() -> Iterator[None]:
    """Recurrent layers in several operations for all types of numbers; for some they would be one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of flags for other devices, which stay as they are
        with torch.backends.mkldnn.flags(enabled=False):
            yield
