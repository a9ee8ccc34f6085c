"""How far an exported file is from the network it came from, on images of several shapes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ExportError
from ..runtimes.runtime import Images, Outputs, random_images
from .wrappers import Ending

Infer = Callable[[Images], Outputs]
Shape = tuple[int, int, int, int]  # batch, channels, height, width

# Scores of random images may all be next to 0, where onnxruntime's sigmoid is good to 1e-7, absolute.
SMALLEST_SCALE = 1e-2


@dataclass(frozen=True)
class Parity:
    """The differences on images of one shape.

    Attributes:
        shape: of the images.
        differences: for each output, largest difference / largest value.
    """

    shape: Shape
    differences: Mapping[str, float]

    @property
    def largest(self) -> float:
        """Over all outputs."""
        return max(self.differences.values())


def module_infer(ending: Ending) -> Infer:
    """A callable that runs the module itself."""

    def infer(images: Images) -> Outputs:
        with torch.no_grad():
            return [output.numpy() for output in ending(torch.from_numpy(images))]

    return infer


def compare(
    ending: Ending,
    infer: Infer,
    shapes: Sequence[Shape],
    place: str,
    tolerance: float,
    smallest: float = SMALLEST_SCALE,
    images: Callable[[Shape], Images] = random_images,
) -> tuple[Parity, ...]:
    """Compare an exported file with the module it came from.

    Args:
        ending: the module, in evaluation mode, on the CPU, in float32.
        infer: runs the file; gives the outputs of `ending`, in their order.
        shapes: of the images of each comparison.
        place: what runs the file, for messages.
        tolerance: largest difference / largest value that passes.
        smallest: what counts as the largest value where all are smaller.
        images: those of a shape.

    Returns:
        A Parity for each shape.

    Raises:
        ExportError: `infer` fails, the module's own outputs are not finite, or a difference is above
            `tolerance`.
    """
    found = []
    for shape in shapes:
        where = f"{place} at batch {shape[0]}, {shape[2]}x{shape[3]}"
        found.append(Parity(shape, _differences(ending, infer, images(shape), where, smallest)))
        for name, value in found[-1].differences.items():
            if not value <= tolerance:
                fact = (
                    f"{name} differ from torch by {value:.1e} of the largest value, more than {tolerance:.0e}"
                )
                if value == float("inf"):
                    fact = f"{name} have another shape than torch's, or are not finite"
                raise ExportError(where, fact, "nothing was written")
    return tuple(found)


def _differences(
    ending: Ending, infer: Infer, images: Images, place: str, smallest: float
) -> dict[str, float]:
    expected = module_infer(ending)(images)
    if not all(np.isfinite(output).all() for output in expected):
        raise ExportError(place, "torch's own outputs are not finite", "the weights are broken or foreign")
    try:
        actual = infer(images)
    except Exception as error:  # each runtime has types of its own, without another public base
        raise ExportError("", f"{place} cannot run the graph", f"nothing was written: {error}") from error
    pairs = zip(ending.outputs, actual, expected, strict=True)
    return {name: difference(found, wanted, smallest) for name, found, wanted in pairs}


def difference(
    actual: NDArray[np.float32], expected: NDArray[np.float32], smallest: float = SMALLEST_SCALE
) -> float:
    """Largest difference / largest value (at least `smallest`); infinite between different shapes."""
    if actual.shape != expected.shape:
        return float("inf")
    scale = max(float(np.abs(expected).max(initial=0.0)), smallest)
    return float(np.abs(actual - expected).max(initial=0.0)) / scale
