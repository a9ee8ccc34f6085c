"""The commands that make Darknet data sets of others: convert what lies there, or fetch it first."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from ..arguments import Parser, next_command
from ..results import quoted
from ..tables import show

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

CONVERT = """Make a Darknet data set of COCO or Pascal VOC annotations; the images stay where they are.

    python data/convert.py coco --json train2017.json --images train2017 --output data/coco
    python data/convert.py coco --json val2017.json --images val2017 --split valid --output data/coco
    python data/convert.py voc --root VOCdevkit/VOC2007 --set trainval --output data/voc
    python data/convert.py voc --root labelled --output data/mine --classes cat,dog

One call makes one list (--split); a second call adds another to the same folder. What appears in it: links
to the images in JPEGImages, label files in labels, train.txt and its like, a .names and a .data file, all as
Darknet wants them. Crowd regions (coco) and difficult objects (voc) are left out; boxes are cut at the
image's border, and those without area dropped and counted.
"""
GET_VOC = """Fetch Pascal VOC 2007 or 2012 and make a Darknet data set of it.

    python data/get_voc.py
    python data/get_voc.py --year 2012 --output data/voc2012

2007: train is its trainval set, valid its test set; 2012: train and val, as its test labels are not public.
A download that broke off is continued by calling again; archives that lie in DIR/download already are used.
Checksums are verified. Difficult objects are left out.
"""
GET_OXFORD_HAND = """Download the Oxford hand data set as a Darknet data set (one class, needs scipy).

    python data/get_oxford_hand.py
    python data/get_oxford_hand.py --output data/oxfordhand --copy

Its training, validation and test images become train, valid and test; the upright box around the four marked
corners becomes the label. A download that broke off is continued by calling again; an archive that lies in
DIR/download already is used.
"""


def convert(argv: Sequence[str] | None = None) -> None:
    """Run `data convert`."""
    run_conversion(convert_parser().parse_args(argv))


def get_voc(argv: Sequence[str] | None = None) -> None:
    """Run `data get-voc`."""
    run_voc(voc_parser().parse_args(argv))


def get_oxford_hand(argv: Sequence[str] | None = None) -> None:
    """Run `data get-oxford-hand`."""
    run_hands(hands_parser().parse_args(argv))


def convert_parser() -> Parser:
    """The command line of data/convert.py."""
    parser = Parser(CONVERT, "data convert")
    parser.add_argument("format", choices=("coco", "voc"), help="what the annotations are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="coco: the annotation file")
    parser.add_argument("--images", type=Path, metavar="DIR", help="coco: the folder of its images")
    parser.add_argument("--root", type=Path, metavar="DIR", help="voc: holds Annotations and JPEGImages")
    parser.add_argument("--set", default="train", help="voc: which ImageSets/Main/SET.txt")
    parser.add_argument("--difficult", action="store_true", help="voc: keep objects marked as difficult")
    parser.add_argument("--split", choices=SPLITS, default="train", help="which list it becomes")
    classes = "those to keep, in order: a,b,c or a .names file (default: all)"
    parser.add_argument("--classes", metavar="NAMES", help=classes)
    _add_output(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the data set's own folder")
    return parser


def voc_parser() -> Parser:
    """The command line of data/get_voc.py."""
    parser = Parser(GET_VOC, "data get-voc")
    parser.add_argument("--year", choices=VOC_ARCHIVES, default="2007", help="2007, or 2012")
    parser.add_argument("--url", default=VOC_URL, help="where voc2007/ and voc2012/ with the archives are")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder (default: data/voc and the year)")
    _add_output(parser)
    return parser


def hands_parser() -> Parser:
    """The command line of data/get_oxford_hand.py."""
    parser = Parser(GET_OXFORD_HAND, "data get-oxford-hand")
    parser.add_argument("--url", default=HANDS_URL, help=f"where {HANDS_ARCHIVE} is")
    parser.add_argument("--output", type=Path, default=Path("data/oxfordhand"), metavar="DIR", help="folder")
    _add_output(parser)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--copy", action="store_true", help="copy the images instead of linking to them")
    parser.add_argument("--force", action="store_true", help="replace lists that are there")


def run_conversion(args: argparse.Namespace) -> None:
    """Convert as the command line of data/convert.py says.

    Raises:
        ToolkitError: a file is missing or malformed, or the output is there already.
    """
    needed = ("json", "images") if args.format == "coco" else ("root",)
    absent = [f"--{name}" for name in needed if getattr(args, name) is None]
    if absent:
        convert_parser().error(f"{args.format} needs {' and '.join(absent)}")
    classes = _classes(args.classes)
    if args.format == "coco":
        annotations = read_coco(args.json, args.images, classes)
    else:
        with _bar("reading") as advance:
            annotations = read_voc(args.root, args.set, classes, difficult=args.difficult, progress=advance)
    data = _write(annotations, args.output, args.split, args)
    next_command(f"python doctor.py --data {quoted(data)}")


def run_voc(args: argparse.Namespace) -> None:
    """Fetch and convert Pascal VOC, see data/get_voc.py.

    Raises:
        ToolkitError: an archive cannot be had, or is damaged.
    """
    output = args.output or Path(f"data/voc{args.year}")
    source = output / "download"
    root = source / "VOCdevkit" / f"VOC{args.year}"
    for name, md5 in VOC_ARCHIVES[args.year]:
        _fetch(f"{args.url}/{name}", source, md5)
    for split, image_set in VOC_SPLITS[args.year].items():
        with _bar(f"reading {split}") as advance:
            annotations = read_voc(root, image_set, VOC_CLASSES, progress=advance)
        data = _write(annotations, output, split, args)
    next_command(f"python doctor.py --data {quoted(data)}")


def run_hands(args: argparse.Namespace) -> None:
    """Fetch and convert the Oxford hands, see data/get_oxford_hand.py.

    Raises:
        ToolkitError: the archive cannot be had, or is damaged, or scipy is missing.
    """
    source = args.output / "download"
    _fetch(f"{args.url}/{HANDS_ARCHIVE}", source, None)
    for split in FOLDERS:
        with _bar(f"reading {split}") as advance:
            annotations = read_hands(source / "hand_dataset", split, advance)
        data = _write(annotations, args.output, split, args)
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


def _write(annotations: Annotations, output: Path, split: str, args: argparse.Namespace) -> Path:
    with _bar("writing", len(annotations.images)) as advance:
        data = write_dataset(annotations, output, split, copy=args.copy, force=args.force, progress=advance)
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
