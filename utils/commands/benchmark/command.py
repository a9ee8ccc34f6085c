"""Compare the speed of networks where they run: the original against pruned ones, on each runtime.

    python benchmark.py --models cfg/a.cfg:weights/a.weights cfg/prune_a.cfg:weights/prune_a.weights
    python benchmark.py --models weights/best.onnx weights/prune_best.onnx weights/prune_best_int8.onnx \\
        --runtime onnxruntime openvino --threads 1 2 --batch 1 8 --data data/my.data

The first model is the reference. A model is cfg:weights, a checkpoint or an exported file (.onnx, .xml,
.engine, .ncnn.param, .torchscript). A runtime gets a network as a temporary ONNX file; torch and OpenCV run
it directly. The latency ends with boxes and scores; preprocessing and NMS have columns of their own, in
milliseconds per image.

    --img_size  pixels of the long side
    --shape     square: the image is stretched; rect: it keeps its aspect, the short side padded to a multiple
                of 32. Without --source and --data an image of 640x480 random pixels is used
    --runtime   torch, onnxruntime, openvino, tensorrt, opencv, ncnn

Without these and --batch, an exported file runs on the runtime that reads it, and if a file has a fixed size
or batch, all models are measured at that.

For each input all models are measured interleaved, --rounds times or until --seconds are spent. The ratio is
the latency of the first model divided by that of the other: above 1 the other is faster. It is called faster
or slower only where the 95 % interval of the median of the paired ratios excludes 1 (order statistics, as in
the sign test). What a file or runtime cannot run is n/a, with the reason. Results are written to
runs/benchmark (--output) as CSV, Markdown and PNG. Existing results are reused, also after Ctrl-C, as long as
the models are the same; models that are compared were always measured in the same rounds. n/a is retried.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ...data.images import read_image
from ...data.listing import read_data_file
from ...data.sources import find_images
from ...errors import ToolkitError
from ...files import require_writable, write_text
from ...options import POSITIVE_FLOAT, POSITIVE_INT, Range, add_options, check_ranges, from_arguments, option
from ...reporting.speeds import plot_speeds
from ...runtimes.runtime import ALL_NAMES
from ..arguments import MachineOptions, Parser, next_command, prepare
from ..csv_results import read_rows, write_rows
from ..evaluate.run import evaluate_network, open_split
from ..output import quoted
from .measure import LEAST_ROUNDS, Benchmark, Cell, Effort, Image, cells_of
from .models import Model, open_models, own_runtimes, sizes_of_files
from .tables import ModelRow, markdown, panels, show_benchmark

OUTPUT = Path("runs/benchmark")
_SIZES, _SHAPES, _BATCHES = (320, 416, 608), ("square", "rect"), (1, 4, 8, 16)
_DIGITS = 12  # of a digest that distinguishes lists
_PIXELS = (480, 640)  # of the random image, height and width


def _spaced(values: Sequence[object]) -> str:
    return " ".join(map(str, values))


_ROUNDS = Range(
    int, f"a whole number of at least {LEAST_ROUNDS}, since fewer give no interval", LEAST_ROUNDS.__le__
)
_FIXED = "(default: the size of exported files with a fixed one, else %s)"


@dataclass(frozen=True)
class BenchmarkOptions(MachineOptions):
    """Options of the benchmark command; see its manual.

    Attributes:
        thread_counts: of the CPU, each measured; `threads` is not used.
    """

    models: tuple[str, ...] = option(
        (), "cfg:weights, a checkpoint or an exported file", nargs="+", required=True, metavar="MODEL"
    )
    img_size: tuple[int, ...] | None = option(
        None, f"pixels of the long side {_FIXED % _spaced(_SIZES)}", POSITIVE_INT, nargs="+", metavar="N"
    )
    shape: tuple[str, ...] | None = option(
        None, f"of the input {_FIXED % _spaced(_SHAPES)}", nargs="+", choices=_SHAPES
    )
    batch: tuple[int, ...] | None = option(
        None, f"images per batch {_FIXED % _spaced(_BATCHES)}", POSITIVE_INT, nargs="+", metavar="N"
    )
    source: str | None = option(None, "input image (default: the first of --data, or random pixels)")
    data: Path | None = option(None, ".data file of the data set", Path)
    runtime: tuple[str, ...] | None = option(
        None, "(default: that of each exported file; onnxruntime for others)", nargs="+", choices=ALL_NAMES
    )
    rounds: int = option(Effort.rounds, f"of each input, at least {LEAST_ROUNDS}", _ROUNDS)
    seconds: float = option(Effort.seconds, "of each input, after which no new round starts", POSITIVE_FLOAT)
    eval_images: int | None = option(
        None,
        "images of --data to evaluate (default: all)",
        POSITIVE_INT,
        flags=("--eval-images",),
        metavar="N",
    )
    output: Path = option(OUTPUT, "folder of the results", Path, metavar="DIR")
    thread_counts: tuple[int, ...] | None = option(
        None,
        "CPU threads (default: chosen by torch)",
        POSITIVE_INT,
        flags=("--threads",),
        nargs="+",
        metavar="N",
    )

    def __post_init__(self) -> None:
        check_ranges(self)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_benchmark(from_arguments(BenchmarkOptions, benchmark_parser().parse_args(argv)))


def benchmark_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = Parser(__doc__, "benchmark")
    add_options(parser, BenchmarkOptions, ["models", "output"])
    inputs = ("img_size", "shape", "batch", "source", "data")
    add_options(parser.add_argument_group("inputs"), BenchmarkOptions, inputs)
    measuring = ("runtime", "rounds", "seconds", "eval_images")
    add_options(parser.add_argument_group("measurement"), BenchmarkOptions, measuring)
    machine = ("seed", "device", "workers", "thread_counts")
    add_options(parser.add_argument_group("machine"), BenchmarkOptions, machine)
    return parser


def run_benchmark(options: BenchmarkOptions) -> None:
    """Measure; print the tables, write CSV, Markdown and PNG.

    Raises:
        ToolkitError: something given cannot be used.
    """
    device = prepare(options)
    models = open_models(options.models)
    require_writable(options.output, "choose another folder with --output DIR")
    image, source = _image(options.source, options.data)
    cells = cells_to_measure(options, models)
    paths = [options.output / f"benchmark{ending}" for ending in (".csv", "_models.csv", ".md", ".png")]
    benchmark = Benchmark(models, image, source, paths[0], Effort(options.rounds, options.seconds), device)
    timings = benchmark.run(cells)
    rows = _model_rows(models, paths[1], options, device)
    show_benchmark(rows, timings)
    write_text(paths[2], markdown(rows, timings))
    if drawn := panels(timings):
        plot_speeds(drawn, [model.name for model in models], paths[3])
    written = [path for path in paths[: 4 if drawn else 3] if path.exists()]
    print(f"written: {', '.join(map(str, written))}")
    next_command(f"python detect.py --weights {quoted(models[-1].path)}", _cfg(models[-1]), "--source shots/")


def cells_to_measure(options: BenchmarkOptions, models: Sequence[Model]) -> list[Cell]:
    """The cells asked for; where the options leave that open, those of files of fixed size or batch."""
    is_given = options.img_size and options.batch
    files = [] if is_given else sizes_of_files(models)
    inputs = {(height, width) for _, _, height, width in files if height and width}
    sizes = options.img_size or sorted({max(size) for size in inputs}) or _SIZES
    shapes = options.shape or _SHAPES
    if inputs and not (options.img_size or options.shape):
        fitting = {"square" if height == width else "rect" for height, width in inputs}
        shapes = tuple(shape for shape in _SHAPES if shape in fitting)
    batches = options.batch or sorted({count for count, *_ in files if count}) or _BATCHES
    threads = options.thread_counts or [torch.get_num_threads()]
    return cells_of(options.runtime or own_runtimes(models), threads, shapes, sizes, batches)


def _cfg(model: Model) -> str:
    return "" if model.cfg is None else f"--cfg {quoted(model.cfg)}"


def _image(source: str | None, data: Path | None) -> tuple[Image, str]:
    """The input image, and its name in the results."""
    if source is None and data is not None:
        source = str(read_data_file(data).image_list("valid").images[0])
    if source is None:
        pixels = np.random.default_rng(0).integers(0, 256, (*_PIXELS, 3), np.uint8)
        return pixels, f"random {_PIXELS[1]}x{_PIXELS[0]}"
    path = find_images(source)[0]
    return read_image(path), path.name


def _model_rows(
    models: Sequence[Model], path: Path, options: BenchmarkOptions, device: torch.device
) -> list[ModelRow]:
    """Costs and mAP of each model; mAP is computed only where the file lacks it or it failed."""
    rows = {row.key: row for row in read_rows(path, ModelRow)}
    content = _content(options.data)
    found = []
    for model in models:
        size = sum(file.stat().st_size for file in model.files)
        blank = ModelRow(
            model.name,
            model.digest,
            str(options.data or ""),
            content,
            options.eval_images,
            *model.costs(),
            size,
        )
        if blank.key not in rows or rows[blank.key].note:
            score, note = _map50(model, options, device) if options.data else (None, "")
            rows[blank.key] = replace(blank, map50=score, note=note)
            write_rows(path, list(rows.values()))
        found.append(rows[blank.key])
    return found


def _content(data: Path | None) -> str:
    """Digest of a .data file and its validation list; empty without one."""
    if data is None:
        return ""
    digest = hashlib.sha256(data.read_bytes())
    valid = read_data_file(data).valid
    if valid is not None and valid.is_file():
        digest.update(valid.read_bytes())
    return digest.hexdigest()[:_DIGITS]


def _map50(model: Model, options: BenchmarkOptions, device: torch.device) -> tuple[float | None, str]:
    """mAP@0.5 at the model's own size as evaluate.py finds it, or why there is none."""
    assert options.data is not None
    listed = read_data_file(options.data)
    try:
        network = model.network(device)
        loader = open_split(
            listed, "valid", network, network.image_size, workers=options.workers, limit=options.eval_images
        )
        return evaluate_network(network, loader, listed.names, label=model.name).map50, ""
    except ToolkitError as error:
        return None, str(error)
