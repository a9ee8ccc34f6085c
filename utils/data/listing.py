"""Darknet's `.data`, `.names` and image list files.

Invariant: every path that leaves this module exists. A relative path is looked for beside the file that
names it, then beside the `.data` file, then in its parent folder (where Darknet's own `data/x.data` layout is
run), then in the working folder; backslashes count as slashes.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DatasetError

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class DataFile:
    """A `.data` file: class names and paths of the image lists.

    Attributes:
        path: the file itself.
        classes: number of classes, equal to len(names).
        names: class names, in class order.
        train: image list of the training split, None if not given; likewise `valid` and `test`.
        backup: folder for weights; need not exist.
    """

    path: Path
    classes: int
    names: tuple[str, ...]
    train: Path | None = None
    valid: Path | None = None
    test: Path | None = None
    backup: Path | None = None

    def image_list(self, split: str) -> "ImageList":
        """Read the image list of "train", "valid" or "test".

        Raises:
            DatasetError: the file names no list for this split, or the list cannot be used.
        """
        if split not in SPLITS:
            raise DatasetError(self.path, f"unknown split {split!r}", f"use one of {', '.join(SPLITS)}")
        path: Path | None = getattr(self, split)
        if path is None:
            raise DatasetError(self.path, f"`{split}=` is missing", "add a line that names an image list")
        folders = _search_folders(self.path)
        if not is_there(path):
            raise DatasetError(self.path, f"{split}={path} does not exist", _searched(folders))
        return read_image_list(path, search=folders)


@dataclass(frozen=True)
class ImageList:
    """The images of one split.

    Attributes:
        path: the list file.
        images: paths of the images, in the list's order.
        lines: for each image, its line number in the list, from 1.
        problems: one "file:line: fact" for each line that does not name an existing file; these are skipped.
    """

    path: Path
    images: tuple[Path, ...]
    lines: tuple[int, ...]
    problems: tuple[str, ...] = ()

    def spread(self, count: int) -> "ImageList":
        """At most `count` of the images, evenly spread over the list, in its order."""
        count = min(count, len(self))
        chosen = [index * len(self) // count for index in range(count)]
        images = tuple(self.images[index] for index in chosen)
        return ImageList(self.path, images, tuple(self.lines[index] for index in chosen), self.problems)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Path]:
        return iter(self.images)


def read_data_file(path: Path) -> DataFile:
    """Read a `.data` file and its `.names` file.

    Raises:
        DatasetError: a file or option is missing, an option is malformed, or the number of names is not the
            number of classes.
    """
    path = Path(path)
    options = _read_options(path)
    classes = _class_count(path, options)
    folders = _search_folders(path)
    if "names" not in options:
        raise DatasetError(path, "`names=` is missing", "add a line that names the file of class names")
    names_path = _find(options["names"], folders)
    if names_path is None:
        raise DatasetError(path, f"names={options['names']} does not exist", _searched(folders))
    names = read_names(names_path)
    if len(names) != classes:
        fact = f"has {len(names)} names, but {path} says classes={classes}"
        raise DatasetError(names_path, fact, "make them equal")
    lists: dict[str, Path] = {}
    for split in SPLITS:
        if split in options:
            # a missing one is reported when it is read: an evaluation needs no training list
            lists[split] = _find(options[split], folders) or Path(options[split])
    backup = Path(options["backup"]) if "backup" in options else None
    return DataFile(path, classes, names, backup=backup, **lists)


def read_names(path: Path) -> tuple[str, ...]:
    """Read a `.names` file: one class name a line; blank lines are ignored."""
    return tuple(line.strip() for line in read_text(path).splitlines() if line.strip())


def read_image_list(path: Path, search: Sequence[Path] = ()) -> ImageList:
    """Read a list of image paths, one a line.

    Args:
        path: the list file; paths in it may contain spaces.
        search: more folders for relative paths, tried after the list's own.

    Returns:
        The images that exist. Other lines are in `problems` and logged.

    Raises:
        DatasetError: the list is missing, empty, or none of its images exists.
    """
    path = Path(path)
    folders = list(dict.fromkeys([path.parent, *search, Path()]))
    images, lines, problems = [], [], []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        found = _find(name, folders)
        if found is None:
            problems.append(f"{path}:{number}: image {name} does not exist")
        else:
            images.append(found)
            lines.append(number)
    if not images:
        if problems:
            raise DatasetError(path, f"none of its {len(problems)} images exists", _searched(folders))
        raise DatasetError(path, "is empty", "list one image path a line")
    for problem in problems:
        logger.warning("%s; skipped", problem)
    return ImageList(path, tuple(images), tuple(lines), tuple(problems))


def read_text(path: Path) -> str:
    """Read a list, names or label file; a byte order mark is dropped, `\\r\\n` becomes `\\n`.

    Raises:
        DatasetError: the file is missing, a folder, unreadable or not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(path, "no such file", f"check the path, relative to {Path.cwd()}") from None
    except OSError as error:
        raise DatasetError(path, f"cannot be read ({error.strerror})", "give a readable text file") from error
    except UnicodeDecodeError as error:
        raise DatasetError(path, f"byte {error.start} is not UTF-8 text", "save the file as UTF-8") from error


def _read_options(path: Path) -> dict[str, str]:
    options: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not value:
            raise DatasetError(f"{path}:{number}", f"{line!r} is not `key = value`", "write key = value")
        # as in a cfg, the first of two equal keys counts (option_find)
        options.setdefault(key, value)
    return options


def _class_count(path: Path, options: dict[str, str]) -> int:
    text = options.get("classes")
    if text is None:
        raise DatasetError(path, "`classes=` is missing", "add the number of classes")
    if not text.isdecimal() or int(text) == 0:
        raise DatasetError(path, f"classes={text} is not a positive whole number", "use 1 or more")
    return int(text)


def _search_folders(data_file: Path) -> list[Path]:
    folder = data_file.absolute().parent
    return [data_file.parent, folder.parent, Path()]


def _find(name: str, folders: Sequence[Path]) -> Path | None:
    """The existing file that `name` means, or None."""
    spellings = [name] if "\\" not in name else [name, name.replace("\\", "/")]
    for spelling in spellings:
        for folder in folders:
            candidate = folder / spelling
            if is_there(candidate):
                return candidate
    return None


def is_there(path: Path) -> bool:
    """Whether a file exists; False for invalid names too."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def _searched(folders: Sequence[Path]) -> str:
    places = dict.fromkeys(str(folder.absolute()) for folder in folders)
    return f"relative paths are resolved in {', '.join(places)}"
