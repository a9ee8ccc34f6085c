"""Pascal VOC: Annotations/*.xml, JPEGImages/*.jpg, and the image sets in ImageSets/Main/<set>.txt.

Boxes are pixels counted from 1, both ends included (VOC development kit, section 4): left and top become one
less.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from ..errors import DatasetError
from .annotations import Annotated, Annotations, choose_classes
from .images import read_image
from .listing import read_text

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
# an annotation takes a few kilobytes; anything near this size is not one
MOST_CHARACTERS = 1_000_000


def read_voc(
    root: Path,
    image_set: str,
    classes: Sequence[str] | None = None,
    *,
    difficult: bool = False,
    progress: Callable[[], object] | None = None,
) -> Annotations:
    """Read one image set of a VOC folder.

    Args:
        root: folder with Annotations and JPEGImages, such as VOCdevkit/VOC2007.
        image_set: such as "trainval"; without a folder ImageSets all annotations are used.
        classes: names to keep, in the order wanted; None for VOC's twenty if no other name occurs, else those
            that occur, sorted.
        difficult: keep objects marked as difficult.
        progress: called after each image.

    Raises:
        DatasetError: a file is missing or malformed.
    """
    result = Annotations((), [])
    objects: list[tuple[Annotated, str, tuple[float, float, float, float], tuple[float, float]]] = []
    for name in _image_names(root, image_set):
        annotation = root / "Annotations" / f"{name}.xml"
        tree = _parse(annotation)
        image = _image_of(tree, root, name)
        if progress:
            progress()
        if image is None:
            result.dropped["images that do not exist"] += 1
            continue
        result.images.append(Annotated(image, Path(image.name)))
        size = _size(tree, image)
        for entry in tree.findall("object"):
            if not difficult and (entry.findtext("difficult") or "0").strip() == "1":
                result.dropped["difficult objects"] += 1
                continue
            kind = (entry.findtext("name") or "").strip()
            objects.append((result.images[-1], kind, _box(entry, annotation), size))
    if not result.images:
        raise DatasetError(root, f"none of the images of {image_set} exists", "correct --root")
    kinds = sorted({kind for _, kind, _, _ in objects})
    # a list may lack some of the twenty
    found = VOC_CLASSES if set(kinds) <= set(VOC_CLASSES) else kinds
    result.names = choose_classes(found, classes, str(root))
    for image_entry, kind, box, size in objects:
        if kind in result.names:
            result.add(image_entry, result.names.index(kind), box, size)
    return result


def _image_names(root: Path, image_set: str) -> list[str]:
    sets = root / "ImageSets" / "Main"
    if sets.is_dir():
        names = [
            line.split()[0] for line in read_text(sets / f"{image_set}.txt").splitlines() if line.split()
        ]
    else:
        names = sorted(path.stem for path in (root / "Annotations").glob("*.xml"))
    if not names:
        remedy = "give the folder with Annotations and JPEGImages as --root"
        raise DatasetError(root, "no annotation found", remedy)
    if any(Path(name).name != name for name in names):
        raise DatasetError(f"{sets / image_set}.txt", "some names are outside the folder", "correct them")
    return names


def _parse(path: Path) -> ElementTree.Element:
    text = read_text(path)
    # An annotation needs no declarations; entities can make XML explode.
    if len(text) > MOST_CHARACTERS or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DatasetError(path, "is not a plain annotation", "give Pascal VOC's xml files")
    try:
        return ElementTree.fromstring(text.encode())
    except (ElementTree.ParseError, ValueError) as error:
        raise DatasetError(path, f"is not valid XML ({error})", "correct the file") from None


def _image_of(tree: ElementTree.Element, root: Path, name: str) -> Path | None:
    given = Path((tree.findtext("filename") or "").strip().replace("\\", "/")).name
    candidates = [given, *(f"{name}{suffix}" for suffix in (".jpg", ".jpeg", ".png"))]
    paths = (root / "JPEGImages" / candidate for candidate in candidates if candidate)
    return next((path for path in paths if path.is_file()), None)


def _size(tree: ElementTree.Element, image: Path) -> tuple[float, float]:
    """(width, height) as written, or that of the image if the written one is unusable."""
    try:
        width, height = (float(tree.findtext(f"size/{key}") or 0) for key in ("width", "height"))
    except ValueError:
        width = height = 0
    if width > 0 and height > 0:
        return width, height
    rows, columns = read_image(image).shape[:2]
    return float(columns), float(rows)


def _box(entry: ElementTree.Element, path: Path) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = (
            float(entry.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError:
        name = entry.findtext("name")
        raise DatasetError(path, f"object {name!r} has no bndbox of four numbers", "correct it") from None
    return left - 1, top - 1, right, bottom
