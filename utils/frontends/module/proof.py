"""The network run again as its trace shows, and the proof of a pruned one by such a run.

The products of a further run are those of the trace, in the same order, so each is found by its number: with
removed channels at zero (`Zeroed`), with constants alone (`constants_of`). A run that does something else is
an error.

The proof compares the object that the user gets with the original whose removed channels are zero, both in
float64 on random inputs: in batches of 1, 2 and 3, at the size of the example and at two others where the
original takes them; and the pruned one takes a training step where the original can take one.
"""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from ...errors import PruningError
from ...pruning.channels import ChannelGraph, UnitMask
from ...pruning.equality import Doubles
from ...pruning.fold import Constant
from ...pruning.layers import shared_copy, tensors_in
from .inputs import Inputs
from .rules.table import PRODUCTS
from .steps import Beside, OtherStepsError, Product, Step, compact, preserved, running, vector

if TYPE_CHECKING:
    from .subject import ModuleSubject

Verify = Literal["quick", "full"]
aten = torch.ops.aten
_NORMS = frozenset({aten.native_layer_norm, aten.native_group_norm})
EQUAL = 1e-9  # of the largest output; float64 rounding stays below 1e-12
EQUAL_RESCALED = 1e-5  # where weights were multiplied, and rounded to their type


class DifferenceError(PruningError):
    """The pruned network does not compute what the original does without the removed channels."""


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

    To evaluate, not to train: it runs in evaluation mode. Norms that lose channels compute statistics of
    the others, or with `are_norms_whole` of all of them, 0 where they are removed.

    Args:
        model: the full-size network.
        steps: the operations of its trace.
        keep: (ids,) what is kept.
    """

    def __init__(self, model: nn.Module, steps: tuple[Step, ...], keep: UnitMask) -> None:
        super().__init__()
        self.model = model
        self._steps, self._keep = steps, torch.from_numpy(keep)
        self.are_norms_whole = False

    def get_submodule(self, target: str) -> nn.Module:
        """That of the network itself."""
        return self.model.get_submodule(target)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the network with the removed channels at zero."""
        with running(self.model, _Zeroing(self._steps, self._keep, self.are_norms_whole)):
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


@dataclass(frozen=True)
class Proof:
    """Result of the comparison.

    Attributes:
        difference: largest difference over the largest output.
        limits: sizes for which nothing was compared, in sentences.
    """

    difference: float
    limits: tuple[str, ...] = ()


def proven(
    zeroed: nn.Module, compact: "ModuleSubject", subject: "ModuleSubject", verify: Verify = "full"
) -> Proof:
    """Compare `compact` with `zeroed`, the original `subject` whose removed channels are 0.

    Raises:
        PruningError: they differ, or the pruned network does not run or train where the original does.
    """
    pruned = compact.model
    original, small = (shared_copy(each).double() for each in (zeroed, pruned))
    tolerance = EQUAL_RESCALED if compact.is_rescaled else EQUAL
    pair = _Pair(type(pruned).__name__, original, small, subject, tolerance)
    largest, limits = 0.0, []
    for inputs in itertools.islice(subject.inputs.several(), 2 if verify == "quick" else None):
        is_example = inputs.shapes == subject.inputs.shapes
        try:
            difference = pair.compared(inputs)
        except OtherStepsError as error:
            if is_example:  # else nothing would be compared at all
                fact = f"the network runs other operations in float64 ({error.fact})"
                raise PruningError(pair.name, fact, "compute in the type of the input") from error
            limits.append(f"at {inputs.shapes} its code does something else than at {subject.inputs.shapes}")
            continue
        if difference is None and is_example:
            fact = "the comparison in float64 failed, though the network runs"
            raise PruningError(pair.name, fact, "compute in the type of the input")
        largest = max(largest, difference or 0.0)
    if verify == "full":
        _require_training(pruned, subject)
    return Proof(largest, tuple(dict.fromkeys(limits)))


@dataclass(frozen=True)
class _Pair:
    """The original with removed channels at zero, and the pruned network, both of float64."""

    name: str
    original: nn.Module
    pruned: nn.Module
    subject: "ModuleSubject"
    tolerance: float

    def compared(self, inputs: Inputs) -> float | None:
        """The difference for these inputs; None if the original does not take them.

        Where code asks for another type of number, all operations are computed in float64.
        """
        plain = self._difference(inputs, nullcontext())
        if plain is not None and plain <= self.tolerance:
            return plain
        difference = self._difference(inputs, Doubles())  # type: ignore[no-untyped-call]
        if difference is not None and not difference <= self.tolerance:
            if _is_random(self.original, inputs):
                fact = "draws random numbers in evaluation mode too, so nothing can be compared"
                raise PruningError(self.name, fact, "make it deterministic in evaluation mode")
            fact = f"the pruned network differs from the zeroed one by {difference:.1e} of the largest output"
            raise DifferenceError(self.name, fact, "exclude the layers around it, and report a bug")
        return difference

    def _difference(self, inputs: Inputs, way: AbstractContextManager[object]) -> float | None:
        try:
            with way:
                expected = _outputs(self.original, inputs)
        except OtherStepsError:
            raise
        except Exception:  # noqa: BLE001 - the user's own code may raise anything
            return None
        try:
            with way:
                found = _outputs(self.pruned, inputs)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            fact = f"the pruned network does not run on {inputs.shapes} ({text})"
            raise PruningError(self.name, fact, "exclude the layers around it, and report a bug") from error
        return _difference(self.name, found, expected)


def _is_random(model: nn.Module, inputs: Inputs) -> bool:
    """Whether two runs with other seeds differ."""
    with torch.random.fork_rng(devices=[]):
        found = [_outputs(model, inputs) for seed in (1, 2) if torch.manual_seed(seed)]
    return any(not torch.equal(one, other) for one, other in zip(*found, strict=True))


def cost_of_norms(zeroed: Zeroed, inputs: Inputs) -> float:
    """How much the outputs for a random input change if norms take all channels, over the largest output."""
    inputs = inputs.random()
    kept, zeroed.are_norms_whole = _outputs(zeroed, inputs), True
    return _difference("norms", kept, _outputs(zeroed, inputs))


def _outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    with preserved(model), torch.no_grad():
        return tensors_in(inputs(model))


def _difference(name: str, found: list[Tensor], expected: list[Tensor]) -> float:
    if [each.shape for each in found] != [each.shape for each in expected]:
        raise PruningError(name, "the outputs of the pruned network have other shapes", "report a bug")
    pairs = [
        (one.detach().double(), other.detach().double())
        for one, other in zip(found, expected, strict=True)
        if one.numel()
    ]
    if not all(each.isfinite().all() for _, each in pairs):
        fact = "the outputs for a random input are not finite, so the pruned network cannot be checked"
        remedy = "check the weights, and roots, logarithms and divisions in forward"
        raise PruningError(name, fact, remedy)
    # outputs of an untrained network may be tiny, which must not hide an error
    scale = max((float(each.abs().max()) for _, each in pairs), default=0.0) or 1.0
    return max((float((one - other).abs().max()) for one, other in pairs), default=0.0) / scale


def _require_training(pruned: nn.Module, subject: "ModuleSubject") -> None:
    """The pruned network takes a step wherever the original takes one."""
    if _step(subject.model, subject) is not None:
        return
    error = _step(pruned, subject)
    if error is not None:
        fact = f"the pruned network does not train ({type(error).__name__}: {error})"
        raise PruningError(
            type(pruned).__name__, fact, "exclude the layers that only training reads"
        ) from error


def _step(model: nn.Module, subject: "ModuleSubject") -> Exception | None:
    """What a training step on a copy raises."""
    copy = shared_copy(model)
    with preserved(copy):
        copy.train()
        try:
            outputs = tensors_in(subject.inputs(copy))
            loss = sum(each.double().mean() for each in outputs if each.requires_grad)
            if isinstance(loss, Tensor):
                loss.backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001 - the user's own code may raise anything
            return error
    return None
