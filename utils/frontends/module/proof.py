"""The proof of a pruned module: the object that the user gets, against the original with channels at zero.

Both run in float64 on random inputs, in batches of 1, 2 and 3, at the size of the example and at two others
where the original takes them, and the pruned one takes a training step where the original can take one.
"""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import PruningError
from ...pruning.equality import Doubles, tensors_in
from ...pruning.layers import shared_copy
from .beside import OtherStepsError, preserved
from .options import Verify
from .subject import ModuleSubject

EQUAL = 1e-9  # of the largest output; float64 rounding stays below 1e-12


@dataclass(frozen=True)
class Proof:
    """Result of the comparison.

    Attributes:
        difference: largest difference over the largest output.
        limits: sizes for which nothing was compared, in sentences.
    """

    difference: float
    limits: tuple[str, ...] = ()


def proven(zeroed: nn.Module, pruned: nn.Module, subject: ModuleSubject, verify: Verify = "full") -> Proof:
    """Compare `pruned` with `zeroed`, the original whose removed channels are 0.

    Raises:
        PruningError: they differ, or the pruned network does not run or train where the original does.
    """
    original, small = (shared_copy(each).double() for each in (zeroed, pruned))
    pair = _Pair(type(pruned).__name__, original, small, subject)
    largest, limits = 0.0, []
    for images in itertools.islice(_inputs(subject.example), 2 if verify == "quick" else None):
        try:
            difference = pair.compared(images)
        except OtherStepsError as error:
            if images.shape == subject.example.shape:  # else nothing would be compared at all
                fact = f"the network runs other operations in float64 ({error.fact})"
                raise PruningError(pair.name, fact, "compute in the type of the input") from error
            limits.append(f"at {_size(images)} its code does something else than at {_size(subject.example)}")
            continue
        if difference is None and images.shape == subject.example.shape:
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
    subject: ModuleSubject

    def compared(self, images: Tensor) -> float | None:
        """The difference for these images; None if the original does not take them.

        Where code asks for another type of number, all operations are computed in float64.
        """
        plain = self._difference(images, nullcontext())
        if plain is not None and plain <= EQUAL:
            return plain
        difference = self._difference(images, Doubles())  # type: ignore[no-untyped-call]
        if difference is not None and not difference <= EQUAL:
            fact = f"the pruned network differs from the zeroed one by {difference:.1e} of the largest output"
            raise PruningError(self.name, fact, "exclude the layers around it, and report a bug")
        return difference

    def _difference(self, images: Tensor, way: AbstractContextManager[object]) -> float | None:
        try:
            with way:
                expected = _outputs(self.original, images, {})
        except OtherStepsError:
            raise
        except Exception:  # noqa: BLE001 - the user's own code may raise anything
            return None
        try:
            with way:
                found = _outputs(self.pruned, images, self.subject.values)
        except Exception as error:
            shape, text = tuple(images.shape), f"{type(error).__name__}: {error}"
            fact = f"the pruned network does not run on {shape} ({text})"
            raise PruningError(self.name, fact, "exclude the layers around it, and report a bug") from error
        return _difference(self.name, found, expected)


def _size(images: Tensor) -> str:
    return "x".join(map(str, images.shape))


def _inputs(example: Tensor) -> Iterator[Tensor]:
    """Random inputs of several batches and sizes; integers are the example's."""
    generator = torch.Generator().manual_seed(0)
    for batch in (2, 1, 3):
        if not example.is_floating_point():
            yield example[:1].repeat(batch, *[1] * (example.ndim - 1))
        else:
            yield torch.rand(batch, *example.shape[1:], generator=generator, dtype=torch.float64)
    if example.ndim == 4 and example.is_floating_point():
        channels, height, width = example.shape[1:]
        smaller = (max(32, height // 64 * 32), max(32, width // 64 * 32))
        for other in (smaller, (height + 32, width + 64)):
            if other != (height, width):
                yield torch.rand(2, channels, *other, generator=generator, dtype=torch.float64)


def _outputs(model: nn.Module, images: Tensor, values: object) -> list[Tensor]:
    with preserved(model), torch.no_grad():
        return tensors_in(model(images, **values))  # type: ignore[arg-type]


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


def _require_training(pruned: nn.Module, subject: ModuleSubject) -> None:
    """The pruned network takes a step wherever the original takes one."""
    if _step(subject.model, subject) is not None:
        return
    error = _step(pruned, subject)
    if error is not None:
        fact = f"the pruned network does not train ({type(error).__name__}: {error})"
        raise PruningError(
            type(pruned).__name__, fact, "exclude the layers that only training reads"
        ) from error


def _step(model: nn.Module, subject: ModuleSubject) -> Exception | None:
    """What a training step on a copy raises."""
    copy = shared_copy(model)
    with preserved(copy):
        copy.train()
        try:
            outputs = tensors_in(copy(subject.example, **subject.values))
            loss = sum(each.double().mean() for each in outputs if each.requires_grad)
            if isinstance(loss, Tensor):
                loss.backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001 - the user's own code may raise anything
            return error
    return None
