"""All labels of a list of images, read once and cached between runs.

Invariant: the cached index equals reading every label file; an entry is valid only while its label file keeps
its path, time stamp and size. The cache is in the user's cache folder, never beside the data, and only used
for long lists.
"""

import hashlib
import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import atomic_path
from .cache import FOLDER_NAME
from .labels import FIELDS, Labels, label_path, read_labels

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
