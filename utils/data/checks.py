"""Checks of a data set before training: its file, lists, labels and images.

Idea: loading skips what it cannot use; here the same is counted and named, so that it can be corrected first.
A check continues after an error, so that one run reports everything.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError, Finding, Severity
from .images import place, read_image
from .labels import FIELDS, TOLERANCE, LabelIndex, label_path, read_index
from .listing import SPLITS, DataFile, ImageList, read_data_file

# examples in a finding; `details` has all places
EXAMPLES = 3
_THREADS = 4


@dataclass(frozen=True)
class ImageFile:
    """Result of reading one image file: its size in pixels, or why it cannot be used, and a digest of it."""

    size: tuple[int, int] | None
    problem: str
    digest: bytes


@dataclass(frozen=True)
class SplitCheck:
    """Result of checking one split of a data set.

    Attributes:
        name: "train", "valid" or "test".
        images: those that exist, in the list's order.
        objects: (n, 5) all valid labels: class, then x, y, w, h in fractions of the image.
        image_of: (n,) number of the image of each object.
        files: image number -> result of reading it, for those that were read.
        findings: of this split.
        details: for each kind of finding, all its places.
    """

    name: str
    images: tuple[Path, ...]
    objects: NDArray[np.float32]
    image_of: NDArray[np.intp]
    files: Mapping[int, ImageFile]
    findings: tuple[Finding, ...]
    details: Mapping[str, tuple[str, ...]]

    def class_counts(self, classes: int) -> tuple[int, ...]:
        """Objects of each class."""
        return tuple(np.bincount(self.objects[:, 0].astype(np.intp), minlength=classes).tolist())

    def object_sizes(self, size: tuple[int, int], letterbox: bool) -> NDArray[np.float64]:
        """Width and height of objects in pixels of a network input of `size` (h, w), (m, 2).

        Stretched: all objects; with `letterbox`: those of images that were read, as their aspect is needed.
        """
        if not letterbox:
            return self.objects[:, 3:].astype(float) * [size[1], size[0]]
        sizes = []
        for number, file in self.files.items():
            if file.size is not None:
                placement = place(*file.size, size, letterbox=True)
                scale = [file.size[1] * placement.scale_x, file.size[0] * placement.scale_y]
                sizes.append(self.objects[self.image_of == number, 3:].astype(float) * scale)
        return np.concatenate(sizes) if sizes else np.zeros((0, 2))


@dataclass(frozen=True)
class DataCheck:
    """Result of `check_data`.

    Attributes:
        data: the `.data` file; None if it cannot be used.
        splits: those with a usable list, in the order of `SPLITS`.
        findings: all, including those of the splits.
    """

    data: DataFile | None
    splits: tuple[SplitCheck, ...]
    findings: tuple[Finding, ...]


@dataclass
class _Collector:
    """Findings of one split, while they are collected."""

    place: str
    findings: list[Finding] = field(default_factory=list)
    details: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, severity: Severity, fact: str, remedy: str = "", examples: Sequence[str] = ()) -> None:
        self.findings.append(Finding(severity, self.place, fact, remedy, tuple(examples)))

    def several(self, severity: Severity, kind: str, places: Sequence[str], remedy: str) -> None:
        """One finding about all `places`, with the first of them as examples."""
        if places:
            self.add(severity, f"{kind}: {len(places):,}", remedy, places[:EXAMPLES])
            self.details[kind] = tuple(places)


def check_data(
    path: Path, read_images: int = 5000, on_image: Callable[[], object] = lambda: None
) -> DataCheck:
    """Check a `.data` file and all files that it names.

    Args:
        path: the `.data` file.
        read_images: how many images of each split are read, evenly spread; all labels are always read.
        on_image: called after each image.
    """
    try:
        data = read_data_file(path)
    except DatasetError as error:
        return DataCheck(None, (), (Finding.of(error, str(path)),))
    findings, splits = _names(data), []
    for name in SPLITS:
        if getattr(data, name) is None:
            if name != "test":
                fact, remedy = f"has no {name}= line", f"add {name}= with the list of its images"
                findings.append(Finding("warning", str(path), fact, remedy))
            continue
        try:
            images = data.image_list(name)
        except DatasetError as error:
            findings.append(Finding.of(error, str(path)))
            continue
        splits.append(_check_split(data, name, images, read_images, on_image))
        findings += splits[-1].findings
    return DataCheck(data, tuple(splits), (*findings, *_across(data, splits)))


def _names(data: DataFile) -> list[Finding]:
    twice = [name for name, count in Counter(data.names).items() if count > 1]
    fact = f"the class names {', '.join(twice)} are not unique, so results cannot be distinguished"
    return [Finding("warning", str(data.path), fact, "give each class its own name")] if twice else []


def _check_split(
    data: DataFile, name: str, images: ImageList, read_images: int, on_image: Callable[[], object]
) -> SplitCheck:
    index = read_index(images.images, data.classes)
    counts = [len(labels) for labels in index.labels]
    objects = np.concatenate(index.labels).reshape(-1, FIELDS)
    image_of = np.repeat(np.arange(len(images)), counts)
    collector = _Collector(str(images.path))
    _check_list(collector, images)
    _check_labels(collector, images, index)
    _check_boxes(collector, images, objects, image_of)
    numbers = np.unique(np.linspace(0, len(images) - 1, min(read_images, len(images))).astype(int))
    files = _read_files(images, numbers.tolist(), on_image)
    broken = [file.problem for file in files.values() if file.problem]
    collector.several("warning", "images that cannot be read and are skipped", broken, "copy them again")
    if len(files) < len(images):
        collector.add("note", f"{len(files):,} of {len(images):,} images were read", "--images reads more")
    findings = tuple(collector.findings)
    return SplitCheck(name, images.images, objects, image_of, files, findings, collector.details)


def _check_list(collector: _Collector, images: ImageList) -> None:
    collector.several("warning", "lines that name no image", images.problems, "correct or remove them")
    seen = Counter(path.resolve() for path in images)
    twice = [str(path) for path, count in seen.items() if count > 1]
    collector.several("warning", "images listed more than once", twice, "list each once")


def _check_labels(collector: _Collector, images: ImageList, index: LabelIndex) -> None:
    remedy = "write `class x y w h`, classes from 0, the rest as fractions of the image"
    collector.several("error", "label lines that cannot be used and are skipped", index.problems, remedy)
    absent = [str(path) for path in images if not label_path(path).is_file()]
    if len(absent) == len(images):
        fact = f"none of its {len(images):,} images has a label file"
        remedy = f"put them where they are expected, the first at {label_path(images.images[0])}"
        collector.add("error", fact, remedy)
    else:
        remedy = "if an image really has no objects, add an empty file"
        collector.several("warning", "images without a label file, which count as empty", absent, remedy)
    empty = index.without_objects - len(absent)
    if empty > 0:
        collector.add("note", f"images with an empty label file: {empty:,}")


def _check_boxes(
    collector: _Collector, images: ImageList, objects: NDArray[np.float32], image_of: NDArray[np.intp]
) -> None:
    rows = np.column_stack((image_of, objects))
    _, first = np.unique(rows, axis=0, return_index=True)
    again = np.setdiff1d(np.arange(len(rows)), first)
    places = _label_places(images, image_of[again])
    collector.several("warning", "objects labelled twice", places, "remove the second line")
    low, high = objects[:, 1:3] - objects[:, 3:] / 2, objects[:, 1:3] + objects[:, 3:] / 2
    outside = ((low < -TOLERANCE) | (high > 1 + TOLERANCE)).any(1)
    places = _label_places(images, image_of[outside])
    remedy = "x and y are the centre, not a corner; clip boxes to the image"
    collector.several("warning", "boxes that reach out of their image", places, remedy)


def _label_places(images: ImageList, numbers: NDArray[np.intp]) -> list[str]:
    return [str(label_path(images.images[number])) for number in numbers.tolist()]


def _read_files(
    images: ImageList, numbers: Sequence[int], on_image: Callable[[], object]
) -> dict[int, ImageFile]:
    files = {}
    with ThreadPoolExecutor(_THREADS) as pool:  # decoding leaves the interpreter lock
        for number, file in zip(
            numbers, pool.map(_read_file, (images.images[n] for n in numbers)), strict=True
        ):
            files[number] = file
            on_image()
    return files


def _read_file(path: Path) -> ImageFile:
    try:
        digest = blake2b(path.read_bytes(), digest_size=16).digest()
        height, width = read_image(path).shape[:2]
    except (OSError, DatasetError) as error:
        return ImageFile(None, str(error), b"")
    return ImageFile((height, width), "", digest)


def _across(data: DataFile, splits: Sequence[SplitCheck]) -> list[Finding]:
    """Findings between splits: images in two of them, classes missing in one."""
    findings = []
    by_name = {split.name: split for split in splits}
    train = by_name.pop("train", None)
    if train is not None:
        findings += _absent_classes(data, train, "warning", "they cannot be learned; label some")
    for split in by_name.values():
        remedy = "their AP counts as 0 under the Darknet convention; use --style voc or coco"
        findings += _absent_classes(data, split, "note", remedy)
        if train is not None:
            findings += _shared_images(train, split)
    return findings


def _absent_classes(data: DataFile, split: SplitCheck, severity: Severity, remedy: str) -> list[Finding]:
    counts = split.class_counts(data.classes)
    absent = [name for name, count in zip(data.names, counts, strict=True) if count == 0]
    if not absent or len(split.objects) == 0:
        return []
    some = ", ".join(absent[: 2 * EXAMPLES]) + (", ..." if len(absent) > 2 * EXAMPLES else "")
    fact = f"{len(absent)} of {data.classes} classes never occur in {split.name}: {some}"
    return [Finding(severity, str(data.path), fact, remedy)]


def _shared_images(train: SplitCheck, other: SplitCheck) -> list[Finding]:
    known = {path.resolve() for path in train.images}
    contents = {file.digest for file in train.files.values()} - {b""}
    shared = [
        str(path)
        for number, path in enumerate(other.images)
        if path.resolve() in known or (number in other.files and other.files[number].digest in contents)
    ]
    collector = _Collector(f"train and {other.name}")
    remedy = f"results on {other.name} are too high; remove them from one of the two"
    collector.several("warning", "images in both splits", shared, remedy)
    return collector.findings
