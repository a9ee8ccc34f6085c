"""The proof of a pruned network.

The object that the user gets is compared with the original whose removed channels are zero, both in float64
on random inputs: in batches of 1, 2 and 3, at the size of the example and at two others where the original
takes them. Where the original can take a training step the pruned one takes one; and where its training mode
is deterministic, that is compared too.
"""

import itertools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ...errors import PruningError
from ...pruning.channels import UnitMask
from ...pruning.equality import Doubles
from ...pruning.layers import shared_copy, tensors_in
from .inputs import Inputs
from .running import OtherStepsError, preserved
from .trace import Zeroed

if TYPE_CHECKING:
    from .subject import ModuleSubject

Verify = Literal["quick", "full"]
_SMALLEST = 1e-6  # of the largest output: below, rounding of that one shows
EQUAL = 1e-9  # of the largest output; float64 rounding stays below 1e-12
EQUAL_RESCALED = 1e-5  # where weights were multiplied, and rounded to their type


class DifferenceError(PruningError):
    """The pruned network does not compute what the original does without the removed channels."""


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
    limits += subject.inputs.limits()
    if verify == "full":
        _require_training(pruned, subject)
        limits += pair.limits_of_training()
    return Proof(largest, tuple(dict.fromkeys(limits)))


def proven_awake(zeroed: nn.Module, keep: UnitMask, subject: "ModuleSubject") -> float:
    """The comparison once more with random numbers in weights that are all zero, which would hide everything.

    As in the last norms of residual blocks before training. 0 if there are none.
    """
    model = zeroed.get_submodule("")
    asleep = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.numel() > 1 and not name.endswith("bias") and not parameter.any()
    }
    if not asleep:
        return 0.0
    awake, generator = shared_copy(model, list(asleep.values())), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in asleep:
            found = awake.get_parameter(name)
            found.copy_(torch.rand(found.shape, generator=generator) + 0.5)
    full = subject.with_model(awake)
    return proven(full.zeroed(keep, ()).model, full.narrowed(keep), full, "quick").difference


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

    def limits_of_training(self) -> list[str]:
        """A sentence if the two differ in training mode, where that is deterministic and both run."""
        inputs = self.subject.inputs.repeated(2).random(dtype=torch.float64)
        try:
            first, second = (_trained(self.pruned, inputs, seed) for seed in (1, 2))
            same = all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
            if not same or not isinstance(self.original, Zeroed):
                return []
            self.original.is_training = True
            difference = _difference(self.name, first, _outputs(self.original, inputs))
        except Exception:  # noqa: BLE001 - it may need targets, or do something else than in its trace
            return []
        finally:
            self.original.is_training = False  # type: ignore[assignment]
        if difference <= self.tolerance:
            return []
        fact = f"differs from the given one without the removed channels by {difference:.1e}"
        return [f"in training mode it {fact} of the largest output"]

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


def _trained(model: nn.Module, inputs: Inputs, seed: int) -> list[Tensor]:
    """Outputs in training mode."""
    with torch.random.fork_rng(devices=[]), preserved(model), torch.no_grad():
        torch.manual_seed(seed)
        model.train()
        return tensors_in(inputs(model), numbers=True)


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
        return tensors_in(inputs(model), numbers=True)


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
    # outputs of an untrained network may be tiny, which must not hide an error, nor must a large one beside
    largest = [float(each.abs().max()) for _, each in pairs]
    least = _SMALLEST * max(largest, default=0.0) or 1.0
    differences = (float((one - other).abs().max()) for one, other in pairs)
    return max(
        (each / max(scale, least) for each, scale in zip(differences, largest, strict=True)), default=0.0
    )


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
