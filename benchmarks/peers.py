"""The fastest way to run a pruned network here against OpenCV's DNN module on the same cfg and weights.

    python benchmarks/peers.py --cfg cfg/prune_my.cfg --weights weights/prune_my.weights --threads 1 2

torch, onnxruntime and OpenVINO, each as `benchmark.py` runs them, and OpenCV's Darknet importer, Winograd and
all, are interleaved on the same random images, --rounds times; every way ends with boxes and scores. For each
batch and number of threads the CSV file has the median milliseconds of each, the ratio OpenCV / each of the
same rounds, and the ratio to the fastest way but OpenCV's, all with 95 % intervals (order statistics).

Ends with exit code 1 if that fastest way is slower than OpenCV: the whole interval of the ratio is below 1.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.rows import Row, Rows
from utils.cli import run_main
from utils.commands.arguments import ImageSizeOptions, Parser
from utils.commands.benchmark.models import Model
from utils.options import POSITIVE_INT, add_options
from utils.profiling import interleaved_times, median_interval
from utils.pruning.costs import count_parameters
from utils.pruning.layers import torch_threads
from utils.runtimes.runtime import find_runtime, random_images

OURS = ("torch", "onnxruntime", "openvino")
PEER = "opencv"


def main(argv: list[str] | None = None) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    rows = Rows(args.csv)
    model = Model(args.cfg, args.weights)
    assert model.darknet is not None  # a cfg was given
    network = model.darknet.network
    size = args.img_size or (network.height, network.width)
    slower = []
    for threads in args.threads:
        for batch in args.batch:
            case = f"{model.name} {size[1]}x{size[0]}, batch {batch}, threads {threads}"
            with torch_threads(threads):
                if measure(model, (batch, network.channels(-1), *size), args.rounds, case, rows):
                    slower.append(case)
    if slower:
        print("slower than OpenCV:", *slower, sep="\n  ")
        sys.exit(1)


def measure(model: Model, shape: tuple[int, ...], rounds: int, case: str, rows: Rows) -> bool:
    """Measure a case, unless the file has it; whether OpenCV is faster than the fastest of `OURS`."""
    fastest = "OpenCV / the fastest"
    if not rows.has("ratio", case, fastest):
        images = random_images(shape)
        sessions = {name: model.session(find_runtime(name), shape) for name in (*OURS, PEER)}
        times = interleaved_times({name: ready.bound(images) for name, ready in sessions.items()}, rounds)
        assert model.darknet is not None
        size = count_parameters(model.darknet)
        ratios = {name: [a / b for a, b in zip(times[PEER], times[name], strict=True)] for name in OURS}
        for name, milliseconds in times.items():
            rows.add(Row("latency", case, name, size, *median_interval(milliseconds), "ms"))
        for name, values in ratios.items():
            rows.add(Row("ratio", case, f"OpenCV / {name}", size, *median_interval(values)))
        best = min(OURS, key=lambda name: np.median(times[name]))
        rows.add(Row("ratio", case, fastest, size, *median_interval(ratios[best]), best))
    return rows.get("ratio", case, fastest).high < 1


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--cfg", type=Path, required=True, help="of the pruned network")
    parser.add_argument("--weights", type=Path, required=True)
    add_options(parser, ImageSizeOptions)
    parser.add_argument("--batch", type=POSITIVE_INT, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=POSITIVE_INT, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=POSITIVE_INT, default=25)
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    return parser


if __name__ == "__main__":
    run_main(main)
