"""Check a network, its data set and its weights before training.

    python doctor.py --cfg cfg/my.cfg --data data/my.data --weights weights/my.weights
    python doctor.py --data data/my.data
    python doctor.py --cfg cfg/my.cfg --json doctor.json

Give any of the three. What is checked:
    cfg      every section with its feature maps, parameters and MACs; classes of the heads against those of
             the data; what can be pruned; what Darknet, OpenCV 4, ONNX and TensorRT can load
    data     lists, label lines, duplicates, unreadable images, images in two splits, classes without objects;
             how well the anchors fit the objects, with anchors to paste
    weights  length, NaN and inf; whether they are a backbone, or for other classes
In the table of sections, 3x3/2 is size/stride, g32 means 32 groups, dw depthwise, d2 dilation 2. Continues
after an error, so that one run reports everything. Exit code: 0 if all is well, 1 with warnings, 2 with
errors.
"""

from collections.abc import Sequence

from ...options import from_arguments
from ..arguments import Parser, add_command, next_command
from ..output import bar, quoted
from . import tables
from .run import EXIT_CODES, DoctorOptions, DoctorResult, check


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, check, print tables and findings; return the exit code."""
    parser = Parser(__doc__, "doctor")
    add_command(parser, DoctorOptions)
    options = from_arguments(DoctorOptions, parser.parse_args(argv))
    result = check(options, track=bar)
    _print_result(result)
    if result.exit_code < EXIT_CODES["error"] and options.cfg and options.data:
        weights = f" --weights {quoted(options.weights)}" if options.weights else ""
        next_command(f"python train.py --cfg {quoted(options.cfg)} --data {quoted(options.data)}{weights}")
    return result.exit_code


def _print_result(result: DoctorResult) -> None:
    if result.network is not None:
        tables.print_sections(result.network)
        tables.print_prunable(result.network.prunable)
        tables.print_runtimes(result.network.runtimes, result.network.as_written)
    if result.data is not None:
        tables.print_data(result.data)
    if result.anchors is not None:
        tables.print_anchors(result.anchors)
    tables.print_findings(result.findings)
