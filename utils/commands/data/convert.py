"""The data commands: convert annotations to a Darknet data set, or download one first."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from ...data.annotations import Annotations, write_dataset
from ...data.coco_json import read_coco
from ...data.download import download, unpack
from ...data.listing import SPLITS, read_names
from ...data.oxford_hand import FOLDERS, read_hands
from ...data.voc import VOC_CLASSES, read_voc
from ...errors import ToolkitError
from ...options import add_options, from_arguments, option
from ..arguments import CommandOptions, Parser, next_command
from ..output import quoted, show

VOC_URL = "http://host.robots.ox.ac.uk/pascal/VOC"
# MD5 as torchvision and others publish them
VOC_ARCHIVES = {
    "2007": (
        ("voc2007/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
        ("voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
    ),
    "2012": (("voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"),),
}
# 2012's test labels are not public
VOC_SPLITS = {
    "2007": {"train": "trainval", "valid": "test"},
    "2012": {"train": "train", "valid": "val"},
}
HANDS_URL = "https://www.robots.ox.ac.uk/~vgg/data/hands/downloads"
HANDS_ARCHIVE = "hand_dataset.tar.gz"

CONVERT = """Convert COCO or Pascal VOC annotations to a Darknet data set; the images stay in place.

    python data/convert.py coco --json train2017.json --images train2017 --output data/coco
    python data/convert.py coco --json val2017.json --images val2017 --split valid --output data/coco
    python data/convert.py voc --root VOCdevkit/VOC2007 --set trainval --output data/voc
    python data/convert.py voc --root labelled --output data/mine --classes cat,dog

One call writes one list (--split); a second call adds another to the same folder. The folder contains links
to the images in JPEGImages, label files in labels, train.txt, valid.txt or test.txt, a .names and a .data
file, as Darknet reads them. Crowd regions (coco) and difficult objects (voc) are left out; boxes are clipped
to the image, and those without area are dropped and counted.
"""
GET_VOC = """Download Pascal VOC 2007 or 2012 as a Darknet data set.

    python data/get_voc.py
    python data/get_voc.py --year 2012 --output data/voc2012

2007: train is its trainval set, valid its test set; 2012: train and val, as its test labels are not public.
Run it again to resume an interrupted download; archives in DIR/download are reused. Checksums are verified.
Difficult objects are left out.
"""
GET_OXFORD_HAND = """Download the Oxford hand data set as a Darknet data set (one class, needs scipy).

    python data/get_oxford_hand.py
    python data/get_oxford_hand.py --output data/oxfordhand --copy

Its training, validation and test images become train, valid and test; the label is the upright box around the
four marked corners. Run it again to resume an interrupted download; an archive in DIR/download is reused.
"""


@dataclass(frozen=True)
class WritingOptions(CommandOptions):
    """How a data set is written."""

    copy: bool = option(False, "copy the images instead of linking to them")
    force: bool = option(False, "replace existing lists")


@dataclass(frozen=True)
class ConvertOptions(WritingOptions):
    """Options of `data convert`; see CONVERT."""

    format: str = option("coco", "format of the annotations", flags=("format",), choices=("coco", "voc"))
    json: Path | None = option(None, "coco: annotation file", Path, metavar="FILE")
    images: Path | None = option(None, "coco: folder of the images", Path, metavar="DIR")
    root: Path | None = option(None, "voc: folder with Annotations and JPEGImages", Path, metavar="DIR")
    set: str = option("train", "voc: name of the set, ImageSets/Main/SET.txt")
    difficult: bool = option(False, "voc: keep objects marked as difficult")
    split: str = option("train", "list to write", choices=SPLITS)
    classes: str | None = option(
        None, "classes to keep, in order: a,b,c or a .names file (default: all)", metavar="NAMES"
    )
    output: Path = option(Path(), "folder of the data set", Path, required=True, metavar="DIR")


@dataclass(frozen=True)
class VocOptions(WritingOptions):
    """Options of `data get-voc`; see GET_VOC."""

    year: str = option("2007", "2007 or 2012", choices=tuple(VOC_ARCHIVES))
    url: str = option(VOC_URL, "address of the folders voc2007 and voc2012 with the archives")
    output: Path | None = option(None, "folder (default: data/voc and the year)", Path, metavar="DIR")


@dataclass(frozen=True)
class HandsOptions(WritingOptions):
    """Options of `data get-oxford-hand`; see GET_OXFORD_HAND."""

    url: str = option(HANDS_URL, f"address of the folder with {HANDS_ARCHIVE}")
    output: Path = option(Path("data/oxfordhand"), "folder", Path, metavar="DIR")


def convert(argv: Sequence[str] | None = None) -> None:
    """Run `data convert`."""
    parser = Parser(CONVERT, "data convert")
    add_options(parser, ConvertOptions)
    options = from_arguments(ConvertOptions, parser.parse_args(argv))
    needed = ("json", "images") if options.format == "coco" else ("root",)
    missing = [f"--{name}" for name in needed if getattr(options, name) is None]
    if missing:
        parser.error(f"{options.format} needs {' and '.join(missing)}")
    run_conversion(options)


def get_voc(argv: Sequence[str] | None = None) -> None:
    """Run `data get-voc`."""
    parser = Parser(GET_VOC, "data get-voc")
    add_options(parser, VocOptions)
    run_voc(from_arguments(VocOptions, parser.parse_args(argv)))


def get_oxford_hand(argv: Sequence[str] | None = None) -> None:
    """Run `data get-oxford-hand`."""
    parser = Parser(GET_OXFORD_HAND, "data get-oxford-hand")
    add_options(parser, HandsOptions)
    run_hands(from_arguments(HandsOptions, parser.parse_args(argv)))


def run_conversion(options: ConvertOptions) -> None:
    """Convert annotations.

    Raises:
        ToolkitError: a file is missing or malformed, or the output exists.
    """
    classes = _classes(options.classes)
    if options.json is not None and options.images is not None and options.format == "coco":
        annotations = read_coco(options.json, options.images, classes)
    elif options.root is not None:
        with _bar("reading") as advance:
            annotations = read_voc(
                options.root, options.set, classes, difficult=options.difficult, progress=advance
            )
    else:
        raise ToolkitError(options.format, "annotations are missing", "give json and images, or root")
    data = _write(annotations, options.output, options.split, options)
    next_command(f"python doctor.py --data {quoted(data)}")


def run_voc(options: VocOptions) -> None:
    """Download and convert Pascal VOC.

    Raises:
        ToolkitError: an archive cannot be downloaded, or is damaged.
    """
    output = options.output or Path(f"data/voc{options.year}")
    source = output / "download"
    root = source / "VOCdevkit" / f"VOC{options.year}"
    for name, md5 in VOC_ARCHIVES[options.year]:
        _fetch(f"{options.url}/{name}", source, md5)
    for split, image_set in VOC_SPLITS[options.year].items():
        with _bar(f"reading {split}") as advance:
            annotations = read_voc(root, image_set, VOC_CLASSES, progress=advance)
        data = _write(annotations, output, split, options)
    next_command(f"python doctor.py --data {quoted(data)}")


def run_hands(options: HandsOptions) -> None:
    """Download and convert the Oxford hand data set.

    Raises:
        ToolkitError: the archive cannot be downloaded or is damaged, or scipy is missing.
    """
    source = options.output / "download"
    _fetch(f"{options.url}/{HANDS_ARCHIVE}", source, None)
    for split in FOLDERS:
        with _bar(f"reading {split}") as advance:
            annotations = read_hands(source / "hand_dataset", split, advance)
        data = _write(annotations, options.output, split, options)
    next_command(f"python doctor.py --data {quoted(data)}")


def _fetch(url: str, folder: Path, md5: str | None) -> None:
    archive = folder / url.rsplit("/", 1)[-1]
    with tqdm(desc=archive.name, unit="B", unit_scale=True, leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        download(url, archive, md5, progress)
    print(f"unpacking {archive}")
    unpack(archive, folder)


def _write(annotations: Annotations, output: Path, split: str, options: WritingOptions) -> Path:
    with _bar("writing", len(annotations.images)) as advance:
        ways = {"copy": options.copy, "force": options.force}
        data = write_dataset(annotations, output, split, **ways, progress=advance)
    counts = Counter(kind for image in annotations.images for kind, *_ in image.rows)
    table = Table()
    table.add_column("class")
    table.add_column("objects", justify="right")
    for number, name in enumerate(annotations.names):
        table.add_row(Text(name), str(counts[number]))
    show(f"{split}: {len(annotations.images)} images, {counts.total()} objects", table)
    empty = sum(not image.rows for image in annotations.images)
    if empty:
        print(f"{empty} images without objects")
    for reason, count in annotations.dropped.items():
        print(f"{count} {reason} left out")
    print(f"written: {data}")
    return data


@contextmanager
def _bar(label: str, total: int | None = None) -> Iterator[Callable[[], object]]:
    with tqdm(desc=label, total=total, unit="image", leave=False, disable=None) as bar:
        yield bar.update


def _classes(text: str | None) -> Sequence[str] | None:
    if text is None:
        return None
    if text.endswith(".names") or Path(text).is_file():
        return read_names(Path(text))
    return [name.strip() for name in text.split(",") if name.strip()]
