"""What counts as the same, at the bound of each precision."""

import numpy as np
import pytest

from tests.exporters.networks import SIZE, SPECS, TwoHeads, noise
from utils.errors import ExportError
from utils.exporters.job import Exporting, Precision, exporting, verify
from utils.exporters.parity import Infer, module_infer


def job_of(precision: Precision) -> Exporting:
    return exporting(TwoHeads(), SPECS, SIZE, precision=precision, calibration=noise)


def scaled(job: Exporting, factor: float) -> Infer:
    """The network's own outputs, all larger by a factor."""
    return lambda images: [factor * output for output in module_infer(job.module)(images)]


@pytest.mark.parametrize(
    ("precision", "just", "too_much"), [("fp32", 5e-5, 2e-4), ("fp16", 1e-2, 4e-2), ("int8", 1.4, 1.6)]
)
def test_differences_pass_up_to_the_bound(precision: Precision, just: float, too_much: float) -> None:
    job = job_of(precision)
    found = verify(job, scaled(job, 1 + just), "file")[0].differences
    assert found["boxes"] == pytest.approx(just, rel=1e-2)
    with pytest.raises(ExportError, match=rf"file {precision}.*boxes"):
        verify(job, scaled(job, 1 + too_much), "file")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_int8_that_is_not_finite_is_refused(value: float) -> None:
    job = job_of("int8")
    with pytest.raises(ExportError, match="boxes"):
        verify(job, lambda images: [value + 0 * out for out in module_infer(job.module)(images)], "file")


def test_int8_with_a_single_wild_box_passes() -> None:
    job = job_of("int8")

    def infer(images: np.ndarray) -> list[np.ndarray]:
        boxes, scores = module_infer(job.module)(images)
        boxes[0, 0, 2] += 1.5 * np.abs(boxes).max()
        return [boxes, scores]

    assert verify(job, infer, "file")[0].differences["boxes"] > 1
