"""Export every stock network, and a slim- and a layer-pruned version of each, to every format and precision.

    python benchmarks/exports.py
    python benchmarks/exports.py --only fastest tiny --output runs/exports.csv --page docs/results/exports.md

Real weights where there are any, random ones elsewhere; images of shared/data/coco_mini to calibrate int8. A
line for each goes into the CSV file at once, so that the same command goes on where it was interrupted.
"""

import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tqdm import tqdm

from benchmarks.exports_page import Row, page
from benchmarks.zoo_cases import ROOT, SHARED, STRATEGIES, network_of
from utils.cli import run_main
from utils.commands.arguments import Parser
from utils.commands.csv_results import read_rows, write_rows
from utils.commands.export.job import metadata
from utils.commands.export.run import FORMATS
from utils.darknet.model import Darknet
from utils.data.images import read_image, resize_exactly
from utils.data.listing import read_data_file
from utils.errors import PruningError, ToolkitError
from utils.exporters.job import PRECISIONS, Exporting, Precision, exporting
from utils.exporters.onnx import OnnxFiles
from utils.files import write_text
from utils.frontends.darknet.subject import DarknetSubject
from utils.pruning.surgery import prune
from utils.runtimes.runtime import Images

NETWORKS = {
    "yolov3": SHARED / "zoo/yolov3.cfg",
    "yolov3-spp": SHARED / "zoo/yolov3-spp.cfg",
    "yolov3-tiny": SHARED / "weights/yolov3-tiny/yolov3-tiny.cfg",
    "yolov4": SHARED / "zoo/yolov4.cfg",
    "yolov4-tiny": SHARED / "zoo/yolov4-tiny.cfg",
    "yolo-fastest-1.1": SHARED / "weights/yolo-fastest-1.1/yolo-fastest-1.1.cfg",
    "MobileNetV2-YOLOv3-Nano": SHARED / "weights/mobilenetv2-yolov3-nano-voc/MobileNetV2-YOLOv3-Nano-voc.cfg",
}
VERSIONS = {"unpruned": None, "slim": "slim", "layers": "layers"}  # keys of STRATEGIES
SIZE = 320
IMAGES = 16
File = tuple[str, Precision]  # its format too


def main(argv: list[str] | None = None) -> None:
    """Run what the CSV file lacks."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="networks with this in the name"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "runs/exports.csv", metavar="FILE")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write what the CSV file has as Markdown")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = read_rows(args.output, Row)
    names = [name for name in NETWORKS if any(text.lower() in name.lower() for text in args.only)]
    for row in _run(names, {(row.network, row.version, row.format, row.precision) for row in rows}):
        rows.append(row)
        write_rows(args.output, rows)
    if args.page:
        write_text(args.page, page(rows, SIZE))
    verdicts = [row.verdict.partition(":")[0] for row in rows]
    print(", ".join(f"{verdicts.count(kind)} {kind}" for kind in dict.fromkeys(verdicts)))


def _run(names: Sequence[str], done: Collection[tuple[str, ...]]) -> Iterator[Row]:
    files: list[File] = [(format_, precision) for format_ in FORMATS for precision in PRECISIONS]
    with tqdm(total=len(names) * len(VERSIONS) * len(files), unit="file", disable=None) as bar:
        for name in names:
            for version in VERSIONS:
                cases = [case for case in files if (name, version, *case) not in done]
                bar.update(len(files) - len(cases))
                bar.set_description(f"{name}, {version}")
                if cases:
                    yield from _files(name, version, cases, bar)


def _files(name: str, version: str, cases: Sequence[File], bar: tqdm) -> Iterator[Row]:
    try:
        model = _version(network_of(NETWORKS[name]), VERSIONS[version])
    except PruningError as error:
        reason = str(error).rpartition(": ")[2]
        yield from (Row(name, version, *case, verdict=f"none: {reason}") for case in cases)
        return
    with tempfile.TemporaryDirectory() as folder:
        job = _job(model)
        files = OnnxFiles(job, Path(folder))
        for format_, precision in cases:
            path = Path(folder) / f"net_{precision}{FORMATS[format_].suffix}"
            yield _exported(
                Row(name, version, format_, precision, ""), replace(job, precision=precision), files, path
            )
            bar.update()


def _version(model: Darknet, strategy: str | None) -> Darknet:
    if strategy is None:
        return model
    subject = DarknetSubject.of(model)
    for step in STRATEGIES[strategy]:
        subject = prune(subject, step.policies(subject), folding=step.folding).compact
    return subject.model


def _job(model: Darknet) -> Exporting:
    return exporting(
        model,
        model.head_specs,
        (SIZE, SIZE),
        channels=model.network.channels(-1),
        size_step=model.network.size_step,
        metadata=metadata(model, (), (SIZE, SIZE)),
        calibration=_images,
    )


def _images() -> Iterator[Images]:
    """Batches of one image each, as `detector map` prepares them."""
    listed = read_data_file(next((SHARED / "data/coco_mini").glob("*.data")))
    for path in listed.image_list("train").spread(IMAGES):
        yield resize_exactly(read_image(path), (SIZE, SIZE)).div_(255)[None].numpy()


def _exported(row: Row, job: Exporting, files: OnnxFiles, path: Path) -> Row:
    start = time.perf_counter()
    try:
        if row.format == "onnx":
            exported = files.export(job.precision, path)
        else:
            exported = FORMATS[row.format].export(replace(job, onnx=files), path)
    except ToolkitError as error:
        return replace(row, verdict=f"refused: {error}", seconds=_since(start))
    differences = [parity.differences for parity in exported.parities]
    return replace(
        row,
        verdict="ok" if differences else "built",
        boxes=max((found["boxes"] for found in differences), default=None),
        scores=max((found["scores"] for found in differences), default=None),
        bytes=sum(file.stat().st_size for file in exported.paths),
        seconds=_since(start),
    )


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 2)


if __name__ == "__main__":
    run_main(main)
