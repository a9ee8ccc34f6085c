"""Export jobs and their results, the same for every format."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..detection.decode import HeadSpec
from ..errors import ExportError
from ..pruning.layers import shared_copy
from ..runtimes.runtime import Images
from .parity import SMALLEST_SCALE, Infer, Parity, Shape, compare, module_infer
from .tracing import BoxesAndScores, RawHeads, Wrapper

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
# loss of mAP@0.5, as a fraction, above which a warning is given and --int8-skip auto continues
ALLOWED_LOSS = 0.01


def _no_onnx(precision: Precision) -> Path:
    raise ExportError(f"ONNX {precision}", "no ONNX file available for this export", "set Exporting.onnx")


def _silent(items: Sequence[int], label: str) -> Iterable[int]:  # noqa: ARG001 - a bar shows it
    return items


Because = tuple[str, str]  # why something is refused, and what to do instead


@dataclass(frozen=True)
class Limits:
    """Limits of a format, known before any work is done.

    Attributes:
        format: for messages.
        refused: precisions that it is not offered in.
        fixed: given where batch and size cannot be left open.
    """

    format: str
    refused: Mapping[Precision, Because] = field(default_factory=dict)
    fixed: Because | None = None

    def check(self, precision: Precision, is_open: bool) -> None:
        """Refuse what the format cannot do.

        Args:
            precision: of the file.
            is_open: whether batch or size are left open.

        Raises:
            ExportError: with the reason and what to do instead.
        """
        if precision in self.refused:
            raise ExportError(f"{self.format} {precision}", *self.refused[precision])
        if self.fixed and is_open:
            raise ExportError(self.format, *self.fixed)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a network on a data set.

    Attributes:
        before: mAP@0.5 of the network itself, in float32, 0..1.
        measure: from a callable that returns boxes and scores to its mAP@0.5, 0..1.
    """

    before: float
    measure: Callable[[Infer], float]


@dataclass(frozen=True)
class Exporting:
    """A network that is ready to be exported; see `exporting`.

    Attributes:
        module: in evaluation mode, on the CPU, in float32: images (B, C, H, W), RGB in 0..1, -> `outputs`.
        specs: one for each head.
        image_size: (height, width) of the input in pixels.
        channels: of the input.
        dynamic_batch: make the batch dynamic; otherwise it is 1.
        dynamic_size: make height and width dynamic; otherwise they are `image_size`.
        size_step: image sizes are multiples of this many pixels.
        opset: of the ONNX operators.
        precision: of the file; inputs and outputs are float32 in any.
        metadata: texts to store in the file or beside it.
        onnx: a verified ONNX file of this network in a precision, for formats that are made from one.
        calibration: batches of images (B, C, H, W) to find int8 ranges on; None without a data set.
        accuracy: mAP before, and how to measure it after; None where nothing is measured.
        int8_skip: numbers of the sections that stay in float in int8, or "auto".
        suppress: whether an ONNX file includes the NMS.
        confidence: minimum score, and
        overlap: maximum overlap (IoU) of two boxes of a class, with `suppress`.
        targets: GPUs to build for, such as "SM86"; empty for the format's own choice.
        progress: wraps an iterable, under a label, to show the progress.
    """

    module: Wrapper
    specs: tuple[HeadSpec, ...]
    image_size: tuple[int, int]
    channels: int = 3
    dynamic_batch: bool = False
    dynamic_size: bool = False
    size_step: int = 32
    opset: int = 17
    precision: Precision = "fp32"
    metadata: Mapping[str, str] = field(default_factory=dict)
    onnx: Callable[[Precision], Path] = _no_onnx
    calibration: Callable[[], Iterable[Images]] | None = None
    accuracy: Accuracy | None = None
    int8_skip: tuple[int, ...] | Literal["auto"] = ()
    suppress: bool = False
    confidence: float = 0.25
    overlap: float = 0.45
    targets: tuple[str, ...] = ()
    progress: Callable[[Sequence[int], str], Iterable[int]] = _silent

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes at which a file is compared: two that differ in the dynamic dimensions, otherwise one."""
        first = (1, self.channels, *self.image_size)
        batch = 3 if self.dynamic_batch else 1
        size = other_size(self.image_size, self.size_step) if self.dynamic_size else self.image_size
        second = (batch, self.channels, *size)
        return (first,) if second == first else (first, second)


@dataclass(frozen=True)
class Exported:
    """A file that was written and verified.

    Attributes:
        paths: the file to load, then those that belong to it.
        format: as on the command line.
        precision: of its weights and arithmetic.
        parities: differences from torch at each of the job's shapes; empty where it cannot run here.
        infer: runs it; None where it cannot run here.
        accuracy: mAP@0.5 of the file, 0..1, where it was measured.
        note: a remark for the user; may be empty.
    """

    paths: tuple[Path, ...]
    format: str
    precision: Precision
    parities: tuple[Parity, ...] = ()
    infer: Infer | None = None
    accuracy: float | None = None
    note: str = ""


def exporting(
    model: nn.Module,
    specs: Sequence[HeadSpec],
    image_size: tuple[int, int],
    *,
    raw_heads: bool = False,
    size_step: int = 0,
    **options: Any,
) -> Exporting:
    """Get a detector ready to be exported.

    Args:
        model: images (B, C, H, W) in 0..1 -> raw heads; not changed.
        specs: one for each of its heads.
        image_size: (height, width) of the input in pixels.
        raw_heads: the outputs are the raw heads instead of boxes and scores.
        size_step: image sizes are multiples of this many pixels; 0 for the largest stride of a head.
        options: other attributes of `Exporting`.

    Raises:
        ExportError: the network has no head.
    """
    if not specs:
        raise ExportError("export", "the network has no detection head", "give a detector")
    copy = shared_copy(model).cpu().float()
    wrapper: Wrapper = RawHeads(copy, len(specs)) if raw_heads else BoxesAndScores(copy, specs)
    step = size_step or max(spec.stride for spec in specs)
    return Exporting(wrapper.eval(), tuple(specs), image_size, size_step=step, **options)


def other_size(image_size: tuple[int, int], step: int) -> tuple[int, int]:
    """A (height, width) that differs in both by one step.

    >>> other_size((416, 320), 32)
    (384, 352)
    """
    height, width = image_size
    return (height - step if height > step else height + step), width + step


@dataclass(frozen=True)
class Bound:
    """Maximum of largest difference / largest value, and a lower bound of the largest value."""

    tolerance: float
    smallest: float


BOUNDS: Mapping[Precision, Bound] = {
    "fp32": Bound(1e-4, SMALLEST_SCALE),  # float32 rounding stays near 1e-6
    # float16 has 11 bits; measured: 2e-3 for boxes, and 4e-4 for scores of any size
    "fp16": Bound(2e-2, 0.1),
    "int8": Bound(float(np.finfo("f4").max), 0.1),  # with 8 bits a single box is not meaningful
}
# Root mean square of int8's differences / of the values: an output of zeros would have 1. It only detects a
# wrong graph: the quality of an int8 file is measured by mAP.
FARTHEST = 1.5


def verify(job: Exporting, infer: Infer, place: str) -> tuple[Parity, ...]:
    """Compare a file with the network of its job, at each of the job's shapes.

    int8 is compared on calibration images, since its ranges are not made for noise.

    Args:
        job: of the file, with its precision.
        infer: runs the file.
        place: name of what runs it, for messages.

    Raises:
        ExportError: the outputs differ, or the file cannot run.
    """
    bound, place = BOUNDS[job.precision], f"{place} {job.precision}"
    if job.precision != "int8":
        return compare(job.module, infer, job.shapes, place, bound.tolerance, bound.smallest)

    def images(shape: Shape) -> Images:
        return _real_images(job, shape)

    parities = compare(job.module, infer, job.shapes, place, bound.tolerance, bound.smallest, images)
    _require_near(job, infer, images(job.shapes[0]), place)
    return parities


def _require_near(job: Exporting, infer: Infer, images: Images, place: str) -> None:
    outputs = zip(job.module.outputs, infer(images), module_infer(job.module)(images), strict=True)
    for name, actual, expected in outputs:
        away = _root_mean_square(actual - expected) / max(_root_mean_square(expected), SMALLEST_SCALE)
        if not away <= FARTHEST:
            fact = f"{name} differ from torch's by {away:.0%} (root mean square), more than {FARTHEST:.0%}"
            raise ExportError(place, fact, "nothing was written; leave sections in float")


def _root_mean_square(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def _real_images(job: Exporting, shape: Shape) -> Images:
    """The first calibration images, resized to a shape."""
    batch = next(iter(job.calibration() if job.calibration else ()))
    chosen = torch.from_numpy(batch[np.arange(shape[0]) % len(batch)])
    return torch.nn.functional.interpolate(chosen, size=shape[2:], mode="bilinear").numpy()
