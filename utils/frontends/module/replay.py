"""The network run again as its trace shows, in another way.

The products of a further run are those of the trace, in the same order, so each is found by its number: with
removed channels at zero (`Zeroed`), with constants alone (`constants_of`). A run that does something else is
an error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from ...pruning.channels import ChannelGraph, UnitMask
from ...pruning.fold import Constant
from .inputs import Inputs
from .rules.table import PRODUCTS
from .running import Beside, running
from .steps import Product, Step, compact, vector

aten = torch.ops.aten
_NORMS = frozenset({aten.native_layer_norm, aten.native_group_norm})


class _Replay(Beside):
    """Runs the products of a trace in another way."""

    def __init__(self, steps: Sequence[Step]) -> None:
        products = PRODUCTS | {step.func.overloadpacket for step in steps if step.product is not None}
        super().__init__(steps, lambda func: func.overloadpacket in products)


class _Zeroing(_Replay):
    """Multiplies removed channels by 0 wherever a product reads them."""

    def __init__(self, steps: tuple[Step, ...], keep: Tensor, are_norms_whole: bool) -> None:
        super().__init__(steps)
        self.keep, self.are_norms_whole = keep, are_norms_whole

    def step(self, step: Step, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """`func` of operands whose removed channels are 0."""
        given = list(args)
        if step.product is not None and step.product.is_norm and not self.are_norms_whole:
            return self._over_kept(step.product, func, given, kwargs)
        for place, (_, label) in (step.product.operands if step.product else {}).items():
            mask = self.keep[compact(label)]
            if not mask.all():
                given[place] = given[place] * _fitted(mask, given[place]).to(given[place])
        return func(*given, **kwargs)

    def _over_kept(
        self, product: Product, func: OpOverload, args: list[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Statistics of the kept channels; what a norm puts out is 0 in the others."""
        axis, label = product.operands[0]
        kept = self.keep[vector(label, axis)].nonzero().flatten().to(args[0].device)
        whole, args[0] = args[0], args[0].index_select(axis, kept)
        if func.overloadpacket not in _NORMS:
            return func(*args, **kwargs)
        first = 2 if func.overloadpacket is aten.native_layer_norm else 1
        for place in (first, first + 1):
            args[place] = args[place].index_select(0, kept) if args[place] is not None else None
        if first == 2:
            args[1] = [len(kept)]
        else:
            args[4] = len(kept)  # after the tensors and the number of images
        found, *others = func(*args, **kwargs)
        return (torch.zeros_like(whole).index_copy(axis, kept, found), *others)


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

    It runs in evaluation mode, with `is_training` in training mode, and is as it was afterwards. Norms that
    lose channels compute statistics of the others, or with `are_norms_whole` of all, 0 where removed.

    Args:
        model: the full-size network.
        steps: the operations of its trace.
        keep: (ids,) what is kept.
    """

    def __init__(self, model: nn.Module, steps: tuple[Step, ...], keep: UnitMask) -> None:
        super().__init__()
        self.model = model
        self._steps, self._keep = steps, torch.from_numpy(keep)
        self.are_norms_whole = self.is_training = False

    def get_submodule(self, target: str) -> nn.Module:
        """That of the network itself."""
        return self.model.get_submodule(target)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the network with the removed channels at zero."""
        with running(self.model, _Zeroing(self._steps, self._keep, self.are_norms_whole)):
            self.model.train(self.is_training)
            return self.model(*args, **kwargs)


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
    inputs: Inputs,
    steps: tuple[Step, ...],
    graph: ChannelGraph,
    alive: UnitMask,
) -> dict[str, Constant]:
    """Layer name -> the constant that dead channels give it, for layers that get one.

    Args:
        model: the network with the gammas of dead channels at 0.
        inputs: arguments of its `forward`.
        steps: the operations of its trace.
        graph: its channels.
        alive: (units,) those that are not dead.
    """
    answering = _Answering(steps, graph, alive)
    with running(model, answering):
        inputs.random()(model)
    found = {n: each for n, each in answering.found.items() if each.values.any() or not each.is_whole}
    larger = [size + 32 for size in inputs.first.shape[2:]]
    if not found or not larger:
        return found
    again = _Answering(steps, graph, alive, is_other_size=True)
    try:
        with running(model, again):
            inputs.random(larger)(model)
    except Exception:  # noqa: BLE001 - it takes no other size, so there is nothing to compare
        return found
    return {name: _common(constant, again.found.get(name, constant)) for name, constant in found.items()}


def _common(one: Constant, other: Constant) -> Constant:
    """What is the same at two sizes."""
    same = torch.isclose(one.values, other.values, rtol=1e-5, atol=1e-7)
    values = torch.where(same, one.values, torch.zeros((), dtype=torch.float64))
    return Constant(values, values, one.is_uniform, one.is_whole and bool(same.all()))
