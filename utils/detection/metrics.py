"""Average precision as in the C program's `detector map`.

Invariant: results depend only on scores, matches and the number of ground truths; a ground truth is matched
by at most one detection, that with the highest score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())


@dataclass(frozen=True)
class ImageMatches:
    """The detections of one image, and the ground truth that each would match.

    Attributes:
        scores: (D,).
        classes: (D,) class numbers.
        overlaps: (D,) largest IoU with a ground truth of the same class in the image, 0 without one.
        claims: (D,) number of that ground truth in the image, meaningless where `overlaps` is 0.
        truth_classes: (T,) class of each ground truth.
    """

    scores: Floats
    classes: NDArray[np.int64]
    overlaps: Floats
    claims: NDArray[np.int64]
    truth_classes: NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """Correct and wrong detections above a score at an IoU threshold, over all classes."""

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def precision(self) -> float:
        """Share of the detections that are correct, 0 without any."""
        return self.true_positives / max(1, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the ground truths that are found, 0 without any."""
        return self.true_positives / max(1, self.true_positives + self.false_negatives)


@dataclass(frozen=True)
class Matches:
    """The detections of a data set, best score first.

    Attributes:
        scores: (D,).
        classes: (D,).
        overlaps: (D,) as in ImageMatches.
        claims: (D,) number of the matched ground truth over all images.
        truths: (classes,) number of ground truths of each class.
    """

    scores: Floats
    classes: NDArray[np.int64]
    overlaps: Floats
    claims: NDArray[np.int64]
    truths: NDArray[np.int64]

    def true_positives(self, threshold: float) -> NDArray[np.bool_]:
        """Which detections (D,) are the first to match a ground truth with IoU > threshold."""
        right = np.zeros(len(self.scores), bool)
        claimers = np.flatnonzero(self.overlaps > threshold)
        first = np.unique(self.claims[claimers], return_index=True)[1]
        right[claimers[first]] = True
        return right

    def counts(self, score: float, threshold: float = 0.5) -> Counts:
        """Count correct and wrong detections with a score above `score`."""
        right = self.true_positives(threshold)[self.scores > score]
        found = int(right.sum())
        return Counts(found, len(right) - found, int(self.truths.sum()) - found)

    def average_precisions(self, threshold: float = 0.5, points: int = 0) -> Floats:
        """AP of each class (classes,), 0 without ground truth; `points` as in `average_precision`."""
        right = self.true_positives(threshold)
        order = self.classes.argsort(kind="stable")
        bounds = np.searchsorted(self.classes[order], np.arange(len(self.truths) + 1))
        return np.array(
            [
                average_precision(right[order[low:high]], int(count), points)
                for low, high, count in zip(bounds[:-1], bounds[1:], self.truths, strict=True)
            ]
        )


def match_image(
    boxes: Floats,
    scores: Floats,
    classes: NDArray[np.int64],
    truths: Floats,
    truth_classes: NDArray[np.int64],
) -> ImageMatches:
    """Find for each detection the ground truth of its class with the largest IoU, matched by others or not.

    Args:
        boxes: (D, 4) xyxy.
        scores: (D,).
        classes: (D,).
        truths: (T, 4) xyxy in the same unit.
        truth_classes: (T,).
    """
    if not len(truths) or not len(boxes):
        nothing = np.zeros(len(boxes))
        return ImageMatches(scores, classes, nothing, nothing.astype(np.int64), truth_classes)
    overlap = _pairwise_iou(boxes, truths) * (classes[:, None] == truth_classes)
    claims = overlap.argmax(1)
    return ImageMatches(scores, classes, overlap[np.arange(len(boxes)), claims], claims, truth_classes)


def merge(images: Sequence[ImageMatches], classes: int) -> Matches:
    """Merge the matches of all images, best score first; equal scores stay in the order of images."""
    offsets = np.cumsum([0, *(len(image.truth_classes) for image in images)])
    scores = _joined([image.scores for image in images], np.float64)
    order = np.argsort(-scores, kind="stable")
    claims = _joined(
        [image.claims + offset for image, offset in zip(images, offsets, strict=False)], np.int64
    )
    truth_classes = _joined([image.truth_classes for image in images], np.int64)
    return Matches(
        scores=scores[order],
        classes=_joined([image.classes for image in images], np.int64)[order],
        overlaps=_joined([image.overlaps for image in images], np.float64)[order],
        claims=claims[order],
        truths=np.bincount(truth_classes, minlength=classes),
    )


def average_precision(right: NDArray[np.bool_], truths: int, points: int = 0) -> float:
    """AP of one class.

    Args:
        right: (D,) whether each detection is a true positive, best score first.
        truths: number of ground truths; 0 gives an AP of 0.
        points: 0 for the area under the monotone envelope of precision over recall (PASCAL VOC 2010); N for
            the mean over recall k / (N - 1) of the best precision at that recall or more (11: VOC 2007).

    >>> average_precision(np.array([True, False, True]), truths=2)
    0.8333333333333333
    """
    if truths == 0 or not right.any():
        return 0.0
    found = np.cumsum(right)
    recall = found / truths
    precision = found / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if points == 0:
        return float((np.diff(recall, prepend=0.0) * envelope).sum())
    # a recall that is met exactly counts, despite the rounding of k / (N - 1)
    at = np.searchsorted(recall, np.linspace(0, 1, points) - 1e-12)
    return float(np.append(envelope, 0.0)[at].mean())


def _pairwise_iou(first: Floats, second: Floats) -> Floats:
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    shared = (high - low).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _joined(arrays: Sequence[NDArray], dtype: type) -> NDArray:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)
