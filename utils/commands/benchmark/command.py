"""Compare networks where they run: the original against pruned ones, on every runtime of this machine.

    python benchmark.py --models cfg/a.cfg:weights/a.weights cfg/prune_a.cfg:weights/prune_a.weights
    python benchmark.py --models weights/best.onnx weights/prune_best.onnx weights/prune_best_int8.onnx \\
        --runtime onnxruntime openvino --threads 1 2 --batch 1 8 --data data/my.data

The first model is the reference. A model is cfg:weights, a checkpoint or an exported file (.onnx, .xml,
.engine, .ncnn.param, .torchscript). Networks come to a runtime by way of an ONNX file that is not kept; torch
and OpenCV run them as they are. What is timed ends with boxes and scores; bringing an image to the input
(prepare) and suppressing overlapping boxes (NMS) are columns of their own, milliseconds an image.

    --img_size  pixels of the long side
    --shape     square: the image is stretched; rect: it keeps its aspect, the short side padded to a multiple
                of 32: 416x320 for the pixels of 4:3 that stand in where neither --source nor --data is given
    --runtime   torch, onnxruntime, openvino, tensorrt, opencv, ncnn

Without these and --batch, an exported file runs on the runtime that reads it, and a file of fixed size or
batch has all models measured at that.

For each input all models take turns, --rounds times or until --seconds are spent. The ratio is the first
model's time over another's: above 1 the other is faster. It is called faster or slower only where the 95 %
interval of the median of the paired ratios leaves out 1 (the order statistics that belong to the sign test).
What a file or runtime cannot serve is n/a, with the reason. Results go to runs/benchmark (--output) as CSV,
Markdown and PNG; figures that are there are not measured again, after Ctrl-C too, as long as the models are
the same: those that are compared come from the same rounds. What was n/a is tried again.
"""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...data.images import read_image
from ...data.listing import read_data_file
from ...data.sources import find_images
from ...errors import ToolkitError
from ...files import require_writable, write_text
from ...options import POSITIVE_FLOAT, POSITIVE_INT
from ...reporting.speeds import plot_speeds
from ...runtimes.choice import ALL_NAMES
from ..arguments import Parser, add_common, add_data, next_command, prepare
from ..csv_results import read_rows, write_rows
from ..evaluate.run import evaluate_network, open_split
from ..results import quoted
from .measure import LEAST_ROUNDS, Benchmark, Cell, Effort, Image, cells_of
from .models import Model, open_models, own_runtimes, sizes_of_files
from .tables import ModelRow, markdown, panels, show_benchmark

OUTPUT = Path("runs/benchmark")
_SIZES, _SHAPES, _BATCHES = (320, 416, 608), ("square", "rect"), (1, 4, 8, 16)
_DIGITS = 12  # of a digest that only has to tell lists apart
_PIXELS = (480, 640)  # of the image that stands in, height and width


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_benchmark(benchmark_parser().parse_args(argv))


def benchmark_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = Parser(__doc__, "benchmark")
    parser.add_argument("--models", nargs="+", required=True, metavar="MODEL", help="cfg:weights or a file")
    inputs = parser.add_argument_group("inputs")
    usual = "(default: what exported files take alone, else %s)"
    text = f"pixels of the long side {usual % _spaced(_SIZES)}"
    inputs.add_argument("--img_size", nargs="+", type=POSITIVE_INT, metavar="N", help=text)
    text = f"of the input {usual % _spaced(_SHAPES)}"
    inputs.add_argument("--shape", nargs="+", choices=_SHAPES, help=text)
    text = f"images at a time {usual % _spaced(_BATCHES)}"
    inputs.add_argument("--batch", nargs="+", type=POSITIVE_INT, metavar="N", help=text)
    inputs.add_argument("--source", help="image to put in (default: the first of --data, or random pixels)")
    add_data(inputs)
    group = parser.add_argument_group("measuring")
    text = "where networks run (default: the usual one of each exported file; onnxruntime for others)"
    group.add_argument("--runtime", nargs="+", choices=ALL_NAMES, help=text)
    text = f"of each input, at least {LEAST_ROUNDS}"
    group.add_argument("--rounds", type=_rounds, default=Effort.rounds, help=text)
    text = "of each input, after which no further round begins"
    group.add_argument("--seconds", type=POSITIVE_FLOAT, default=Effort.seconds, help=text)
    group.add_argument("--eval-images", type=POSITIVE_INT, metavar="N", help="of --data (default: all)")
    group.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="folder of the results")
    add_common(parser, several_threads=True)
    return parser


def _spaced(values: Sequence[object]) -> str:
    return " ".join(map(str, values))


def _rounds(text: str) -> int:
    count = POSITIVE_INT(text)
    if count < LEAST_ROUNDS:
        raise argparse.ArgumentTypeError(f"{text!r}: fewer than {LEAST_ROUNDS} rounds give no interval")
    return count


def run_benchmark(args: argparse.Namespace) -> None:
    """Measure as the command line says; print the tables, write CSV, Markdown and PNG.

    Raises:
        ToolkitError: something given cannot be used.
    """
    device = prepare(args)
    models = open_models(args.models)
    require_writable(args.output, "choose another folder with --output DIR")
    image, source = _image(args.source, args.data)
    cells = _cells(args, models)
    paths = [args.output / f"benchmark{ending}" for ending in (".csv", "_models.csv", ".md", ".png")]
    benchmark = Benchmark(models, image, source, paths[0], Effort(args.rounds, args.seconds), device)
    timings = benchmark.run(cells)
    rows = _model_rows(models, paths[1], args, device)
    show_benchmark(rows, timings)
    write_text(paths[2], markdown(rows, timings))
    if drawn := panels(timings):
        plot_speeds(drawn, [model.name for model in models], paths[3])
    written = [path for path in paths[: 4 if drawn else 3] if path.exists()]
    print(f"written: {', '.join(map(str, written))}")
    next_command(f"python detect.py --weights {quoted(models[-1].path)}", _cfg(models[-1]), "--source shots/")


def _cells(args: argparse.Namespace, models: Sequence[Model]) -> list[Cell]:
    """What the command line asks for; where it leaves that open, what files of fixed size or batch take."""
    is_given = args.img_size and args.batch
    files = [] if is_given else sizes_of_files(models)
    inputs = {(height, width) for _, _, height, width in files if height and width}
    sizes = args.img_size or sorted({max(size) for size in inputs}) or _SIZES
    shapes = args.shape or _SHAPES
    if inputs and not (args.img_size or args.shape):
        fitting = {"square" if height == width else "rect" for height, width in inputs}
        shapes = [shape for shape in _SHAPES if shape in fitting]
    batches = args.batch or sorted({count for count, *_ in files if count}) or _BATCHES
    threads = args.thread_counts or [torch.get_num_threads()]
    return cells_of(args.runtime or own_runtimes(models), threads, shapes, sizes, batches)


def _cfg(model: Model) -> str:
    return "" if model.cfg is None else f"--cfg {quoted(model.cfg)}"


def _image(source: str | None, data: Path | None) -> tuple[Image, str]:
    """What is put in, and what rows call it."""
    if source is None and data is not None:
        source = str(read_data_file(data).image_list("valid").images[0])
    if source is None:
        pixels = np.random.default_rng(0).integers(0, 256, (*_PIXELS, 3), np.uint8)
        return pixels, f"random {_PIXELS[1]}x{_PIXELS[0]}"
    path = find_images(source)[0]
    return read_image(path), path.name


def _model_rows(
    models: Sequence[Model], path: Path, args: argparse.Namespace, device: torch.device
) -> list[ModelRow]:
    """What each model is and how well it detects; only mAP that the file lacks or that failed is computed."""
    rows = {row.key: row for row in read_rows(path, ModelRow)}
    content = _content(args.data)
    found = []
    for model in models:
        size = sum(file.stat().st_size for file in model.files)
        blank = ModelRow(
            model.name, model.digest, str(args.data or ""), content, args.eval_images, *model.costs(), size
        )
        if blank.key not in rows or rows[blank.key].note:
            score, note = _map50(model, args, device) if args.data else (None, "")
            rows[blank.key] = replace(blank, map50=score, note=note)
            write_rows(path, list(rows.values()))
        found.append(rows[blank.key])
    return found


def _content(data: Path | None) -> str:
    """What a .data file and its validation list contain, as a few digits; nothing without one."""
    if data is None:
        return ""
    digest = hashlib.sha256(data.read_bytes())
    valid = read_data_file(data).valid
    if valid is not None and valid.is_file():
        digest.update(valid.read_bytes())
    return digest.hexdigest()[:_DIGITS]


def _map50(model: Model, args: argparse.Namespace, device: torch.device) -> tuple[float | None, str]:
    """mAP@0.5 at the model's own size as evaluate.py finds it, or why there is none."""
    listed = read_data_file(args.data)
    try:
        network = model.network(device)
        loader = open_split(
            listed, "valid", network, network.image_size, workers=args.workers, limit=args.eval_images
        )
        return evaluate_network(network, loader, listed.names, label=model.name).map50, ""
    except ToolkitError as error:
        return None, str(error)
