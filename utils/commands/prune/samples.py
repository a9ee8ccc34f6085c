"""Pictures for the page of a pruning run: which boxes were lost, and which gained."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ...darknet.model import Darknet
from ...data.dataset import DetectionDataset
from ...data.images import read_image
from ...data.loader import Loader
from ...detection.boxes import pairwise_iou, xywh_to_xyxy
from ...errors import DatasetError
from ...reporting.page import Box, Sample
from ..detector import Detector, Floats, Thresholds

_LONGEST_SIDE, _QUALITY = 640, 82  # pixels and JPEG quality of a sample
_LOOKED_AT = 16  # images among which the samples are chosen
_SAME_BOX = 0.5  # IoU from which two boxes are one
_SHOWN = Thresholds(confidence=0.25)
SAMPLES_NOTE = (
    f"Of the first {_LOOKED_AT} validation images those are shown where most boxes were lost or gained; "
    f"scores from {_SHOWN.confidence} on, the same box from an overlap (IoU) of {_SAME_BOX} on."
)


def samples(
    before: Darknet, after: Darknet, loader: Loader, names: Sequence[str], count: int = 4
) -> tuple[Sample, ...]:
    """The images on which the two networks differ most, as `SAMPLES_NOTE` says, in the order of the list.

    Args:
        before: the network as it was.
        after: the pruned one.
        loader: validation images with labels; images that cannot be read are passed over.
        names: class names.
        count: how many images at most.
    """
    dataset = loader.dataset
    detectors = [Detector(model, dataset.image_size, _SHOWN, dataset.letterbox) for model in (before, after)]
    found = []
    numbers = range(min(_LOOKED_AT, len(dataset.images)))
    for number in tqdm(numbers, desc="comparing boxes", unit="image", leave=False, disable=None):
        try:
            image = read_image(dataset.images[number])
        except DatasetError:
            continue
        rows = [_as_fractions(detector(image)[0], image) for detector in detectors]
        boxes = tuple(compared(rows[0], rows[1], _truths(dataset, number), names))
        found.append((number, Sample(dataset.images[number].name, _jpeg(image), image.shape[:2], boxes)))
    telling = sorted(found, key=lambda item: (-len(item[1].changes), -len(item[1].boxes)))
    return tuple(sample for _, sample in sorted(telling[:count], key=lambda item: item[0]))


def compared(before: Floats, after: Floats, truths: Floats, names: Sequence[str]) -> Iterator[Box]:
    """Tell which detections of one image both networks have.

    Args:
        before: (M, 6) xyxy as fractions of the image, score, class, best first.
        after: (N, 6) the same.
        truths: (T, 5) class, xyxy.
        names: class names.

    Yields:
        The boxes of `before`, kept or lost, then those of `after` that none of them claimed, gained. A box
        claims the one of its class that it overlaps most, the better score first.
    """
    overlaps = _overlaps(before, after)
    free = np.ones(len(after), dtype=np.bool_)
    for row, overlap in zip(before, overlaps, strict=True):
        overlap = overlap * free
        kept = bool(overlap.max(initial=0.0) >= _SAME_BOX)
        if kept:
            free[overlap.argmax()] = False
        yield _box(row, "kept" if kept else "lost", truths, names)
    yield from (_box(row, "gained", truths, names) for row in after[free])


def _overlaps(first: Floats, second: Floats) -> Floats:
    """(M, N) IoU of rows xyxy, score, class; 0 between classes."""
    iou = pairwise_iou(torch.from_numpy(first[:, :4]), torch.from_numpy(second[:, :4])).numpy()
    return iou * (first[:, None, 5] == second[:, 5])


def _box(row: Floats, kind: str, truths: Floats, names: Sequence[str]) -> Box:
    labelled = np.concatenate((truths[:, 1:], np.ones((len(truths), 1)), truths[:, :1]), axis=1)
    right = bool(_overlaps(row[None], labelled).max(initial=0.0) >= _SAME_BOX)
    left, top, right_edge, bottom = row[:4].clip(0, 1).tolist()
    return Box((left, top, right_edge, bottom), names[int(row[5])], float(row[4]), kind, right)


def _as_fractions(rows: Floats, image: NDArray[np.uint8]) -> Floats:
    height, width = image.shape[:2]
    return np.concatenate((rows[:, :4] / (width, height, width, height), rows[:, 4:]), axis=1)


def _truths(dataset: DetectionDataset, number: int) -> Floats:
    """(T, 5) class and xyxy as fractions of the image."""
    labels = torch.from_numpy(dataset.index.labels[number]).double()
    return torch.cat((labels[:, :1], xywh_to_xyxy(labels[:, 1:])), dim=1).numpy()


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    """An RGB image as a JPEG file, its longer side `_LONGEST_SIDE` pixels at most."""
    height, width = image.shape[:2]
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    smaller = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", smaller[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()
