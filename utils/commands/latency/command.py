"""Measure the latency of convolutions of any width on a runtime of this machine.

    python latency.py --cfg cfg/yolov3-tiny.cfg --runtime onnxruntime --threads 1

Each class of convolutions of the cfg (kernel, stride, groups, activation, map size) is measured over a grid
of widths. Latency steps are measured too: ranges of widths that take the same time. No weights are needed.
Measurements are stored in runs/latency, one file per machine, runtime and number of threads; later runs and
other cfgs reuse them, and an interrupted run continues where it stopped. The table ends with the latency
predicted for the whole network and the latency measured.

    --runtime    torch, onnxruntime, openvino (python -m pip install openvino) or tensorrt (an NVIDIA GPU)
    --precision  openvino: f32, bf16, f16 or dynamic; tensorrt: f32 or f16
    --widths     number of widths measured along each axis of the grid
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ...darknet.network import Network
from ...files import require_writable
from ...options import POSITIVE_INT, check_ranges, from_arguments, option
from ...pruning.conv_classes import Convolution, total_milliseconds
from ...pruning.latency import ConvClass, LatencyTable
from ...runtimes.runtime import NAMES, Runtime, find_runtime
from ..arguments import (
    ImageSizeOptions,
    InputFiles,
    MachineOptions,
    NetworkOptions,
    Parser,
    add_command,
    next_command,
    prepare,
    resolve,
)
from ..inputs import fresh_network
from ..output import quoted, show
from .measure import WIDTHS, find_or_measure, fingerprint, table_path
from .network import calibrate, darknet_convolutions

_SHARES = {"full": 1.0, "half": 0.5, "quarter": 0.25}  # columns of the table


@dataclass(frozen=True)
class LatencyOptions(MachineOptions, ImageSizeOptions, NetworkOptions):
    """What the latency command is asked for."""

    runtime: str = option("onnxruntime", "where the network will run", choices=NAMES)
    precision: str = option("f32", "precision in which the runtime computes")
    widths: int = option(WIDTHS, "number of widths measured along each axis", POSITIVE_INT, metavar="N")
    output: Path | None = option(
        None, "file of the measurements (default: in runs/latency)", Path, metavar="FILE"
    )

    def __post_init__(self) -> None:
        check_ranges(self)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    parser = Parser(__doc__, "latency")
    add_command(parser, LatencyOptions)
    run_latency(from_arguments(LatencyOptions, parser.parse_args(argv)))


def run_latency(options: LatencyOptions) -> LatencyTable:
    """Measure, print the table and how well it predicts the latency of the whole network.

    Raises:
        ToolkitError: something given cannot be used, or the runtime is missing.
    """
    prepare(options)
    project = resolve(options, needs=["cfg"])
    runtime = find_runtime(options.runtime, options.precision)
    path = options.output or table_path(fingerprint(runtime))
    require_writable(path.parent, "choose a file with --output FILE")
    model = fresh_network(project.network()).eval()
    image_size = options.img_size or (model.network.height, model.network.width)
    convolutions = darknet_convolutions(model, image_size)
    table = find_or_measure(convolutions, runtime, path, options.widths)
    _show_classes(table, convolutions, f"{model.network.source} at {image_size[1]}x{image_size[0]}")
    print(_steps(table))
    half = _compare(table, model.network, convolutions, runtime, image_size)
    print(f"written: {path}")
    next_command(_next(project, options, half))
    return table


def _next(project: InputFiles, options: LatencyOptions, half: float) -> str:
    """Pruning to the latency of half widths; without weights, what would be left."""
    size = "--img_size {} {}".format(*options.img_size) if options.img_size else ""
    has_weights = project.weights or project.is_demo
    wish = f"--max-ms {half:.0%} --runtime {options.runtime}" if has_weights else "--what-if 0.5"
    threads = f"--threads {options.threads}" if options.threads else ""
    table = f"--latency-table {quoted(options.output)}" if options.output and has_weights else ""
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


def _steps(table: LatencyTable) -> str:
    steps = ", ".join(f"{axis} {table.step(axis)}" for axis in table.probes)
    return f"latency steps, channels: {steps}; widths are aligned to {table.align} without cost"


def _compare(
    table: LatencyTable,
    network: Network,
    convolutions: Sequence[Convolution],
    runtime: Runtime,
    image_size: tuple[int, int],
) -> float:
    """Print predicted and measured latency; return the share of the latency that half widths take."""
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
