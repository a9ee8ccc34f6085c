"""The proof of a pruned module: the object that the user gets, against the original with channels at zero.

Both run in float64 on random inputs, in batches of 1, 2 and 3, at the size of the example and at two others
where the original takes them, and the pruned one takes a training step where the original can take one.
"""

import itertools
from collections.abc import Iterator
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
    name = type(pruned).__name__
    original, small = (shared_copy(model).double() for model in (zeroed, pruned))
    largest, limits = 0.0, []
    for images in itertools.islice(_inputs(subject.example), 2 if verify == "quick" else None):
        is_example = images.shape[2:] == subject.example.shape[2:]
        try:
            expected = _outputs(original, images, {})
        except OtherStepsError:
            limits.append(f"at {_size(images)} its code does something else than at {_size(subject.example)}")
            continue
        except Exception as error:  # the user's own code may raise anything
            if is_example and len(images) == 2:
                raise PruningError(
                    name, f"the comparison in float64 failed ({error})", "report a bug"
                ) from error
            continue  # the original does not take this size
        try:
            found = _outputs(small, images, subject.values)
        except Exception as error:
            fact = (
                f"the pruned network does not run on {tuple(images.shape)} ({type(error).__name__}: {error})"
            )
            raise PruningError(name, fact, "exclude the layers around it, and report a bug") from error
        largest = max(largest, _difference(name, found, expected))
    if verify == "full":
        _require_training(pruned, subject)
    return Proof(largest, tuple(dict.fromkeys(limits)))


def _size(images: Tensor) -> str:
    return "x".join(map(str, images.shape[1:]))


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
        for larger in ((height + 32, width + 64), (2 * height, 2 * width)):
            yield torch.rand(2, channels, *larger, generator=generator, dtype=torch.float64)


def _outputs(model: nn.Module, images: Tensor, values: object) -> list[Tensor]:
    with preserved(model), Doubles(), torch.no_grad():
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
    difference = max((float((one - other).abs().max()) for one, other in pairs), default=0.0) / scale
    if not difference <= EQUAL:
        fact = f"the pruned network differs from the zeroed one by {difference:.1e} of the largest output"
        raise PruningError(name, fact, "exclude the layers around it, and report a bug")
    return difference


def _require_training(pruned: nn.Module, subject: ModuleSubject) -> None:
    """The pruned network takes a step wherever the original takes one."""
    if not _trains(subject.model, subject):
        return
    error = _step(pruned, subject)
    if error is not None:
        fact = f"the pruned network does not train ({type(error).__name__}: {error})"
        raise PruningError(
            type(pruned).__name__, fact, "exclude the layers that only training reads"
        ) from error


def _trains(model: nn.Module, subject: ModuleSubject) -> bool:
    return _step(model, subject) is None


def _step(model: nn.Module, subject: ModuleSubject) -> Exception | None:
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
