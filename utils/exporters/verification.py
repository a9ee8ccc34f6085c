"""Verification of every exported file: the tolerance of each precision."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ExportError
from ..runtimes.runtime import Images
from .job import Exporting, Precision
from .parity import SMALLEST_SCALE, Infer, Parity, Shape, compare, module_infer


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
