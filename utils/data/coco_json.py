"""COCO annotation files: `images`, `categories` and `annotations` with bbox = left, top, width, height."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DatasetError
from .annotations import Annotated, Annotations, choose_classes
from .listing import read_text


def read_coco(path: Path, images: Path, classes: Sequence[str] | None = None) -> Annotations:
    """Read a COCO JSON file.

    Crowd regions are skipped, as COCO's own evaluation does not count them; categories are numbered in the
    order of their ids, without gaps.

    Args:
        path: such as instances_val2017.json.
        images: the folder that the file names are in.
        classes: names to keep, in the order wanted; None for all.

    Raises:
        DatasetError: not a COCO file, an unknown image or category is named, or no image exists.
    """
    content = _load(path)
    categories = sorted(_entries(content, "categories", path), key=lambda entry: entry["id"])
    names = choose_classes((str(entry["name"]) for entry in categories), classes, str(path))
    numbers = {entry["id"]: names.index(entry["name"]) for entry in categories if entry["name"] in names}
    known = {entry["id"] for entry in categories}
    result = Annotations(names, [])
    sizes: dict[Any, tuple[float, float]] = {}
    found: dict[Any, Annotated] = {}
    for entry in _entries(content, "images", path):
        name = _inside(entry, path)
        sizes[entry["id"]] = (float(entry["width"]), float(entry["height"]))
        if min(sizes[entry["id"]]) <= 0:
            raise DatasetError(path, f"image {name} has no positive size", "correct its width and height")
        if (images / name).is_file():
            found[entry["id"]] = Annotated(images / name, name)
        else:
            result.dropped["images that do not exist"] += 1
    result.images += found.values()
    if not found:
        raise DatasetError(path, f"none of its images is in {images}", "correct --images")
    for entry in _entries(content, "annotations", path):
        image, category = entry["image_id"], entry["category_id"]
        if image not in sizes or category not in known:
            what = f"image {image}" if image not in sizes else f"category {category}"
            raise DatasetError(path, f"annotation {entry.get('id')} names an unknown {what}", "correct it")
        if entry.get("iscrowd"):
            result.dropped["crowd regions"] += 1
        elif category in numbers and image in found:
            left, top, width, height = map(float, entry["bbox"])
            box = (left, top, left + width, top + height)
            result.add(found[image], numbers[category], box, sizes[image])
    return result


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(path, f"not valid JSON ({error})", "give COCO's annotation file") from None
    if not isinstance(content, dict):
        raise DatasetError(path, "is not a JSON object", "give COCO's annotation file")
    return content


_FIELDS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "images": {"id": (int, str), "file_name": str, "width": (int, float), "height": (int, float)},
    "categories": {"id": int, "name": str},
    "annotations": {"image_id": (int, str), "category_id": int, "bbox": list},
}


def _entries(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise DatasetError(path, f"has no list {key!r}", "give COCO's annotation file")
    for number, entry in enumerate(entries):
        for name, kind in _FIELDS[key].items():
            if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
                raise DatasetError(path, f"{key}[{number}] has no usable {name!r}", "correct it")
        if key == "annotations" and not _is_box(entry["bbox"]):
            raise DatasetError(path, f"annotations[{number}] bbox is not four numbers", "correct it")
    return entries


def _is_box(values: list[Any]) -> bool:
    return len(values) == 4 and all(isinstance(value, int | float) and abs(value) < 1e9 for value in values)


def _inside(entry: dict[str, Any], path: Path) -> Path:
    """The image's name, which may contain folders but must stay inside the data set."""
    name = PurePosixPath(entry["file_name"].replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or not name.name:
        raise DatasetError(path, f"image {entry['file_name']!r} is outside the folder", "correct its name")
    return Path(name)
