"""Calibration for int8: the range of each tensor on real images, by minimum mean squared error.

Invariant: memory holds the tensors of one image and a histogram of each, whatever the number of images.

The largest value is not the best limit: with one outlier, few of the 127 levels would be left for the rest.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ExportError

BINS = 4096
LEVELS = 127
_CANDIDATES = 64


class Histogram:
    """Histogram of the absolute values of a tensor; its range doubles when needed, so one pass is enough."""

    def __init__(self) -> None:
        self.limit = 0.0
        self.counts: NDArray[np.float64] = np.zeros(BINS)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values of any shape.

        Raises:
            ExportError: they contain NaN or inf.
        """
        sizes = torch.from_numpy(values).abs().ravel()
        largest = float(sizes.max())
        if not math.isfinite(largest):
            raise ExportError("int8", "activations on the training images contain NaN or inf", "export fp32")
        if self.limit == 0:
            self.limit = largest
        while self.limit < largest:
            self.counts = np.concatenate((self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2)))
            self.limit *= 2
        if self.limit > 0:
            self.counts += torch.histc(sizes, BINS, 0, self.limit).numpy()

    def best_limit(self) -> float:
        """The limit with the smallest mean squared error of rounding to 127 levels and clipping."""
        values = (np.arange(BINS) + 0.5) * self.limit / BINS
        used = int(np.flatnonzero(self.counts).max(initial=0)) + 1
        limits = self.limit * used / BINS * np.linspace(1 / _CANDIDATES, 1, _CANDIDATES)
        errors = [float(self.counts @ (values - _rounded(values, limit)) ** 2) for limit in limits]
        return float(limits[int(np.argmin(errors))])


def _rounded(values: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    step = max(limit, 1e-30) / LEVELS
    return np.minimum(np.rint(values / step), LEVELS) * step


def best_limits(tensors: Iterable[Mapping[str, NDArray[np.float32]]]) -> dict[str, float]:
    """The limit of each tensor, given its values on one image after the other."""
    histograms: dict[str, Histogram] = {}
    for values in tensors:
        for name, value in values.items():
            histograms.setdefault(name, Histogram()).add(value)
    return {name: histogram.best_limit() for name, histogram in histograms.items()}
