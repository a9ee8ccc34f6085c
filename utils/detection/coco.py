"""Average precision under the COCO convention, computed by faster-coco-eval.

Invariant: the results are those of the COCO evaluation (101 recall points, at most 100 detections an image,
objects by area); a class or size without ground truth is excluded from every mean.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ToolkitError

Floats = NDArray[np.float64]
SIZES = ("small", "medium", "large")


class CocoFigures(NamedTuple):
    """Results of a data set, all in 0..1.

    Attributes:
        ap50: (classes,) AP at IoU 0.5 of each class, NaN for a class without ground truth.
        map50_95: mean AP over IoU 0.5 .. 0.95 and classes.
        by_size: the same for small, medium and large objects; None if there are none.
    """

    ap50: Floats
    map50_95: float
    by_size: dict[str, float | None]


def coco_figures(
    detections: Sequence[Floats], truths: Sequence[Floats], sizes: Sequence[tuple[int, int]], classes: int
) -> CocoFigures:
    """Evaluate all images.

    Args:
        detections: for each image (M, 6): xyxy in pixels, score, class.
        truths: for each image (T, 5): class, xyxy in pixels.
        sizes: height and width of each image.
        classes: number of classes.

    Raises:
        ToolkitError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        remedy = "pip install faster-coco-eval"
        raise ToolkitError("--style coco", "needs faster-coco-eval, which is missing", remedy) from error
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it logs every step
    truth = COCO(_truth_set(truths, sizes, classes))
    found = truth.loadRes(_detection_rows(detections))
    evaluator = COCOeval_faster(truth, found, iouType="bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    # (IoU thresholds, recalls, classes, areas: all small medium large, detections: 1 10 100); -1: no truth
    precision = np.asarray(evaluator.eval["precision"])[..., -1]
    precision = np.where(precision < 0, np.nan, precision)
    by_size = {name: _mean(precision[..., number]) for number, name in enumerate(SIZES, start=1)}
    return CocoFigures(precision[0, :, :, 0].mean(0), _mean(precision[..., 0]) or 0.0, by_size)


def _truth_set(
    truths: Sequence[Floats], sizes: Sequence[tuple[int, int]], classes: int
) -> dict[str, list[dict[str, Any]]]:
    images = [
        {"id": number, "height": height, "width": width}
        for number, (height, width) in enumerate(sizes, start=1)
    ]
    annotations: list[dict[str, Any]] = []
    for number, rows in enumerate(truths, start=1):
        for kind, left, top, right, bottom in rows.tolist():
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(kind),
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": kind, "name": str(kind)} for kind in range(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _detection_rows(detections: Sequence[Floats]) -> Floats:
    """(D, 7): image, left, top, width, height, score, class."""
    rows = [np.zeros((0, 7))]
    for number, found in enumerate(detections, start=1):
        image = np.full((len(found), 1), float(number))
        rows.append(np.concatenate((image, found[:, :2], found[:, 2:4] - found[:, :2], found[:, 4:]), axis=1))
    return np.concatenate(rows)


def _mean(precision: Floats) -> float | None:
    known = precision[~np.isnan(precision)]
    return float(known.mean()) if known.size else None
