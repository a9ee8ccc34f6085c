"""Check a network, its data set and its weights before hours of training are spent on them.

    python doctor.py --cfg cfg/my.cfg --data data/my.data --weights weights/my.weights
    python doctor.py --data data/my.data
    python doctor.py --cfg cfg/my.cfg --json doctor.json

Give any of the three. What is checked:
    cfg      every section and its maps, parameters and multiply-adds; heads against the classes of the data;
             what can be pruned; what Darknet, OpenCV 4, ONNX and TensorRT make of it
    data     lists, label lines, duplicates, images that cannot be read, images that are in two splits,
             classes that never occur; anchors against the objects, with a suggestion to paste
    weights  length and numbers; whether they are a backbone, or made for other classes
In the table of sections, 3x3/2 is size/stride, g32 stands for 32 groups, dw for depthwise, d2 for dilation 2.
It goes on behind a fault. The exit code is 0 if all is well, 1 with warnings, 2 with errors.
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ...darknet.cfg import read_text
from ...darknet.checkpoint import is_checkpoint, read_checkpoint
from ...darknet.checks import CfgCheck, check_cfg, check_heads, check_weights
from ...darknet.compatibility import RUNTIMES, RuntimeFinding, opencv_text_findings
from ...darknet.costs import section_costs
from ...darknet.network import Network
from ...darknet.weights import read_header
from ...data.checks import DataCheck, check_data
from ...detection.anchors import judge_anchors
from ...errors import Finding, ToolkitError
from ...options import NON_NEGATIVE_INT
from ..arguments import Parser, add_data, add_network, arguments, next_command, provenance, write_json
from ..inputs import available
from ..results import quoted
from . import tables
from .checks import check_anchors, what_can_be_pruned

EXIT_CODES = {"note": 0, "warning": 1, "error": 2}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the command."""
    return run_doctor(doctor_parser().parse_args(argv))


def doctor_parser() -> Parser:
    """The command line; its help text is this module's docstring."""
    parser = Parser(__doc__, "doctor")
    add_network(parser)
    add_data(parser)
    parser.add_argument(
        "--images",
        type=NON_NEGATIVE_INT,
        default=5000,
        metavar="N",
        help="read at most N images of each split",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it to FILE")
    return parser


def run_doctor(args: argparse.Namespace) -> int:
    """Check what the command line names, print it, and return the exit code.

    Raises:
        ToolkitError: nothing to check was given.
    """
    if not (args.cfg or args.data or args.weights):
        raise ToolkitError("", "nothing to check", "give at least one of --cfg, --data and --weights")
    with _kept_warnings() as warnings:
        cfg = _check_network(args.cfg, args.weights)
        data = _check_data(args.data, args.images)
    network = cfg.network
    findings = [*cfg.findings, *warnings]
    result: dict[str, object] = {}
    if network is not None:
        classes = data.data.classes if data and data.data else None
        findings += check_heads(network, classes)
        result |= _about_network(network, cfg, args.cfg, findings)
    if data is not None:
        findings += data.findings
        tables.print_data(data)
        result["data"] = tables.data_json(data)
    if network is not None and data is not None and (anchors := check_anchors(network, data)):
        tables.print_anchors(anchors)
        findings += judge_anchors(anchors.current, anchors.suggested, network.source)
        result["anchors"] = anchors
    if args.weights:
        with _kept_warnings() as warnings:
            findings += _weights_findings(network, args.weights)
        findings += warnings
    tables.print_findings(findings)
    code = max((EXIT_CODES[finding.severity] for finding in findings), default=0)
    if args.json:
        everything = {"exit_code": code, "findings": findings, **result, "arguments": arguments(args)}
        write_json(args.json, everything | provenance(args))
    if code < EXIT_CODES["error"] and args.cfg and args.data:
        weights = f" --weights {quoted(args.weights)}" if args.weights else ""
        next_command(f"python train.py --cfg {quoted(args.cfg)} --data {quoted(args.data)}{weights}")
    return code


@contextmanager
def _kept_warnings() -> Iterator[list[Finding]]:
    """Warnings about cfg and weights become findings; of all else that is logged the checks say more."""
    kept: list[Finding] = []
    package = __name__.partition(".")[0]

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING and record.name.startswith(f"{package}.darknet"):
                place, _, rest = record.getMessage().partition(": ")
                fact, _, remedy = rest.partition("; ")
                kept.append(Finding("warning", place, fact, remedy))

    logger, keeper = logging.getLogger(package), Keeper()
    propagated = logger.propagate
    logger.addHandler(keeper)
    logger.propagate = False
    try:
        yield kept
    finally:
        logger.removeHandler(keeper)
        logger.propagate = propagated


def _check_network(cfg: Path | None, weights: Path | None) -> CfgCheck:
    """The network of the cfg, or of the cfg that a checkpoint carries."""
    if cfg is not None:
        return check_cfg(cfg)
    if weights is not None and is_checkpoint(weights):
        try:
            text = read_checkpoint(weights).cfg
            return CfgCheck(Network.from_text(text, f"cfg in {weights}") if text else None, {}, ())
        except ToolkitError:
            pass  # told of by the check of the weights
    return CfgCheck(None, {}, ())


def _check_data(path: Path | None, images: int) -> DataCheck | None:
    if path is None:
        return None
    with tqdm(desc="reading images", unit="image", leave=False, disable=None) as bar:
        return check_data(available(path), images, bar.update)


def _about_network(
    network: Network, cfg: CfgCheck, path: Path | None, findings: list[Finding]
) -> dict[str, object]:
    """Print sections, what can be pruned and which programs take it; findings are added to."""
    costs = section_costs(network)
    tables.print_sections(network, costs, cfg.corrected)
    prunable = what_can_be_pruned(network)
    tables.print_prunable(prunable)
    runtimes = {name: check(network) for name, check in RUNTIMES.items()}
    written: tuple[RuntimeFinding, ...] = ()
    if path is not None and not cfg.corrected:
        written = opencv_text_findings(read_text(path), network)
    tables.print_runtimes(runtimes, written)
    findings += [finding for found in (*runtimes.values(), written) for finding in found]
    return {
        "network": tables.network_json(network, costs),
        "prunable": prunable,
        "runtimes": tables.runtimes_json(runtimes, written),
    }


def _weights_findings(network: Network | None, path: Path) -> tuple[Finding, ...]:
    if network is not None:
        return check_weights(network, path)
    try:
        if is_checkpoint(path):
            read_checkpoint(path)
            return (Finding("note", str(path), "is a checkpoint; there is no network to compare it with"),)
        header, _, floats = read_header(path)
    except ToolkitError as error:
        return (Finding.of(error, str(path)),)
    version = f"{header.major}.{header.minor}.{header.revision}"
    fact = f"is a Darknet weights file, version {version}: {floats:,} floats, {header.seen:,} images seen"
    return (Finding("note", str(path), fact, "give --cfg to compare it with a network"),)
