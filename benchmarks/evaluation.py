"""How fast evaluation is, and that speed costs no accuracy.

    python benchmarks/evaluation.py --weights weights/best.pt --data data/my.data --rect --threads 2
    python benchmarks/evaluation.py --cfg cfg/yolov3-tiny.cfg --weights weights/yolov3-tiny.weights \\
        --data data/coco.data --img_size 416 --output evaluation.csv

Evaluates one data set in two ways, interleaved, --rounds times:
    reference  the network as it was trained (float32, batch norms of their own), one image at a time
    fast       what evaluate.py does: batch norms merged, channels last, parts of a batch on a thread each
Both read the same images, prepared alike, from files each time. Images a second count reading, resizing, the
network, suppression of overlapping boxes and matching with the labels; the best round of each way is shown,
since whatever else the machine does can only add time. CPU ms is the time that all threads together took for
an image, without the processes that load images (--workers).

Ends with exit code 1 if the two mAP@0.5 differ by more than --tolerance. The CSV file has a line for each
round and way.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.table import Table

from utils.cli import run_main
from utils.commands.arguments import (
    ImageSizeOptions,
    InputFiles,
    InputOptions,
    MachineOptions,
    Parser,
    add_machine,
    prepare,
    resolve,
)
from utils.commands.evaluate.run import evaluate_network, open_split, predictor
from utils.commands.inputs import open_network
from utils.commands.output import show
from utils.data.listing import SPLITS, read_data_file
from utils.detection.evaluator import Evaluation, Scoring, evaluate
from utils.files import atomic_path
from utils.options import POSITIVE_FLOAT, POSITIVE_INT, add_options, from_arguments

Way = Callable[[], Evaluation]


@dataclass(frozen=True)
class Round:
    """One evaluation.

    Attributes:
        way: "reference" or "fast".
        number: of the round, from 1.
        images: how many were evaluated.
        map50, map50_95: fractions.
        images_per_second: matching included.
        cpu_ms: of all threads of this process for an image.
    """

    way: str
    number: int
    images: int
    map50: float
    map50_95: float
    images_per_second: float
    cpu_ms: float


def main(argv: list[str] | None = None) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    device = prepare(from_arguments(MachineOptions, args))
    project = resolve(from_arguments(InputOptions, args))
    ways = _ways(project, args, device)
    for way in ways.values():  # files into memory, the threads' first work: not what is measured
        way()
    rounds = [
        _measure(name, way, number) for number in range(1, args.rounds + 1) for name, way in ways.items()
    ]
    if args.output:
        _write(args.output, rounds)
    best = {name: _best([each for each in rounds if each.way == name]) for name in ways}
    _print(list(best.values()), f"{project.weights} on {args.split} of {project.data}")
    difference = abs(best["fast"].map50 - best["reference"].map50)
    ratio = best["fast"].images_per_second / best["reference"].images_per_second
    print(f"fast / reference: {ratio:.2f}   difference of mAP@0.5: {difference:.1e}")
    if difference > args.tolerance:
        sys.exit(1)


def _parser() -> Parser:
    parser = Parser(__doc__)
    add_options(parser, InputOptions)
    add_options(parser, ImageSizeOptions)
    parser.add_argument("--split", choices=SPLITS, default="valid", help="which list of the .data file")
    parser.add_argument("--rect", action="store_true", help="rectangular inputs")
    parser.add_argument("--batch-size", type=POSITIVE_INT, default=16, help="images at a time, fast way")
    parser.add_argument("--rounds", type=POSITIVE_INT, default=3, help="evaluations of each way")
    parser.add_argument(
        "--tolerance", type=POSITIVE_FLOAT, default=1e-3, help="allowed difference of mAP@0.5"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="CSV file of all rounds")
    add_machine(parser)
    return parser


def _ways(project: InputFiles, args: argparse.Namespace, device: torch.device) -> dict[str, Way]:
    """What to call for an evaluation of each way."""
    data = read_data_file(project.needed("data"))
    model = open_network(project).to(device).eval()
    size = args.img_size or (model.network.height, model.network.width)
    single, batched = (
        open_split(
            data,
            args.split,
            model,
            size,
            fit="rect" if args.rect else "cfg",
            batch_size=count,
            workers=args.workers,
        )
        for count in (1, args.batch_size)
    )
    reference = partial(evaluate, predictor(model), single, data.names, Scoring(specs=model.head_specs))
    return {"reference": reference, "fast": partial(evaluate_network, model, batched, data.names)}


def _measure(name: str, way: Way, number: int) -> Round:
    cpu, start = time.process_time(), time.perf_counter()
    result = way()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    count = result.images
    return Round(name, number, count, result.map50, result.map50_95, count / seconds, 1e3 * cpu / count)


def _best(rounds: Sequence[Round]) -> Round:
    return max(rounds, key=lambda each: each.images_per_second)


def _write(path: Path, rounds: Sequence[Round]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Round))
        writer.writerows(map(astuple, rounds))


def _print(rounds: Sequence[Round], title: str) -> None:
    table = Table()
    for column in ("", "images", "mAP@0.5", "mAP@0.5:0.95", "images/s", "CPU ms/image"):
        table.add_column(column, justify="right" if column else "left")
    for each in rounds:
        numbers = (
            f"{each.map50:.6f}",
            f"{each.map50_95:.6f}",
            f"{each.images_per_second:.1f}",
            f"{each.cpu_ms:.1f}",
        )
        table.add_row(each.way, str(each.images), *numbers)
    show(title, table)


if __name__ == "__main__":
    run_main(main)
