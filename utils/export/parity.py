"""How far an exported file is from the network it came from, on images of several shapes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from utils.errors import ExportError
from utils.export.endings import Ending
from utils.runtimes.runtime import Images, Outputs

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
    ending: Ending, infer: Infer, shapes: Sequence[Shape], place: str, tolerance: float
) -> tuple[Parity, ...]:
    """Compare an exported file with the module it came from, on random images.

    Args:
        ending: the module, in evaluation mode, on the CPU, in float32.
        infer: runs the file; gives the outputs of `ending`, in their order.
        shapes: of the images of each comparison.
        place: what runs the file, for messages.
        tolerance: largest difference / largest value that passes.

    Returns:
        A Parity for each shape.

    Raises:
        ExportError: `infer` fails, the module's own outputs are not finite, or a difference is above
            `tolerance`.
    """
    return tuple(_compare(ending, infer, shape, place, tolerance) for shape in shapes)


def _compare(ending: Ending, infer: Infer, shape: Shape, place: str, tolerance: float) -> Parity:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).numpy()
    expected = module_infer(ending)(images)
    place = f"{place} at batch {shape[0]}, {shape[2]}x{shape[3]}"
    if not all(np.isfinite(output).all() for output in expected):
        raise ExportError(f"{place}: torch's own outputs are not finite; the weights are broken or foreign")
    try:
        actual = infer(images)
    except Exception as error:  # each runtime has types of its own, without another public base
        raise ExportError(f"{place} cannot run the graph; nothing was written: {error}") from error
    pairs = zip(ending.outputs, actual, expected, strict=True)
    differences = {name: difference(found, wanted) for name, found, wanted in pairs}
    for name, value in differences.items():
        if not value <= tolerance:
            fact = f"{name} differ from torch by {value:.1e} of the largest value"
            raise ExportError(f"{place}: {fact}, more than {tolerance:.0e}; nothing was written")
    return Parity(shape, differences)


def difference(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference / largest value (at least `SMALLEST_SCALE`); infinite between different shapes."""
    if actual.shape != expected.shape:
        return float("inf")
    scale = max(float(np.abs(expected).max(initial=0.0)), SMALLEST_SCALE)
    return float(np.abs(actual - expected).max(initial=0.0)) / scale
