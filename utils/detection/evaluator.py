"""Evaluation under the Darknet, VOC and COCO conventions.

"darknet": the C program's `detector map`, where classes without ground truth contribute 0. "voc": the same
matching and area, averaged over the classes that occur. "coco": COCO's evaluation, by faster-coco-eval.

Invariant: the network is a callable from images to decoded boxes, so any detector can be evaluated; boxes are
compared as fractions of the original image, as in the C program.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data.images import Placement
from ..data.loader import Batch, Loader
from ..errors import DatasetError, ToolkitError
from .boxes import Suppression, suppress, xywh_to_xyxy
from .coco import CocoFigures, coco_figures
from .metrics import COCO_THRESHOLDS, Floats, ImageMatches, match_image, merge

logger = logging.getLogger(__name__)

STYLES = ("darknet", "voc", "coco")
# COCO's evaluation usually includes lower scores than the C program's
CONFIDENCES = {"darknet": 0.005, "voc": 0.005, "coco": 0.001}
# lowest score that counts for precision and recall in `detector map`
_SHOWN = 0.25

Predict = Callable[[Tensor], Tensor]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`; every value is a fraction 0..1 unless noted.

    Attributes:
        style: "darknet", "voc" or "coco".
        map50: mean AP at IoU 0.5.
        map50_95: mean AP over IoU 0.5, 0.55, .. 0.95.
        per_class: AP at IoU 0.5 of each class; 0 for a class without ground truth.
        truths: number of objects of each class.
        by_size: "coco" only: AP over IoU 0.5 .. 0.95 of objects below 32^2 pixels, up to 96^2, and larger;
            None if there is no object of that size.
        precision: share of the detections with score > 0.25 that are correct at IoU 0.5, over all classes.
        recall: share of the objects that these find.
        images: number of images evaluated.
        skipped: number of images that could not be read.
        without_objects: number of images without any object.
        images_per_second: of reading, network and suppression together.
    """

    style: str
    map50: float
    map50_95: float
    per_class: Mapping[str, float]
    truths: Mapping[str, int]
    by_size: Mapping[str, float | None] | None
    precision: float
    recall: float
    images: int
    skipped: int
    without_objects: int
    images_per_second: float

    def to_json(self) -> dict[str, Any]:
        """Convert to a dict of plain values, for a JSON file."""
        return asdict(self)


class ImageResult(NamedTuple):
    """Detections and ground truth of one image, boxes xyxy as fractions of the original image.

    Attributes:
        detections: (M, 6) xyxy, score, class.
        truths: (T, 5) class, xyxy.
        size: height and width of the original image in pixels.
    """

    detections: Floats
    truths: Floats
    size: tuple[int, int]


@dataclass(frozen=True)
class Scoring:
    """The convention of an evaluation, and how boxes become detections.

    Attributes:
        style: one of STYLES.
        specs: the heads, or a network; as in the C program, the last one sets the suppression, plain IoU
            without any.
        confidence: lowest score; None for the default of the style, see CONFIDENCES.
        overlap: see `suppress`.

    Raises:
        ToolkitError: the style is unknown.
    """

    style: str = "darknet"
    specs: Sequence[Suppression] = ()
    confidence: float | None = None
    overlap: float = 0.45

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ToolkitError(f"--style {self.style}", "unknown style", f"use one of {', '.join(STYLES)}")

    @property
    def least_score(self) -> float:
        """`confidence`, or the default of the style."""
        return CONFIDENCES[self.style] if self.confidence is None else self.confidence


DARKNET = Scoring()


def evaluate(
    predict: Predict,
    loader: Loader,
    names: Sequence[str],
    scoring: Scoring = DARKNET,
    *,
    progress: Callable[[int], object] | None = None,
    parts: int = 1,
    merge: Callable[[dict[int, "ImageResult"]], dict[int, "ImageResult"]] = dict,
) -> Evaluation:
    """Run a detector over a data set and compare its boxes with the labels.

    Args:
        predict: images (B, 3, H, W) in 0..1 -> decoded boxes (B, N, 5 + classes), see `decode_heads`.
        loader: the data set, not augmented.
        names: class names.
        scoring: convention and suppression; by default Darknet's, with plain IoU.
        progress: called after each batch, or part of one, with its number of images.
        parts: number of parts of a batch that are computed at once, one thread each; `predict` must allow it.
        merge: from the results of this process to those of all, by image number.

    Raises:
        DatasetError: no image could be read.
        ToolkitError: faster-coco-eval is missing.
    """
    detect = _detection(predict, scoring)
    start = time.perf_counter()
    results: dict[int, ImageResult] = {}
    for part in _at_once(detect, loader, parts):
        results |= part
        if progress is not None:
            progress(len(part))
    results = merge(results)
    seconds = time.perf_counter() - start
    if not results:
        raise DatasetError("evaluation", "no image of the data set could be read", "see the warnings above")
    ordered = [results[number] for number in sorted(results)]
    skipped, rate = len(loader.problems), len(ordered) / seconds
    return summarize(ordered, names, scoring.style, skipped=skipped, rate=rate)


def _detection(predict: Predict, scoring: Scoring) -> Callable[[Batch], dict[int, ImageResult]]:
    """A function from a batch to the results of its images, by number in the dataset."""
    head = scoring.specs[-1] if scoring.specs else None
    kind, beta = (head.nms_kind, head.beta_nms) if head is not None else ("default", 0.6)
    confidence, overlap = scoring.least_score, scoring.overlap

    def detect(batch: Batch) -> dict[int, ImageResult]:
        with torch.inference_mode():
            predictions = predict(batch.images).float()
            rows = range(len(batch))
            found = (_result(predictions[row], batch, row, confidence, overlap, kind, beta) for row in rows)
            return dict(zip(batch.numbers, found, strict=True))

    return detect


def _at_once(work: Callable[[Batch], Result], batches: Iterable[Batch], parts: int) -> Iterator[Result]:
    """Apply `work` to the parts of all batches; results in order.

    With threads, as torch computes without the interpreter lock: unlike the threads of one operator they do
    not wait for each other, and the next batch is read meanwhile.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(parts)
    try:
        for batch in batches:
            waiting.extend(pool.submit(work, part) for part in batch.split(parts))
            while len(waiting) > parts:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def summarize(
    results: Sequence[ImageResult], names: Sequence[str], style: str, skipped: int = 0, rate: float = 0.0
) -> Evaluation:
    """Summarize the results of all images; arguments as in `evaluate`, `rate` in images per second."""
    matches = merge([_match(result) for result in results], len(names))
    shown = matches.counts(_SHOWN)
    by_size = None
    counted = np.ones(len(names), bool) if style == "darknet" else matches.truths > 0
    if style == "coco":
        ap50, map50_95, by_size = _coco_figures(results, len(names))
    else:
        tables = np.array([matches.average_precisions(iou) for iou in COCO_THRESHOLDS])
        ap50, map50_95 = tables[0], _mean(tables[:, counted])
    return Evaluation(
        style=style,
        map50=_mean(ap50[counted]),
        map50_95=map50_95,
        per_class=dict(zip(names, ap50.tolist(), strict=True)),
        truths=dict(zip(names, matches.truths.tolist(), strict=True)),
        by_size=by_size,
        precision=shown.precision,
        recall=shown.recall,
        images=len(results),
        skipped=skipped,
        without_objects=sum(len(result.truths) == 0 for result in results),
        images_per_second=rate,
    )


def as_fractions(boxes: Tensor, placement: Placement, size: tuple[int, int]) -> Tensor:
    """Convert boxes xywh (..., 4) from pixels of the network input to fractions of the original (h, w)."""
    scale = boxes.new_tensor([placement.scale_x * size[1], placement.scale_y * size[0]])
    offset = boxes.new_tensor([placement.offset_x, placement.offset_y])
    return torch.cat(((boxes[..., :2] - offset) / scale, boxes[..., 2:4] / scale), dim=-1)


def _result(
    prediction: Tensor, batch: Batch, number: int, confidence: float, overlap: float, kind: str, beta: float
) -> ImageResult:
    """Suppress the predictions of one image; detections and ground truth as fractions of the original."""
    placement, size = batch.placements[number], batch.sizes[number]
    boxes = as_fractions(prediction[:, :4], placement, size)
    detections = suppress(torch.cat((boxes, prediction[:, 4:]), dim=1), confidence, overlap, kind, beta)
    targets = batch.targets[batch.targets[:, 0] == number, 1:]
    height, width = batch.images.shape[2:]
    pixels = targets[:, 1:] * targets.new_tensor([width, height, width, height])
    truths = torch.cat((targets[:, :1], xywh_to_xyxy(as_fractions(pixels, placement, size))), dim=1)
    return ImageResult(_array(detections), _array(truths), size)


def _match(result: ImageResult) -> ImageMatches:
    detections, truths = result.detections, result.truths
    kinds, truth_kinds = detections[:, 5].astype(np.int64), truths[:, 0].astype(np.int64)
    return match_image(detections[:, :4], detections[:, 4], kinds, truths[:, 1:], truth_kinds)


def _coco_figures(results: Sequence[ImageResult], classes: int) -> CocoFigures:
    """Results under the COCO convention, boxes in pixels; classes without ground truth get an AP of 0."""
    detections, truths = [], []
    for result in results:
        height, width = result.size
        pixels = np.array([width, height, width, height])
        detections.append(
            np.concatenate((result.detections[:, :4] * pixels, result.detections[:, 4:]), axis=1)
        )
        truths.append(np.concatenate((result.truths[:, :1], result.truths[:, 1:] * pixels), axis=1))
    figures = coco_figures(detections, truths, [result.size for result in results], classes)
    return figures._replace(ap50=np.nan_to_num(figures.ap50))


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0


def _array(values: Tensor) -> Floats:
    return values.cpu().numpy().astype(np.float64)
