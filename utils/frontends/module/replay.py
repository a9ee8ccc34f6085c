"""Running a network again with what its trace showed: removed channels at zero, or constants alone.

The operations of the second run are those of the trace, in the same order; each product is found by its
number. A run that does something else is an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from ...pruning.channels import ChannelGraph, UnitMask
from ...pruning.fold import Constant
from .beside import Beside, Reshaping, Step, preserved
from .labels import compact
from .rules.table import PRODUCTS


def _is_product(func: OpOverload) -> bool:
    return func.overloadpacket in PRODUCTS


class _Replay(Beside):
    """Runs the products of a trace in another way."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__(steps, _is_product)


class _Zeroing(_Replay):
    """Multiplies removed channels by 0 wherever a product reads them."""

    def __init__(self, steps: tuple[Step, ...], keep: Tensor) -> None:
        super().__init__(steps)
        self.keep = keep

    def step(self, step: Step, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """`func` of operands whose removed channels are 0."""
        given = list(args)
        for place, (_, label) in (step.product.operands if step.product else {}).items():
            mask = self.keep[compact(label)]
            if not mask.all():
                given[place] = given[place] * _fitted(mask, given[place]).to(given[place])
        return func(*given, **kwargs)


def _fitted(mask: Tensor, value: Tensor) -> Tensor:
    """The mask for another batch size: axes that hold images and channels repeat it."""
    for axis, (size, wanted) in enumerate(zip(mask.shape, value.shape, strict=True)):
        if size not in (1, wanted):
            times = -(-wanted // size)
            mask = mask.repeat(*[times if place == axis else 1 for place in range(mask.ndim)])
            mask = mask.narrow(axis, 0, wanted)
    return mask


class Zeroed(nn.Module):
    """A network whose removed channels are multiplied by 0 wherever a product reads them.

    To evaluate, not to train: it runs in evaluation mode.

    Args:
        model: the full-size network.
        steps: the operations of its trace.
        keep: (ids,) what is kept.
        values: other arguments of its `forward`.
    """

    def __init__(
        self, model: nn.Module, steps: tuple[Step, ...], keep: UnitMask, values: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.model = model
        self._steps, self._keep, self._values = steps, torch.from_numpy(keep), dict(values)

    def forward(self, *args: Any) -> Any:
        """The outputs of the network with the removed channels at zero."""
        with preserved(self.model), Reshaping(), _Zeroing(self._steps, self._keep):
            return self.model(*args, **self._values)


class _Answering(_Replay):
    """Every layer answers its bias alone for dead channels, and noise for the others.

    What a reader then sees in a dead channel is its constant if it is the same everywhere; what depends on
    the image differs from place to place.
    """

    def __init__(
        self, steps: tuple[Step, ...], graph: ChannelGraph, alive: UnitMask, is_other_size: bool = False
    ) -> None:
        super().__init__(steps)
        self.graph, self.alive, self.is_other_size = graph, alive, is_other_size
        self.found: dict[str, Constant] = {}
        self.generator = torch.Generator().manual_seed(0)

    def step(self, step: Step, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The answer of a layer; any other operation as it is."""
        product = step.product
        if product is None or product.layer is None:
            return func(*args, **kwargs)
        if product.value in product.operands:
            self._note(product.layer, args[product.value], product.operands[product.value][0])
        bias = args[product.bias] if product.bias is not None else None
        weight = next(arg for arg in args if isinstance(arg, Tensor))
        shape = func(*args, **kwargs).shape if self.is_other_size else product.result
        answer = torch.rand(shape, generator=self.generator, dtype=torch.float32).to(weight)
        behind = [-1 if place == product.outputs else 1 for place in range(answer.ndim)]
        live = torch.from_numpy(self.alive[self.graph.layers[product.layer].outputs]).to(answer.device)
        answer = answer * live.view(behind)
        if isinstance(bias, Tensor):
            own = bias.view(behind) if bias.ndim == 1 else bias
            answer = answer + own
        return answer

    def _note(self, layer: str, value: Tensor, axis: int) -> None:
        dead = torch.from_numpy(~self.alive[self.graph.layers[layer].inputs])
        if not dead.any() or value.shape[axis] != len(dead):
            return
        channels = value.detach().movedim(axis, 0).reshape(len(dead), -1).cpu().double()
        first = channels[:, 0]
        difference = (channels - first[:, None]).abs().amax(1)
        steady = (difference <= 1e-6 * first.abs().clamp(min=1.0)) & first.isfinite()
        values = torch.where(dead & steady, first, torch.zeros((), dtype=torch.float64))
        before = self.found.get(layer)
        whole = bool(steady[dead].all()) and (before is None or before.is_whole)
        uniform = True
        if before is not None:  # called on several tensors, it has one bias
            uniform = before.is_uniform and torch.allclose(before.values, values)
            values = before.values if before.values.any() else values
        self.found[layer] = Constant(values, values, uniform, whole)


def constants_of(
    model: nn.Module,
    example: Tensor,
    values: Mapping[str, Any],
    steps: tuple[Step, ...],
    graph: ChannelGraph,
    alive: UnitMask,
) -> dict[str, Constant]:
    """Layer name -> the constant that dead channels give it, for layers that get one.

    Args:
        model: the network with the gammas of dead channels at 0.
        example, values: arguments of its `forward`.
        steps: the operations of its trace.
        graph: its channels.
        alive: (units,) those that are not dead.
    """
    answering = _Answering(steps, graph, alive)
    with preserved(model), Reshaping(), answering:
        model(_noise(example, example.shape), **values)
    found = {n: each for n, each in answering.found.items() if each.values.any() or not each.is_whole}
    larger = (*example.shape[:2], *(size + 32 for size in example.shape[2:]))
    if not found or larger == tuple(example.shape):
        return found
    again = _Answering(steps, graph, alive, is_other_size=True)
    try:
        with preserved(model), Reshaping(), again:
            model(_noise(example, larger), **values)
    except Exception:  # noqa: BLE001 - it takes no other size, so there is nothing to compare
        return found
    return {name: _common(constant, again.found.get(name, constant)) for name, constant in found.items()}


def _noise(example: Tensor, shape: Sequence[int]) -> Tensor:
    """Another image in each place of the batch; integers are the example's."""
    if not example.is_floating_point():
        return example
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0)).to(example)


def _common(one: Constant, other: Constant) -> Constant:
    """What is the same at two sizes."""
    same = torch.isclose(one.values, other.values, rtol=1e-5, atol=1e-7)
    values = torch.where(same, one.values, torch.zeros((), dtype=torch.float64))
    return Constant(values, values, one.is_uniform, one.is_whole and bool(same.all()))
