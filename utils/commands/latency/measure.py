"""Measurement of convolutions on a runtime, and the file that stores it.

The time of a single convolution includes work that a network does not do: runtimes store maps in their own
layouts, and converting image and result can take longer than the convolution itself. Therefore one and three
convolutions of the same map are measured interleaved and half the difference is taken; a max-pooling after
each reduces its output to a single cell. Three sets of weights also leave fewer of them in the cache, as in a
whole network.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...darknet.modules import ACTIVATIONS
from ...errors import ToolkitError
from ...exporters.tracing import module_session
from ...profiling import fastest
from ...pruning.conv_classes import Convolution
from ...pruning.latency import Axis, ConvClass, Fingerprint, LatencyTable, LayerWidths
from ...runtimes.runtime import Runtime, random_images
from ..output import write_json

FOLDER = Path("runs/latency")
WIDTHS = 6  # per axis
_BRANCHES = 3
_ROUNDS, SECONDS = 5, 0.03  # of each point, at least
PROBE_SECONDS = 0.1  # latency steps are read from differences of a few per cent
_LEAST = 1e-5  # milliseconds; a difference may vanish in the clock's noise, a cost must not
_LOW_END = 1.5  # widths are spaced as powers: pruning ends at narrow ones
_SMALLEST_STEP = 8  # of measured widths, where latency steps are shorter or absent

# Widths that reveal latency steps: each step of 2 .. 32 occurs in several; the other width is the largest.
_PROBE_WIDTHS = (33, 34, 36, 40, 42, 44, 48, 49, 50, 52, 56, 57, 58, 60, 61, 62, 63, 64)
_PROBES: Mapping[Axis, str] = {"inputs": "dense", "outputs": "dense", "depthwise": "depthwise:1"}

Point = tuple[ConvClass, LayerWidths]


class Branches(nn.Module):
    """Several convolutions of one map, each with its activation; returns a single cell of each result.

    Args:
        conv: their class.
        widths: inputs (1 for a depthwise class) and outputs.
        count: of the branches.
    """

    def __init__(self, conv: ConvClass, widths: LayerWidths, count: int) -> None:
        super().__init__()
        self.inputs = _inputs(conv, widths)
        groups = self.inputs if conv.is_depthwise else conv.sections
        activation = ACTIVATIONS.get(conv.activation, nn.Identity)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    self.inputs, widths[1], conv.kernel, conv.stride, conv.padding, conv.dilation, groups
                ),
                activation(),
                nn.MaxPool2d(1, stride=_output_size(conv)),
            )
            for _ in range(count)
        )

    def forward(self, maps: Tensor) -> tuple[Tensor, ...]:
        """(1, inputs, H, W) -> for each branch (1, outputs, 1, 1)."""
        return tuple(branch(maps) for branch in self.branches)


def fingerprint(runtime: Runtime) -> Fingerprint:
    """This machine, with torch's present number of threads."""
    cpu, threads = runtime.device or processor(), torch.get_num_threads()
    return Fingerprint(runtime.name, runtime.version, cpu, os.cpu_count() or 1, threads, runtime.precision)


def table_path(mark: Fingerprint) -> Path:
    """Default file of the measurements of a machine."""
    digest = hashlib.sha256(repr(astuple(mark)).encode()).hexdigest()[:8]
    return FOLDER / f"{mark.runtime}-{mark.threads}t-{digest}.json"


def find_or_measure(
    convolutions: Sequence[Convolution], runtime: Runtime, path: Path | None = None, count: int = WIDTHS
) -> LatencyTable:
    """Latency table for these convolutions and all narrower ones.

    Missing points are measured, with a progress bar, and added to the file; an interrupted run keeps them.

    Args:
        convolutions: of a network at its full width.
        runtime: where they run, with torch's number of threads.
        path: of the file; None for the machine's own in `FOLDER`.
        count: widths to measure along each axis.

    Raises:
        ToolkitError: the file is invalid or of another machine, or the runtime is missing.
    """
    mark = fingerprint(runtime)
    path = path or table_path(mark)
    table = _read(path, mark) if path.exists() else LatencyTable(mark)
    table = _with_probes(table, runtime, path)
    points = list(_missing(table, convolutions, count))
    saved = None
    try:
        bar = tqdm(points, f"{runtime.name}, threads {mark.threads}", unit="point", disable=not points)
        for conv, widths in bar:
            if saved not in (None, conv):
                write_json(path, table.to_json())
            table, saved = table.with_points(conv, {widths: measure_point(conv, widths, runtime)}), conv
    finally:
        if points:
            write_json(path, table.to_json())
    return table


def spaced_widths(full: int, count: int, step: int) -> tuple[int, ...]:
    """Multiples of `step` up to `full` and `full` itself, closer to each other at the low end.

    >>> spaced_widths(512, 6, 8), spaced_widths(255, 3, 16)
    ((8, 48, 136, 240, 368, 512), (16, 96, 255))
    """
    shares = [(number / max(1, count - 1)) ** _LOW_END for number in range(1, count)] or [1.0]
    wanted = [step, *(-(-full * share // step) * step for share in shares)]
    return tuple(sorted({min(full, int(width)) for width in wanted}))


def _read(path: Path, mark: Fingerprint) -> LatencyTable:
    try:
        table = LatencyTable.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ToolkitError(
            path, f"not a valid latency table ({error})", "give another file or remove it"
        ) from error
    if differences := table.fingerprint.differences(mark):
        fact = f"was measured on another machine or runtime ({'; '.join(differences)})"
        raise ToolkitError(
            path, fact, "give another file, or leave --latency-table out to use this machine's"
        )
    return table


def _with_probes(table: LatencyTable, runtime: Runtime, path: Path) -> LatencyTable:
    wanted = [axis for axis in _PROBES if axis not in table.probes]
    full = max(_PROBE_WIDTHS)
    for axis in tqdm(wanted, f"{runtime.name}, latency steps", unit="axis", disable=not wanted):
        conv = ConvClass((3, 3), (1, 1), (1, 1), (1, 1), _PROBES[axis], "leaky", 52, 52)
        pairs = {
            "inputs": {width: (width, full) for width in _PROBE_WIDTHS},
            "outputs": {width: (full, width) for width in _PROBE_WIDTHS},
            "depthwise": {width: (1, width) for width in _PROBE_WIDTHS},
        }[axis]
        table = table.with_probe(
            axis, {w: measure_point(conv, pair, runtime, PROBE_SECONDS) for w, pair in pairs.items()}
        )
        write_json(path, table.to_json())
    return table


def _missing(table: LatencyTable, convolutions: Sequence[Convolution], count: int) -> Iterator[Point]:
    """All points to measure, class by class."""
    for conv in dict.fromkeys(found.conv for found in convolutions):
        own = [found for found in convolutions if found.conv == conv]
        for widths in table.missing(conv, *_axes(table, own, count)):
            yield conv, widths


def _axes(
    table: LatencyTable, own: Sequence[Convolution], count: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input and output widths at which to measure the one class of `own`."""
    conv, outputs = own[0].conv, max(found.outputs for found in own)
    if conv.is_depthwise:
        step = max(_SMALLEST_STEP, table.step("depthwise")) * int(conv.groups.split(":")[1])
        return (1,), spaced_widths(outputs, 2 * count, step)  # a line is cheap
    steps = [max(_SMALLEST_STEP, table.step(axis)) * conv.sections for axis in ("inputs", "outputs")]
    fixed = {found.inputs for found in own if found.reads_image}
    free = [found.inputs for found in own if not found.reads_image]
    inputs = fixed | set(spaced_widths(max(free), count, steps[0]) if free else ())
    return tuple(sorted(inputs)), spaced_widths(outputs, count, steps[1])


def measure_point(conv: ConvClass, widths: LayerWidths, runtime: Runtime, seconds: float = SECONDS) -> float:
    """Milliseconds of one convolution inside a network."""
    images = random_images((1, _inputs(conv, widths), conv.height, conv.width))
    runs = {}
    with torch.random.fork_rng(devices=[]):
        for count in (1, _BRANCHES):
            module = Branches(conv, widths, count).eval()
            runs[str(count)] = module_session(module, torch.from_numpy(images), runtime).bound(images)
    best = fastest(runs, _ROUNDS, seconds)
    return max(_LEAST, (best[str(_BRANCHES)] - best["1"]) / (_BRANCHES - 1))


def _inputs(conv: ConvClass, widths: LayerWidths) -> int:
    return widths[1] // int(conv.groups.split(":")[1]) if conv.is_depthwise else widths[0]


def _output_size(conv: ConvClass) -> tuple[int, int]:
    height, width = (
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, padding, dilation, kernel, stride in zip(
            (conv.height, conv.width), conv.padding, conv.dilation, conv.kernel, conv.stride, strict=True
        )
    )
    return height, width


def processor() -> str:
    """Model of the processor with family and model number, since cloud machines report a generic name."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return platform.processor() or platform.machine()
    pairs = (line.split(":", 1) for line in file.read_text().split("\n\n")[0].splitlines() if ":" in line)
    values = {name.strip(): value.strip() for name, value in pairs}
    parts = [values[name] for name in ("model name", "cpu family", "model") if name in values]
    return ", ".join(parts) or platform.machine()
