"""Comparison of the outputs of two networks in float64, where rounding cannot hide an error.

A network is converted to float64 layer by layer while it runs, so there is never a second copy in memory.
Tensors that its code creates in another type, or takes from a module that it does not call, are converted as
they are used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..profiling import evaluating
from .layers import DispatchMode, tensors_in


def outputs_in_float64(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The outputs of `model`, computed on the CPU in float64 and evaluation mode.

    Args:
        model: takes one tensor, returns anything that `tensors_in` takes; unchanged afterwards.
        images: its input, of any type and device; integers stay integers.
    """
    with evaluating(model), torch.no_grad(), _in_float64(model), Doubles():  # type: ignore[no-untyped-call]
        outputs = model(images.to("cpu", torch.float64 if images.is_floating_point() else None))
    return tensors_in(outputs)


def relative_difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest absolute difference over the largest absolute expected value, at least 1; inf if shapes differ.

    NaN if one of the values is NaN: compare with `not difference <= tolerance`.
    """
    if [output.shape for output in actual] != [output.shape for output in expected]:
        return float("inf")
    pairs = [
        (a.to(e).to(_comparable(e)), e.to(_comparable(e)))
        for a, e in zip(actual, expected, strict=True)
        if e.numel()
    ]
    scale = max((float(e.abs().max()) for _, e in pairs), default=0.0)
    differences = [float((a - e).abs().max()) for a, e in pairs]
    worst = float("nan") if any(d != d for d in differences) else max(differences, default=0.0)
    return worst / max(1.0, scale)


@contextmanager
def _in_float64(model: nn.Module) -> Iterator[None]:
    """Run each module with float64 copies of its own tensors; restore them afterwards."""
    with ExitStack() as hooks:
        for module in model.modules():
            if not any(tensors for tensors in _tensors(module)):
                continue
            converted = _Converted(module)
            # A module that computes nothing, such as a ParameterList, is read while others run.
            runs = model if type(module).forward is nn.Module.forward else module
            for handle in (
                runs.register_forward_pre_hook(converted.enter, prepend=True),  # before what reads weights
                runs.register_forward_hook(converted.leave, always_call=True),
            ):
                hooks.callback(handle.remove)
        yield


class Doubles(DispatchMode):  # type: ignore[no-untyped-call]
    """Compute every operation in float64, whatever type the code asks for."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func` on float64 copies of what it reads."""
        given = pytree.tree_map(_doubled, (args, dict(kwargs or {})))
        return pytree.tree_map(_doubled, func(*given[0], **given[1]))


def _doubled(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return leaf.to(torch.float64)
    is_type = isinstance(leaf, torch.dtype) and leaf.is_floating_point
    return torch.float64 if is_type else leaf


def _comparable(output: Tensor) -> torch.dtype:
    """A type with subtraction."""
    return output.dtype if output.is_floating_point() or output.is_complex() else torch.float64


class _Converted:
    """One module's tensors, float64 between `enter` and `leave`."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._before: list[tuple[dict[str, Tensor | None], dict[str, Tensor | None]]] = []

    def enter(self, _module: nn.Module, _inputs: object) -> None:
        """Replace the module's own tensors with float64 copies."""
        for tensors in _tensors(self._module):
            self._before.append((tensors, dict(tensors)))
            tensors.update({name: _converted(tensor) for name, tensor in tensors.items()})

    def leave(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        """Restore the module's own tensors."""
        for tensors, before in self._before:
            tensors.update(before)
        self._before.clear()


def _tensors(module: nn.Module) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    # Replaced in torch's own tables: assigning `.data` cannot change the device.
    return cast(dict[str, Tensor | None], module._parameters), module._buffers


def _converted(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or not tensor.is_floating_point():
        return tensor
    double = tensor.detach().to("cpu", torch.float64)
    return nn.Parameter(double, requires_grad=False) if isinstance(tensor, nn.Parameter) else double
