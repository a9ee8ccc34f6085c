"""Which score climbs highest on real networks without sparse training, and what does recalibration add?

    python benchmarks/ladders.py --networks ../shared/weights --data ../shared/data/coco_mini/coco_mini.data
    python benchmarks/ladders.py ... --only "yolo-fastest*"

`ladder.py` for each network, into runs/ladders; the rows of all go to benchmarks/ladders.csv, and tables and
picture to docs/ladders.md. What is there is not computed again. MobileNetV2-YOLOv3-Nano knows the 20 classes
of Pascal VOC: for it, labels of the same images are renamed to these classes and all others left out.
"""

import argparse
import fnmatch
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.data.labels import label_path
from utils.data.listing import DataFile, read_data_file, read_names
from utils.files import write_text

OUTPUT = ROOT / "runs" / "ladders"
SCORES = ("gamma", "l1", "taylor", "random")
RUNGS = ("0.05", "0.1", "0.2", "0.3", "0.4", "0.5", "0.7", "0.9")
# Pascal VOC's names that COCO has in another spelling; Darknet's own coco.names has them as they are
VOC_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


@dataclass(frozen=True)
class Case:
    """A network: folder of its files, and their names without suffix."""

    folder: str
    cfg: str
    weights: str
    voc: bool = False


CASES = (
    Case("yolov3-tiny", "yolov3-tiny-mask123", "yolov3-tiny"),
    Case("yolo-fastest-1.1", "yolo-fastest-1.1", "yolo-fastest-1.1"),
    Case(
        "mobilenetv2-yolov3-nano-voc", "MobileNetV2-YOLOv3-Nano-voc", "MobileNetV2-YOLOv3-Nano-voc", voc=True
    ),
)


def with_names(data: DataFile, names: tuple[str, ...], folder: Path) -> Path:
    """A data set of the same images whose labels are those of the classes in `names`, made in `folder`.

    Args:
        data: the data set; a class of `names` may be called there as VOC_NAMES says.
        names: of the new classes, in order.
        folder: takes links to the images and new label files.

    Returns:
        The new .data file; images without an object of these classes stay in it.
    """
    known = [name if name in data.names else VOC_NAMES[name] for name in names]
    numbers = {data.names.index(name): new for new, name in enumerate(known)}
    lists = {}
    for split in ("train", "valid"):
        lines = []
        for image in data.image_list(split):
            link = folder / "images" / image.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(image.resolve())
            write_text(folder / "labels" / f"{image.stem}.txt", _renumbered(label_path(image), numbers))
            lines.append(f"images/{image.name}")
        write_text(folder / f"{split}.txt", "\n".join(lines) + "\n")
        lists[split] = f"{split}.txt"
    write_text(folder / "voc.names", "\n".join(names) + "\n")
    options = {"classes": len(names), **lists, "names": "voc.names"}
    write_text(folder / "voc.data", "".join(f"{name}={value}\n" for name, value in options.items()))
    return folder / "voc.data"


def _renumbered(labels: Path, numbers: dict[int, int]) -> str:
    lines = [line.split() for line in labels.read_text().splitlines()] if labels.exists() else []
    kept = ([str(numbers[int(number)]), *box] for number, *box in lines if int(number) in numbers)
    return "".join(" ".join(words) + "\n" for words in kept)


def climb(case: Case, networks: Path, data: Path, runtime: str) -> None:
    """Run ladder.py; it computes what is missing."""
    folder = networks / case.folder
    command = [sys.executable, str(ROOT / "ladder.py"), "--cfg", str(folder / f"{case.cfg}.cfg")]
    command += ["--weights", str(folder / f"{case.weights}.weights"), "--data", str(data)]
    command += ["--score", *SCORES, "--rungs", *RUNGS, "--refine", "0.02", "--runtime", runtime]
    subprocess.run([*command, "--output", str(OUTPUT)], check=True, env=os.environ)


def main() -> None:
    """Climb, one network after the other, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=Path, required=True, help="folder with a folder for each network")
    parser.add_argument("--data", type=Path, required=True, help=".data file with COCO's classes")
    parser.add_argument("--only", default="*", help="folders of the networks to climb, a pattern")
    parser.add_argument("--runtime", default="onnxruntime", help="for latency, or none")
    args = parser.parse_args()
    for case in CASES:
        if not fnmatch.fnmatch(case.folder, args.only):
            continue
        data = args.data
        if case.voc:
            names = read_names(args.networks / case.folder / "voc.names")
            data = with_names(read_data_file(args.data), names, OUTPUT / "voc")
        climb(case, args.networks, data, args.runtime)


if __name__ == "__main__":
    main()
