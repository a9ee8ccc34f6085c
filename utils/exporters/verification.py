"""What passes as the same: the comparison that every exported file has to stand, by its precision."""

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
    """Largest difference / largest value that passes, and the least that counts as the largest value."""

    tolerance: float
    smallest: float


BOUNDS: Mapping[Precision, Bound] = {
    "fp32": Bound(1e-4, SMALLEST_SCALE),  # float32 rounding stays near 1e-6
    # float16 has 11 bits; seen were 2e-3 for boxes, and scores 4e-4 off whatever their size
    "fp16": Bound(2e-2, 0.1),
    "int8": Bound(float(np.finfo("f4").max), 0.1),  # what 8 bits do to a single box says little
}
# Root mean square of int8's differences / of the values: zeros would be 1 away. It only finds a graph that is
# wrong: how good an int8 file is, mAP says.
FARTHEST = 1.5


def verify(job: Exporting, infer: Infer, place: str) -> tuple[Parity, ...]:
    """Compare a file with the network of its job, at each of the job's shapes.

    Noise is nothing that the ranges of int8 are made for: int8 is compared on images of its calibration.

    Args:
        job: whose precision is that of the file.
        infer: runs the file.
        place: what runs it, for messages.

    Raises:
        ExportError: the file computes something else, or cannot run.
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
            fact = f"{name} are {away:.0%} away from torch's in the mean, more than {FARTHEST:.0%}"
            raise ExportError(place, fact, "leave sections in float, nothing was written")


def _root_mean_square(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def _real_images(job: Exporting, shape: Shape) -> Images:
    """The first images to calibrate on, brought to a shape."""
    batch = next(iter(job.calibration() if job.calibration else ()))
    chosen = torch.from_numpy(batch[np.arange(shape[0]) % len(batch)])
    return torch.nn.functional.interpolate(chosen, size=shape[2:], mode="bilinear").numpy()
