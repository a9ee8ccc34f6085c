"""What passes as the same: the comparison that every exported file has to stand, by its precision."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from utils.export.job import Exporting, Precision
from utils.export.parity import SMALLEST_SCALE, Infer, Parity, Shape, compare
from utils.runtimes.runtime import Images


@dataclass(frozen=True)
class Bound:
    """Largest difference / largest value that passes, and the least that counts as the largest value."""

    tolerance: float
    smallest: float


BOUNDS: Mapping[Precision, Bound] = {
    "fp32": Bound(1e-4, SMALLEST_SCALE),  # float32 rounding stays near 1e-6
    # float16 has 11 bits; seen were 2e-3 for boxes, and scores 4e-4 off whatever their size
    "fp16": Bound(2e-2, 0.1),
    # int8 is to be judged by its mAP; this only finds a graph that is wrong
    "int8": Bound(1.0, 0.1),
}


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

    return compare(job.module, infer, job.shapes, place, bound.tolerance, bound.smallest, images)


def _real_images(job: Exporting, shape: Shape) -> Images:
    """The first images to calibrate on, brought to a shape."""
    batch = next(iter(job.calibration() if job.calibration else ()))
    chosen = torch.from_numpy(batch[np.arange(shape[0]) % len(batch)])
    return torch.nn.functional.interpolate(chosen, size=shape[2:], mode="bilinear").numpy()
