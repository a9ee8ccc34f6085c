"""Annotated images of another format, and how they are written as a Darknet data set.

    OUT/JPEGImages/...  links to the images (or copies)     OUT/labels/...  a label file each
    OUT/train.txt, valid.txt, test.txt                      OUT/OUT.names, OUT/OUT.data

Darknet looks for the labels of .../JPEGImages/x.jpg in .../labels/x.txt, so the folder of the images is not
changed. Paths are absolute, since Darknet resolves relative ones in its working folder.
Invariant: `listing` and `labels` read the written boxes again, up to 1e-7.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DatasetError
from ..files import atomic_path, write_text
from .listing import SPLITS, read_data_file

Box = tuple[float, float, float, float]


@dataclass
class Annotated:
    """One image and its objects.

    Attributes:
        path: the image file.
        name: its path below JPEGImages.
        rows: class and x, y, w, h (centre and size) as fractions of the image.
    """

    path: Path
    name: Path
    rows: list[tuple[int, float, float, float, float]] = field(default_factory=list)


@dataclass
class Annotations:
    """A data set read from another format.

    Attributes:
        names: class names in order.
        images: its images.
        dropped: number of objects or images left out, by reason.
    """

    names: tuple[str, ...]
    images: list[Annotated]
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, image: Annotated, kind: int, box: Box, size: tuple[float, float]) -> None:
        """Add an object, clipped to the image; one without area is dropped.

        Args:
            image: one of `images`.
            kind: class number.
            box: left, top, right, bottom in pixels.
            size: width and height of the image.
        """
        left, right = (min(max(value, 0.0), size[0]) / size[0] for value in (box[0], box[2]))
        top, bottom = (min(max(value, 0.0), size[1]) / size[1] for value in (box[1], box[3]))
        if right <= left or bottom <= top:
            self.dropped["objects without area inside the image"] += 1
            return
        image.rows.append((kind, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top))


def choose_classes(found: Iterable[str], wanted: Sequence[str] | None, place: str) -> tuple[str, ...]:
    """Choose the class names: all that were found, or the wanted ones in their order.

    Raises:
        DatasetError: a wanted one does not occur, or no class was found.
    """
    known = tuple(dict.fromkeys(found))
    absent = [name for name in wanted or () if name not in known]
    if absent or not known:
        fact = f"has no class {', '.join(absent)}" if absent else "names no class"
        raise DatasetError(place, fact, f"it has {', '.join(known[:100]) or 'none'}")
    return tuple(wanted) if wanted else known


def write_dataset(
    annotations: Annotations,
    folder: Path,
    split: str,
    *,
    copy: bool = False,
    force: bool = False,
    progress: Callable[[], object] | None = None,
) -> Path:
    """Write one split of a data set; other splits are kept.

    Args:
        annotations: what to write.
        folder: of the data set.
        split: "train", "valid" or "test".
        copy: copy the images instead of linking to them.
        force: replace this split if it exists.
        progress: called after each image.

    Returns:
        The .data file.

    Raises:
        DatasetError: the split exists, or the folder has a data set with other classes.
    """
    folder = folder.absolute()
    data, names = folder / f"{folder.name}.data", folder / f"{folder.name}.names"
    listed = folder / f"{split}.txt"
    _refuse_clash(annotations.names, data, listed, force)
    targets = []
    for image in annotations.images:
        target = folder / "JPEGImages" / image.name
        _place(image.path.resolve(), target, copy)
        lines = (f"{kind} {x:.8f} {y:.8f} {w:.8f} {h:.8f}\n" for kind, x, y, w, h in image.rows)
        write_text((folder / "labels" / image.name).with_suffix(".txt"), "".join(lines))
        targets.append(target)
        if progress:
            progress()
    write_text(listed, "".join(f"{target}\n" for target in targets))
    write_text(names, "".join(f"{name}\n" for name in annotations.names))
    lists = [f"{name} = {folder / name}.txt\n" for name in SPLITS if (folder / f"{name}.txt").exists()]
    content = [f"classes = {len(annotations.names)}\n", *lists, f"names = {names}\n", "backup = weights\n"]
    write_text(data, "".join(content))
    return data


def _refuse_clash(names: Sequence[str], data: Path, listed: Path, force: bool) -> None:
    """Refuse to overwrite a list without `force`, or to join lists of different classes."""
    if listed.exists() and not force:
        remedy = "add --force to overwrite it, or choose another --output"
        raise DatasetError(listed, "exists already", remedy)
    if data.exists() and (before := read_data_file(data).names) != tuple(names):
        fact = f"has the classes {', '.join(before[:20])}, not {', '.join(names[:20])}"
        raise DatasetError(data, fact, "give --classes in its order, or another --output")


def _place(source: Path, target: Path, copy: bool) -> None:
    """Link or copy an image, replacing an old link or copy, but never the image itself."""
    if target.exists() and not target.is_symlink() and target.samefile(source):
        return
    with atomic_path(target) as temporary:
        if copy:
            shutil.copyfile(source, temporary)
            return
        try:
            temporary.symlink_to(source)
        except OSError:  # Windows without the right to make links
            shutil.copyfile(source, temporary)
