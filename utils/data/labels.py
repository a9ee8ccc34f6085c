"""Darknet label files: one `class x y w h` line for each object, relative to the image.

Invariant: the labels returned by `read_labels` are valid; invalid lines are in `problems` with file and line.
"""

import hashlib
import logging
import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError
from ..files import atomic_path
from .cache import FOLDER_NAME
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


logger = logging.getLogger(__name__)

# a label file takes about 50 microseconds to read: below this number a cache is not worth a file
CACHED_FROM = 2000
_ABSENT = (-1, -1)


@dataclass(frozen=True)
class LabelIndex:
    """Labels of a list of images, in its order.

    Attributes:
        labels: for each image its (n, 5) float32 array, see `Labels`.
        problems: malformed lines of all label files, "file:line: fact".
        without_file: number of images without a label file.
        without_objects: number of images without an object, including those without a file.
    """

    labels: tuple[NDArray[np.float32], ...]
    problems: tuple[str, ...]
    without_file: int
    without_objects: int


def read_index(images: Sequence[Path], classes: int, cached_from: int = CACHED_FROM) -> LabelIndex:
    """Read the labels of all images, from the cache where it is valid.

    Args:
        images: image paths.
        classes: number of classes, for `read_labels`.
        cached_from: smallest number of images for which the cache is used.
    """
    paths = [label_path(image) for image in images]
    stamps = [_stamp(path) for path in paths]
    cache = cache_path(paths, classes) if len(images) >= cached_from else None
    known = _read_cache(cache, stamps) if cache is not None else {}
    entries = [
        known[number] if number in known else read_labels(path, classes) for number, path in enumerate(paths)
    ]
    if cache is not None and len(known) < len(entries):
        _write_cache(cache, stamps, entries)
    return LabelIndex(
        labels=tuple(entry.array for entry in entries),
        problems=tuple(problem for entry in entries for problem in entry.problems),
        without_file=sum(stamp == _ABSENT for stamp in stamps),
        without_objects=sum(len(entry.array) == 0 for entry in entries),
    )


def cache_path(labels: Sequence[Path], classes: int) -> Path:
    """The cache file for these label files: in $XDG_CACHE_HOME or ~/.cache."""
    key = "\n".join([str(classes), *(str(path.absolute()) for path in labels)])
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / FOLDER_NAME / f"labels-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return _ABSENT
    return status.st_mtime_ns, status.st_size


def _read_cache(cache: Path, stamps: Sequence[tuple[int, int]]) -> dict[int, Labels]:
    """Valid entries of the cache by image number; empty if it cannot be read."""
    try:
        with np.load(cache, allow_pickle=False) as stored:
            same = (stored["stamps"] == np.array(stamps, np.int64)).all(1)
            arrays = np.split(stored["rows"], np.cumsum(stored["counts"])[:-1])
            problems: dict[int, list[str]] = {}
            for number, problem in zip(stored["problem_of"], stored["problems"], strict=True):
                problems.setdefault(int(number), []).append(str(problem))
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.info("%s: label cache is unusable (%s) and is rebuilt", cache, error)
        return {}
    return {
        number: Labels(array, tuple(problems.get(number, ())))
        for number, array in enumerate(arrays)
        if same[number]
    }


def _write_cache(cache: Path, stamps: Sequence[tuple[int, int]], entries: Sequence[Labels]) -> None:
    reported = [(number, problem) for number, entry in enumerate(entries) for problem in entry.problems]
    try:
        with atomic_path(cache) as temporary:
            np.savez(
                temporary,
                stamps=np.array(stamps, np.int64),
                rows=np.concatenate([entry.array for entry in entries]).reshape(-1, FIELDS),
                counts=np.array([len(entry.array) for entry in entries], np.int64),
                problem_of=np.array([number for number, _ in reported], np.int64),
                problems=np.array([problem for _, problem in reported], np.str_),
            )
    except OSError as error:
        logger.info("%s: labels are not cached (%s)", cache, error)
