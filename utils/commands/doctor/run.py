"""Check a network, its data set and its weights, from Python: `check(DoctorOptions(...))`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...darknet.cfg import read_text
from ...darknet.checkpoint import is_checkpoint, read_checkpoint
from ...darknet.checks import CfgCheck, check_cfg, check_heads, check_weights
from ...darknet.compatibility import RUNTIMES, RuntimeFinding, opencv_text_findings, verdict
from ...darknet.network import Network, SectionCost, section_costs
from ...darknet.weights import read_header
from ...data.checks import DataCheck, check_data
from ...detection.anchors import judge_anchors
from ...errors import Finding, ToolkitError
from ...options import NON_NEGATIVE_INT, check_ranges, option
from ...runtimes.opencv import opencv_finding
from ..arguments import CommandOptions, InputOptions, arguments, provenance, write_json
from ..inputs import available
from ..output import Track, advancing, untracked
from .checks import Anchors, Prunable, check_anchors, prunable_units

EXIT_CODES = {"note": 0, "warning": 1, "error": 2}


@dataclass(frozen=True)
class DoctorOptions(CommandOptions, InputOptions):
    """Options of the doctor: at least one of the files."""

    images: int = option(5000, "read at most N images of each split", NON_NEGATIVE_INT, metavar="N")
    json: Path | None = option(None, "write all results to FILE", Path, metavar="FILE")

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class NetworkCheck:
    """A network, its costs and what pruning and other programs can do with it.

    Attributes:
        network: read from the cfg.
        corrected: sections whose filters had to be corrected for a network to exist -> filters as written.
        costs: of each section.
        prunable: what can be pruned.
        runtimes: what each program refuses or reads wrongly.
        as_written: what OpenCV reads wrongly in the text of the cfg alone.
    """

    network: Network
    corrected: Mapping[int, int]
    costs: Sequence[SectionCost]
    prunable: Prunable
    runtimes: Mapping[str, tuple[RuntimeFinding, ...]]
    as_written: tuple[RuntimeFinding, ...]

    @property
    def findings(self) -> list[Finding]:
        """Those about the programs."""
        return [finding for found in (*self.runtimes.values(), self.as_written) for finding in found]


@dataclass(frozen=True)
class DoctorResult:
    """Result of the checks.

    Attributes:
        findings: of all checks.
        network: None where there is no valid network.
        data: None where no data set was given.
        anchors: of the network on the data set; None without both.
    """

    findings: tuple[Finding, ...]
    network: NetworkCheck | None
    data: DataCheck | None
    anchors: Anchors | None

    @property
    def exit_code(self) -> int:
        """0 if all is well, 1 with warnings, 2 with errors."""
        return max((EXIT_CODES[finding.severity] for finding in self.findings), default=0)


def check(options: DoctorOptions, *, track: Track = untracked) -> DoctorResult:
    """Check the files that the options name; continues after an error, so that one run reports everything.

    Args:
        options: what to check.
        track: shows the progress, see `Track`.

    Raises:
        ToolkitError: nothing to check was given.
    """
    if not (options.cfg or options.data or options.weights):
        raise ToolkitError("doctor", "nothing to check", "give at least one of --cfg, --data and --weights")
    with _logged_findings() as logged:
        cfg = _check_network(options.cfg, options.weights)
        data = _check_data(options.data, options.images, track)
    findings: list[Finding] = [*cfg.findings, *logged]
    network, anchors = None, None
    if cfg.network is not None:
        findings += check_heads(cfg.network, data.data.classes if data and data.data else None)
        network = _about_network(cfg.network, cfg, options.cfg)
        findings += [*network.findings, *opencv_finding()]
    if data is not None:
        findings += data.findings
    if network is not None and data is not None and (anchors := check_anchors(network.network, data)):
        findings += judge_anchors(anchors.current, anchors.suggested, network.network.source)
    if options.weights:
        with _logged_findings() as logged:
            findings += _weights_findings(cfg.network, options.weights)
        findings += logged
    result = DoctorResult(tuple(findings), network, data, anchors)
    if options.json:
        made = {"arguments": arguments(options), **provenance(options)}
        write_json(options.json, result_json(result) | made)
    return result


@contextmanager
def _logged_findings() -> Iterator[list[Finding]]:
    """Findings that are logged are collected; of all else that is logged the checks say more."""
    kept: list[Finding] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.msg, Finding):
                kept.append(record.msg)

    logger, keeper = logging.getLogger(__name__.partition(".")[0]), Keeper()
    propagated = logger.propagate
    logger.addHandler(keeper)
    logger.propagate = False
    try:
        yield kept
    finally:
        logger.removeHandler(keeper)
        logger.propagate = propagated


def _check_network(cfg: Path | None, weights: Path | None) -> CfgCheck:
    """The network of the cfg, or of the cfg that a checkpoint contains."""
    if cfg is not None:
        return check_cfg(cfg)
    if weights is not None and is_checkpoint(weights):
        try:
            text = read_checkpoint(weights).cfg
            return CfgCheck(Network.from_text(text, f"cfg in {weights}") if text else None, {}, ())
        except ToolkitError:
            pass  # reported by the check of the weights
    return CfgCheck(None, {}, ())


def _check_data(path: Path | None, images: int, track: Track) -> DataCheck | None:
    if path is None:
        return None
    with advancing(track, None, "reading images") as advance:
        return check_data(available(path), images, lambda: advance(1))


def _about_network(network: Network, cfg: CfgCheck, path: Path | None) -> NetworkCheck:
    as_written: tuple[RuntimeFinding, ...] = ()
    if path is not None and not cfg.corrected:
        as_written = opencv_text_findings(read_text(path), network)
    runtimes = {name: check_runtime(network) for name, check_runtime in RUNTIMES.items()}
    prunable = prunable_units(network)
    return NetworkCheck(network, cfg.corrected, section_costs(network), prunable, runtimes, as_written)


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


def result_json(result: DoctorResult) -> dict[str, object]:
    """The result as JSON values."""
    values: dict[str, object] = {"exit_code": result.exit_code, "findings": result.findings}
    if result.network is not None:
        found = {**result.network.runtimes, "OpenCV 4, as written": result.network.as_written}
        values["network"] = _network_json(result.network)
        values["prunable"] = result.network.prunable
        values["runtimes"] = {
            name: {"verdict": verdict(findings), "findings": findings} for name, findings in found.items()
        }
    if result.data is not None:
        values["data"] = _data_json(result.data)
    if result.anchors is not None:
        values["anchors"] = result.anchors
    return values


def _network_json(check: NetworkCheck) -> dict[str, object]:
    network, costs = check.network, check.costs
    return {
        "cfg": network.source,
        "input": network.shape(-1)._asdict(),
        "parameters": sum(cost.parameters for cost in costs),
        "macs": sum(cost.macs for cost in costs),
        "sections": [
            {
                "index": index,
                "kind": section.kind,
                "line": section.line,
                "sources": network.sources(index),
                "output": network.shape(index)._asdict(),
                "parameters": cost.parameters,
                "macs": cost.macs,
            }
            for index, (section, cost) in enumerate(zip(network.sections, costs, strict=True))
        ],
    }


def _data_json(check: DataCheck) -> dict[str, object]:
    classes = check.data.classes if check.data else 0
    return {
        split.name: {
            "images": len(split.images),
            "objects": len(split.objects),
            "class_counts": split.class_counts(classes),
            "images_read": len(split.files),
            "details": split.details,
        }
        for split in check.splits
    }
