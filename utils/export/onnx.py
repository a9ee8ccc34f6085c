"""A network as an ONNX file: images in, boxes and scores out, and proof that it computes the same.

The graph ends before non-maximum suppression, and boxes and scores are two outputs: in one tensor, the boxes'
pixels would set the range of an int8 quantisation and leave nothing of the scores.

Invariant: a file exists under the given name only if onnx.checker accepts it and onnxruntime's outputs stay
within `TOLERANCE` of torch's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.detection.boxes import xywh_to_xyxy
from utils.detection.decode import HeadSpec, decode_heads
from utils.errors import ExportError
from utils.export.tracing import trace_onnx
from utils.files import atomic_path
from utils.pruning.sharing import shared_copy
from utils.runtimes.onnxruntime import inference_session

TOLERANCE = 1e-4  # largest difference / largest value; float32 rounding stays near 1e-6
# Scores of random images may all be next to 0, where onnxruntime's sigmoid is good to 1e-7, absolute.
SMALLEST_SCALE = 1e-2
OUTPUTS = ("boxes", "scores")
DYNAMIC_AXES = {
    "images": {0: "batch", 2: "height", 3: "width"},
    "boxes": {0: "batch", 1: "count"},
    "scores": {0: "batch", 1: "count"},
}

Shape = tuple[int, int, int, int]  # batch, channels, height, width


class BoxesAndScores(nn.Module):
    """A detector with its decoding, as two plain outputs.

    Args:
        model: images (B, 3, H, W) in 0..1 -> raw heads (B, A, h, w, 5 + classes).
        specs: one for each head.
    """

    def __init__(self, model: nn.Module, specs: Sequence[HeadSpec]) -> None:
        super().__init__()
        self.model = model
        self.specs = tuple(specs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) as xyxy in pixels of `images`; scores (B, N, classes), objectness times class."""
        decoded = decode_heads(self.model(images), self.specs)
        return xywh_to_xyxy(decoded[..., :4]), decoded[..., 4:5] * decoded[..., 5:]


@dataclass(frozen=True)
class Parity:
    """How far onnxruntime is from torch on images of one shape: largest difference / largest value."""

    shape: Shape
    boxes: float
    scores: float


@dataclass(frozen=True)
class OnnxExport:
    """A written ONNX file and the inputs on which it was compared."""

    path: Path
    parities: tuple[Parity, ...]


def export_onnx(
    model: nn.Module,
    specs: Sequence[HeadSpec],
    path: Path,
    image_size: tuple[int, int],
    *,
    channels: int = 3,
    dynamic: bool = False,
    size_step: int = 0,
    opset: int = 17,
    metadata: Mapping[str, str] | None = None,
) -> OnnxExport:
    """Write `model` with its decoding to `path`; batch norms are folded into their convolutions on the way.

    Args:
        model: a detector with raw heads; is left as it is.
        specs: one for each of its heads.
        path: of the ONNX file.
        image_size: (height, width) of the input in pixels.
        channels: of the input.
        dynamic: leave batch, height and width open; otherwise they are 1 and `image_size`.
        size_step: pixels by which sizes may differ; 0 for the largest stride of a head.
        opset: of the ONNX operators.
        metadata: texts to store in the file.

    Returns:
        The path and the parity on one image and, if dynamic, on a batch of 3 of another size.

    Raises:
        ExportError: a package is missing, or the file would not compute what the network does.
    """
    if not specs:
        raise ExportError(f"{path}: the network has no detection head, so there are no boxes to export")
    onnx = _package("onnx")
    exported = BoxesAndScores(shared_copy(model).cpu().float(), specs).eval()
    shapes = [(1, channels, *image_size)]
    if dynamic:
        shapes.append(
            (3, channels, *_other_size(image_size, size_step or max(spec.stride for spec in specs)))
        )
    with atomic_path(path) as temporary:
        _trace(exported, shapes[0], temporary, dynamic, opset)
        if metadata:
            _add_metadata(onnx, temporary, metadata)
        _check(onnx, temporary, path)
        return OnnxExport(path, verify_onnx(exported, temporary, shapes))


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        fact = f"the package {name} is missing"
        raise ExportError(f"ONNX export: {fact}; python -m pip install {name}") from error


def _trace(exported: nn.Module, shape: Shape, file: Path, dynamic: bool, opset: int) -> None:
    example = torch.zeros(shape)
    with torch.no_grad():
        exported(example)  # a size that does not fit is the model's own error; traced, models do not check
    # Whether a size became a constant, comparing on a second size finds.
    axes = DYNAMIC_AXES if dynamic else None
    trace_onnx(exported, example, file, opset, output_names=list(OUTPUTS), dynamic_axes=axes)


def _add_metadata(onnx: ModuleType, file: Path, metadata: Mapping[str, str]) -> None:
    proto = onnx.load(file)
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.save(proto, file)


def _other_size(image_size: tuple[int, int], stride: int) -> tuple[int, int]:
    height, width = image_size
    return (height - stride if height > stride else height + stride), width + stride


def _check(onnx: ModuleType, file: Path, path: Path) -> None:
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path}: onnx.checker refuses the graph; nothing was written: {error}") from error


def verify_onnx(exported: nn.Module, file: Path, shapes: Sequence[Shape]) -> tuple[Parity, ...]:
    """Compare an ONNX file under onnxruntime with the module it came from, on random images.

    Args:
        exported: the module in evaluation mode, on the CPU; has the two outputs of `BoxesAndScores`.
        file: the ONNX file.
        shapes: of the images of each comparison.

    Returns:
        A Parity for each shape.

    Raises:
        ExportError: onnxruntime cannot run the file, or a difference is above `TOLERANCE`.
    """
    session = _session(file)
    return tuple(_compare(exported, session, shape) for shape in shapes)


def _session(file: Path) -> Any:
    onnxruntime = _package("onnxruntime")
    try:
        return inference_session(onnxruntime, file)
    except Exception as error:  # its own types have no other public base
        raise ExportError(f"onnxruntime cannot load the graph; nothing was written: {error}") from error


def _compare(exported: nn.Module, session: Any, shape: Shape) -> Parity:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = [output.numpy() for output in exported(images)]
    place = f"onnxruntime at batch {shape[0]}, {shape[2]}x{shape[3]}"
    if not all(np.isfinite(output).all() for output in expected):
        raise ExportError(f"{place}: torch's own outputs are not finite; the weights are broken or foreign")
    try:
        actual = session.run(list(OUTPUTS), {"images": images.numpy()})
    except Exception as error:  # as above
        raise ExportError(f"{place} cannot run the graph; nothing was written: {error}") from error
    differences = [_difference(*pair) for pair in zip(actual, expected, strict=True)]
    for name, difference in zip(OUTPUTS, differences, strict=True):
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{place}: {name} differ from torch by {difference:.1e} of the largest value, more than "
                f"{TOLERANCE:.0e}; nothing was written"
            )
    return Parity(shape, *differences)


def _difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference / largest value (at least `SMALLEST_SCALE`); infinite between different shapes."""
    if actual.shape != expected.shape:
        return float("inf")
    scale = max(float(np.abs(expected).max(initial=0.0)), SMALLEST_SCALE)
    return float(np.abs(actual - expected).max(initial=0.0)) / scale
