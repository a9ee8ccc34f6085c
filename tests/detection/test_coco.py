"""COCO's figures against pycocotools, on the same detections."""

import contextlib
import io

import numpy as np
import pytest

from utils.detection.coco import coco_figures

CLASSES = 4
SIZES = [(480, 640), (200, 300), (333, 77), (1000, 1200)] * 6


def scenes(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Detections (score, class) around truths of all sizes, with misses, doubles and false ones."""
    rng = np.random.default_rng(seed)
    detections, truths = [], []
    for height, width in SIZES:
        count = rng.integers(0, 8)
        corner = rng.uniform(0, 0.6, (count, 2)) * (width, height)
        side = rng.uniform(0.01, 0.4, (count, 2)) * (width, height)
        kinds = rng.integers(0, CLASSES - 1, (count, 1))  # the last class never occurs
        truths.append(np.concatenate((kinds, corner, corner + side), axis=1))
        found = np.repeat(truths[-1], rng.integers(0, 3, count), axis=0)
        moved = found[:, 1:] + rng.normal(0, 0.08, (len(found), 4)) * np.tile(found[:, 3:] - found[:, 1:3], 2)
        rows = np.concatenate((moved, rng.uniform(0, 1, (len(found), 1)), found[:, :1]), axis=1)
        stray = rng.uniform(0, 0.5, (3, 2)) * (width, height)
        strays = np.concatenate((stray, stray + 20, rng.uniform(0, 1, (3, 1)), rng.integers(0, 4, (3, 1))), 1)
        rows = np.concatenate((rows, strays))
        detections.append(rows[(rows[:, 2:4] > rows[:, :2]).all(1)])
    return detections, truths


def pycocotools_figures(detections: list[np.ndarray], truths: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Precisions (IoU, recall, class, area) at 100 detections; AP, AP50, AP75, and of the three sizes."""
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    images = [{"id": n, "height": h, "width": w} for n, (h, w) in enumerate(SIZES)]
    annotations = [
        {
            "image_id": n,
            "category_id": int(k),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
        }
        for n, rows in enumerate(truths)
        for k, x1, y1, x2, y2 in rows.tolist()
    ]
    annotations = [{"id": n, "iscrowd": 0, **entry} for n, entry in enumerate(annotations, start=1)]
    results = [
        {"image_id": n, "category_id": int(k), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for n, rows in enumerate(detections)
        for x1, y1, x2, y2, score, k in rows.tolist()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {"images": images, "annotations": annotations, "info": {}}
        truth.dataset["categories"] = [{"id": k, "name": str(k)} for k in range(CLASSES)]
        truth.createIndex()
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.eval["precision"][..., -1], evaluation.stats[:6]


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_pycocotools(seed):
    detections, truths = scenes(seed)
    precision, stats = pycocotools_figures(detections, truths)
    figures = coco_figures(detections, truths, SIZES, CLASSES)
    assert figures.map50_95 == pytest.approx(stats[0], abs=1e-9)
    assert 0.05 < figures.map50_95 < 0.9
    assert np.nanmean(figures.ap50) == pytest.approx(stats[1], abs=1e-9)
    found = [figures.by_size[name] for name in ("small", "medium", "large")]
    assert found == pytest.approx(stats[3:], abs=1e-9)
    for kind in range(CLASSES - 1):
        assert figures.ap50[kind] == pytest.approx(precision[0, :, kind, 0].mean(), abs=1e-9)
    assert np.isnan(figures.ap50[CLASSES - 1])
