"""Darknet label files: one `class x y w h` line for each object, relative to the image.

Invariant: the labels returned by `read_labels` are valid; invalid lines are in `problems` with file and line.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError
from .listing import read_text

FIELDS = 5
# annotation tools round outwards: a side or a centre may leave the image by this share of it
TOLERANCE = 0.01
_COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017")


@dataclass(frozen=True)
class Labels:
    """The objects of one image.

    Attributes:
        array: (n, 5) float32: class, then x, y, w, h (centre and size) as fractions of the image.
        problems: one "file:line: fact" for each line that was skipped.
    """

    array: NDArray[np.float32]
    problems: tuple[str, ...] = ()


def label_path(image: Path) -> Path:
    """Path of the label file of an image: beside it, or in the `labels` twin of its `images` folder.

    Darknet (replace_image_to_label) takes the twin for .../JPEGImages/ and for .../images/val2017/ and its
    like, and the image's own folder otherwise. Both places are tried, Darknet's first, so that the common
    .../images/ + .../labels/ layout works too. If neither exists, Darknet's is returned.

    >>> label_path(Path("/x/JPEGImages/a.jpg")).as_posix()
    '/x/labels/a.txt'
    >>> label_path(Path("/x/a.jpg")).as_posix()
    '/x/a.txt'
    """
    beside = image.with_suffix(".txt")
    twin, is_darknets = _twin(beside)
    if twin is None:
        return beside
    first, second = (twin, beside) if is_darknets else (beside, twin)
    return second if not first.is_file() and second.is_file() else first


def read_labels(path: Path, classes: int) -> Labels:
    """Read a label file; malformed lines are skipped and reported.

    Args:
        path: the label file; a missing one means no objects, as in Darknet.
        classes: number of classes; larger class numbers are malformed.
    """
    if not path.is_file():
        return Labels(np.zeros((0, FIELDS), np.float32))
    try:
        text = read_text(path)
    except DatasetError as error:
        return Labels(np.zeros((0, FIELDS), np.float32), (str(error),))
    rows, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            rows.append(_parse(words, classes))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    return Labels(np.array(rows, np.float32).reshape(-1, FIELDS), tuple(problems))


def _parse(words: list[str], classes: int) -> list[float]:
    if len(words) != FIELDS:
        raise ValueError(f"{len(words)} fields instead of `class x y w h`")
    try:
        row = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{' '.join(words)!r} is not five numbers") from None
    if not all(math.isfinite(value) for value in row):
        raise ValueError(f"{' '.join(words)!r} has a value that is not finite")
    if row[0] != int(row[0]) or not 0 <= row[0] < classes:
        raise ValueError(f"class {words[0]} is out of range 0 .. {classes - 1}")
    if min(row[3:]) <= 0:
        raise ValueError(f"size {words[3]} x {words[4]} is empty")
    if min(row[1:]) < -TOLERANCE or max(row[1:]) > 1 + TOLERANCE:
        box = " ".join(words[1:])
        raise ValueError(f"box {box} is outside the image; give fractions of its size")
    return row


def _twin(beside: Path) -> tuple[Path | None, bool]:
    """The path in the `labels` folder, or None; and whether Darknet looks there."""
    parts = list(beside.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] in ("images", "JPEGImages"):
            is_darknets = parts[index] == "JPEGImages" or parts[index + 1] in _COCO_FOLDERS
            return Path(*parts[:index], "labels", *parts[index + 1 :]), is_darknets
    return None, False
