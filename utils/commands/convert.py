"""The commands that make Darknet data sets of others: convert what lies there, or fetch it first."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from utils.commands.arguments import Parser, next_command
from utils.commands.results import quoted
from utils.commands.tables import show
from utils.data.annotations import Annotations, write_dataset
from utils.data.coco_json import read_coco
from utils.data.download import download, unpack
from utils.data.hands import FOLDERS, read_hands
from utils.data.listing import SPLITS, read_names
from utils.data.voc import VOC_CLASSES, read_voc

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


def convert_parser(manual: str | None) -> Parser:
    """The command line of data/convert.py; `manual` is its help text."""
    parser = Parser(manual)
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


def voc_parser(manual: str | None) -> Parser:
    """The command line of data/get_voc.py."""
    parser = Parser(manual)
    parser.add_argument("--year", choices=VOC_ARCHIVES, default="2007", help="2007, or 2012")
    parser.add_argument("--url", default=VOC_URL, help="where voc2007/ and voc2012/ with the archives are")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder (default: data/voc and the year)")
    _add_output(parser)
    return parser


def hands_parser(manual: str | None) -> Parser:
    """The command line of data/get_oxford_hand.py."""
    parser = Parser(manual)
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
        convert_parser(None).error(f"{args.format} needs {' and '.join(absent)}")
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
