"""Comparison of an exported file with the network it came from, on images of several shapes."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ExportError
from ..extras import package
from ..runtimes.onnxruntime import inference_session
from ..runtimes.runtime import Images, Outputs, random_images
from .tracing import Wrapper

Infer = Callable[[Images], Outputs]
Shape = tuple[int, int, int, int]  # batch, channels, height, width

# Scores of random images may all be near 0, where onnxruntime's sigmoid is accurate to 1e-7, absolute.
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


def module_infer(wrapper: Wrapper) -> Infer:
    """A callable that runs the module itself."""

    def infer(images: Images) -> Outputs:
        with torch.no_grad():
            return [output.numpy() for output in wrapper(torch.from_numpy(images))]

    return infer


def compare(
    wrapper: Wrapper,
    infer: Infer,
    shapes: Sequence[Shape],
    place: str,
    tolerance: float,
    smallest: float = SMALLEST_SCALE,
    images: Callable[[Shape], Images] = random_images,
) -> tuple[Parity, ...]:
    """Compare an exported file with the module it came from.

    Args:
        wrapper: the module, in evaluation mode, on the CPU, in float32.
        infer: runs the file; returns the outputs of the module, in their order.
        shapes: of the images of each comparison.
        place: name of what runs the file, for messages.
        tolerance: maximum of largest difference / largest value.
        smallest: lower bound of the largest value.
        images: makes images of a shape.

    Returns:
        A Parity for each shape.

    Raises:
        ExportError: `infer` fails, the module's own outputs contain NaN or inf, or a difference is above
            `tolerance`.
    """
    found = []
    for shape in shapes:
        where = f"{place} at batch {shape[0]}, {shape[2]}x{shape[3]}"
        found.append(Parity(shape, _differences(wrapper, infer, images(shape), where, smallest)))
        for name, value in found[-1].differences.items():
            if not value <= tolerance:
                fact = (
                    f"{name} differ from torch by {value:.1e} of the largest value, more than {tolerance:.0e}"
                )
                if value == float("inf"):
                    fact = f"{name} have another shape than torch's, or contain NaN or inf"
                raise ExportError(where, fact, "nothing was written")
    return tuple(found)


def _differences(
    wrapper: Wrapper, infer: Infer, images: Images, place: str, smallest: float
) -> dict[str, float]:
    expected = module_infer(wrapper)(images)
    if not all(np.isfinite(output).all() for output in expected):
        fact = "torch's own outputs contain NaN or inf"
        raise ExportError(place, fact, "check that the weights belong to this cfg and are not damaged")
    try:
        actual = infer(images)
    except Exception as error:  # each runtime has exception types of its own, without a public base
        raise ExportError(place, f"cannot run the graph ({error})", "nothing was written") from error
    pairs = zip(wrapper.outputs, actual, expected, strict=True)
    return {name: difference(found, wanted, smallest) for name, found, wanted in pairs}


def difference(
    actual: NDArray[np.float32], expected: NDArray[np.float32], smallest: float = SMALLEST_SCALE
) -> float:
    """Largest difference / largest value (at least `smallest`); infinite between different shapes."""
    if actual.shape != expected.shape:
        return float("inf")
    scale = max(float(np.abs(expected).max(initial=0.0)), smallest)
    return float(np.abs(actual - expected).max(initial=0.0)) / scale


if TYPE_CHECKING:
    from onnx import ModelProto


def onnx_infer(file: Path, outputs: Sequence[str] | None = None) -> Infer:
    """A callable that runs an ONNX file under onnxruntime.

    Args:
        file: is read now and not needed afterwards.
        outputs: names of the outputs, in this order; None for all.

    Raises:
        ExportError: onnxruntime cannot load the file.
        MissingPackageError: onnxruntime is missing.
    """
    onnxruntime = package("ONNX export", "onnxruntime")
    try:
        session = inference_session(onnxruntime, file)
    except Exception as error:  # its own types have no other public base
        fact = f"onnxruntime cannot load the graph ({error})"
        raise ExportError("ONNX export", fact, "nothing was written") from error

    def infer(images: Images) -> Outputs:
        return list(session.run(outputs, {"images": images}))

    return infer


def proto_infer(proto: "ModelProto", outputs: Sequence[str] | None = None) -> Infer:
    """A callable that runs a graph in memory; arguments and errors as for `onnx_infer`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(proto.SerializeToString())
        return onnx_infer(path, outputs)
