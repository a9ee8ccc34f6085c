"""Measure what convolutions of any width take on a runtime of this machine.

    python latency.py --cfg cfg/yolov3-tiny.cfg --runtime onnxruntime --threads 1

Every kind of convolution of the cfg (kernel, stride, groups, activation, size of its map) is measured over a
grid of widths, and so are the stairs: widths between which time stays the same. No weights are needed. The
measurements go to a file of this machine, runtime and number of threads in runs/latency, where later runs
and other cfgs find them: only what is missing is measured, after an interruption too. The table ends with
what its sum predicts for the whole network beside what the whole network takes.

    --runtime    torch, onnxruntime, openvino (python -m pip install openvino) or tensorrt (an NVIDIA GPU)
    --precision  openvino: f32, bf16, f16 or dynamic; tensorrt: f32 or f16
    --widths     measured along each axis of the grid
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ...darknet.network import Network
from ...files import require_writable
from ...options import POSITIVE_INT
from ...pruning.conv_classes import Convolution, total_milliseconds
from ...pruning.latency import ConvClass, LatencyTable
from ...runtimes.choice import NAMES, find_runtime
from ...runtimes.runtime import Runtime
from ..arguments import (
    Parser,
    Project,
    add_common,
    add_image_size,
    add_network,
    next_command,
    prepare,
    resolve,
)
from ..inputs import fresh_network
from ..results import quoted
from ..tables import show
from .measure import WIDTHS, find_or_measure, fingerprint, table_path
from .network import calibrate, darknet_convolutions

_SHARES = {"full": 1.0, "half": 0.5, "quarter": 0.25}  # columns of the table


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_latency(latency_parser().parse_args(argv))


def latency_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = Parser(__doc__, "latency")
    add_network(parser)
    parser.add_argument("--runtime", choices=NAMES, default="onnxruntime", help="where the network will run")
    parser.add_argument("--precision", default="f32", help="in which the runtime computes")
    add_image_size(parser)
    parser.add_argument(
        "--widths", type=POSITIVE_INT, default=WIDTHS, metavar="N", help="measured along an axis"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="of the measurements (default: in runs/latency)"
    )
    add_common(parser)
    return parser


def run_latency(args: argparse.Namespace) -> LatencyTable:
    """Measure as the command line says, print the table and how well it predicts the whole network.

    Raises:
        ToolkitError: something given cannot be used, or the runtime is not there.
    """
    prepare(args)
    project = resolve(args, needs=["cfg"])
    runtime = find_runtime(args.runtime, args.precision)
    path = args.output or table_path(fingerprint(runtime))
    require_writable(path.parent, "choose a file with --output FILE")
    model = fresh_network(project.network()).eval()
    image_size = args.img_size or (model.network.height, model.network.width)
    convolutions = darknet_convolutions(model, image_size)
    table = find_or_measure(convolutions, runtime, path, args.widths)
    _show_classes(table, convolutions, f"{model.network.source} at {image_size[1]}x{image_size[0]}")
    print(_stairs(table))
    half = _compare(table, model.network, convolutions, runtime, image_size)
    print(f"written: {path}")
    next_command(_next(project, args, half))
    return table


def _next(project: Project, args: argparse.Namespace, half: float) -> str:
    """Pruning down to what half of all widths takes; the cfg alone answers only what would be left."""
    size = "--img_size {} {}".format(*args.img_size) if args.img_size else ""
    has_weights = project.weights or project.is_demo
    wish = f"--max-ms {half:.0%} --runtime {args.runtime}" if has_weights else "--what-if 0.5"
    threads = f"--threads {args.threads}" if args.threads else ""
    table = f"--latency-table {quoted(args.output)}" if args.output and wish.startswith("--max-ms") else ""
    words = ("python slim_prune.py", project.options("cfg", "weights"), wish, table, size, threads)
    return " ".join(filter(None, words))


def _show_classes(table: LatencyTable, convolutions: Sequence[Convolution], title: str) -> None:
    rows = Table()
    rows.add_column("convolutions")
    rows.add_column("measured widths", overflow="fold")
    for name in _SHARES:
        rows.add_column(f"{name}, ms", justify="right")
    for conv in dict.fromkeys(found.conv for found in convolutions):
        own = [found for found in convolutions if found.conv == conv]
        costs = [sum(_cost(table, found, share) for found in own) for share in _SHARES.values()]
        rows.add_row(Text(f"{len(own)} x {conv}"), _widths(table, conv), *(f"{cost:.3f}" for cost in costs))
    totals = [sum(_cost(table, found, share) for found in convolutions) for share in _SHARES.values()]
    rows.add_section()
    rows.add_row(f"all {len(convolutions)}", "", *(f"{total:.2f}" for total in totals))
    show(f"Milliseconds at full, half and quarter width: {title}", rows)


def _cost(table: LatencyTable, found: Convolution, share: float) -> float:
    inputs = found.inputs if found.reads_image else max(1, round(found.inputs * share))
    return table.milliseconds(found.conv, inputs, max(1, round(found.outputs * share)))


def _widths(table: LatencyTable, conv: ConvClass) -> str:
    axes = [sorted({widths[axis] for widths in table.points[conv]}) for axis in (0, 1)]
    texts = [" ".join(map(str, axis)) for axis in axes]
    return texts[1] if conv.is_depthwise else " -> ".join(texts)


def _stairs(table: LatencyTable) -> str:
    steps = ", ".join(f"{axis} {table.step(axis)}" for axis in table.probes)
    return f"stairs, channels: {steps}; free to align to {table.align}"


def _compare(
    table: LatencyTable,
    network: Network,
    convolutions: Sequence[Convolution],
    runtime: Runtime,
    image_size: tuple[int, int],
) -> float:
    """Print what the table's sum is beside the network; give the share of the time that half widths take."""
    calibration, measured = calibrate(table, network, runtime, image_size)
    total = total_milliseconds(table, convolutions)
    where = f"{runtime.name} {runtime.version}, {runtime.precision}, threads {measured.threads}"
    print(f"whole network, {where}: {measured.p50:.2f} ms (p95 {measured.p95:.2f} ms)")
    print(f"sum of its convolutions: {total:.2f} ms; measured / predicted {measured.p50 / total:.3f}")
    print(
        f"fitted at three widths: {calibration.scale:.3f} x sum + {calibration.overhead:.2f} ms "
        f"= {calibration(total):.2f} ms"
    )
    half = sum(_cost(table, found, _SHARES["half"]) for found in convolutions)
    return calibration(half) / calibration(total)
