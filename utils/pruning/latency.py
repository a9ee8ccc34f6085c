"""Latency tables: the time of a convolution of any widths on one runtime of one machine, from measurements.

Time is a staircase over the widths: vector instructions process 8 or 16 channels at once, so 113 to 128
output channels may all cost the same. Therefore a width is first rounded up to the end of its step, and times
are interpolated between step ends only. Widths inside a step can even cost more than its end (the runtime
falls back to slower code): the table is for networks whose widths are step ends, as `align` makes them.

Widths of 8 and 16 channels measured, on a runtime without steps:

>>> conv = ConvClass((3, 3), (1, 1), (1, 1), (1, 1), "dense", "leaky", 26, 26)
>>> machine = Fingerprint("torch", "2", "some CPU", 2, 1, "float32")
>>> table = LatencyTable(machine, {conv: {(8, 8): 1.0, (8, 16): 2.0, (16, 8): 2.0, (16, 16): 4.0}})
>>> table.milliseconds(conv, 8, 16), table.milliseconds(conv, 12, 16), table.milliseconds(conv, 16, 32)
(2.0, 3.0, 8.0)

Invariants: times never fall with either width; they are exact at measured widths unless a wider layer was
measured to be faster; all widths of one step cost the same; a table equals `from_json` of its `to_json`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import PruningError

Axis = Literal["inputs", "outputs", "depthwise"]
LayerWidths = tuple[int, int]  # inputs, outputs
STEPS = (1, 2, 4, 8, 16, 32)  # possible lengths of a step, in channels
FREE = 0.03  # relative cost of rounding up, on average, that is ignored


@dataclass(frozen=True)
class ConvClass:
    """A convolution without its widths; pairs are (height, width).

    Attributes:
        groups: "dense"; "depthwise:M", M outputs for each input channel; "grouped:N", N groups.
        activation: by the front end's name; "none" without one.
        height, width: size of its input, in cells.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: str
    activation: str
    height: int
    width: int

    @property
    def is_depthwise(self) -> bool:
        """Whether every output channel reads one input channel, so that the outputs determine the inputs."""
        return self.groups.startswith("depthwise")

    @property
    def sections(self) -> int:
        """Number of parts of a width; steps are those of a single part."""
        return int(self.groups.removeprefix("grouped:")) if self.groups.startswith("grouped") else 1

    def __str__(self) -> str:
        size, stride = f"{self.kernel[0]}x{self.kernel[1]}", self.stride[0]
        kind = "" if self.groups == "dense" else f" {self.groups}"
        step = f" / {stride}" if stride > 1 else ""
        return f"{size}{step}{kind} {self.activation} at {self.width}x{self.height}"


@dataclass(frozen=True)
class Fingerprint:
    """The machine and runtime of a measurement.

    Attributes:
        runtime: name of the runtime.
        version: of the runtime.
        cpu: model of the processor (or of the GPU).
        cores: of the machine.
        threads: number of threads of the runtime.
        precision: number format in which it computes.
    """

    runtime: str
    version: str
    cpu: str
    cores: int
    threads: int
    precision: str

    def differences(self, other: "Fingerprint") -> tuple[str, ...]:
        """The differences to `other`, one "name: this, that" for each."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return tuple(f"{name}: {mine}, {theirs}" for name, mine, theirs in pairs if mine != theirs)


@dataclass(frozen=True)
class Calibration:
    """From the sum over all convolutions to the whole network: scale * sum + overhead, in milliseconds.

    Operations between convolutions (pools, sums, routes) get faster with the widths too, but not to zero.
    """

    scale: float = 1.0
    overhead: float = 0.0

    def __call__(self, convolutions: float) -> float:
        """Milliseconds of a network whose convolutions take `convolutions` milliseconds."""
        return self.scale * convolutions + self.overhead

    @classmethod
    def fitted(cls, predicted: Sequence[float], measured: Sequence[float]) -> Self:
        """Fit a line through networks of several widths (least relative squares); one network gives a scale.

        >>> Calibration.fitted([10.0, 20.0], [12.0, 22.5])
        Calibration(scale=1.05, overhead=1.5)
        """
        weights = 1 / np.array(measured)
        columns = np.stack([np.array(predicted) * weights, weights], axis=1)
        scale, overhead = np.linalg.lstsq(columns, np.ones(len(weights)), rcond=None)[0].tolist()
        if len(weights) == 1 or overhead < 0 or scale <= 0:  # operations between convolutions take time too
            scale, overhead = float(np.mean(np.array(measured) / np.array(predicted))), 0.0
        return cls(round(scale, 6), round(overhead, 6))


@dataclass(frozen=True)
class _Grid:
    """Milliseconds (inputs, outputs), non-decreasing along both axes."""

    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    milliseconds: NDArray[np.float64]


@dataclass(frozen=True)
class LatencyTable:
    """Measured milliseconds of convolutions.

    Attributes:
        fingerprint: machine and runtime that they are of.
        points: class -> (inputs, outputs) -> milliseconds; inputs are 1 for a depthwise class.
        probes: axis -> width -> milliseconds of a representative convolution at neighbouring widths; the
            steps are derived from them.
    """

    fingerprint: Fingerprint
    points: Mapping[ConvClass, Mapping[LayerWidths, float]] = field(default_factory=dict)
    probes: Mapping[Axis, Mapping[int, float]] = field(default_factory=dict)

    def milliseconds(self, conv: ConvClass, inputs: int, outputs: int) -> float:
        """Milliseconds of one run of such a convolution.

        Bilinear between measured widths; beyond them in proportion to the multiply-adds.

        Raises:
            PruningError: the class was not measured.
        """
        grid = self._grids.get(conv)
        if grid is None:
            raise PruningError(
                "latency table", f"{conv} was not measured", "run latency.py on this cfg and size"
            )
        if conv.is_depthwise:
            ends = (1, _step_end(outputs, self.step("depthwise"), grid.outputs))
        else:
            steps = [self.step(axis) * conv.sections for axis in ("inputs", "outputs")]
            ends = (
                _step_end(inputs, steps[0], grid.inputs),
                _step_end(outputs, steps[1], grid.outputs),
            )
        return _interpolated(grid, *ends)

    def step(self, axis: Axis) -> int:
        """Length of a step in channels: the largest multiple to round up to for less than `FREE`."""
        return _free_step(self.probes.get(axis, {}))

    @property
    def align(self) -> int:
        """The multiple of channels that pruning should keep.

        A width is the outputs of one layer and the inputs of the next, which may have steps of different
        lengths: rounding up must be free in the sum of both (and of a depthwise layer in between).
        """
        if not self.probes:
            return 1
        widths = set.intersection(*(set(probe) for probe in self.probes.values()))
        return _free_step({width: sum(probe[width] for probe in self.probes.values()) for width in widths})

    def missing(
        self, conv: ConvClass, inputs: tuple[int, ...], outputs: tuple[int, ...]
    ) -> list[LayerWidths]:
        """Widths still to measure so that the table covers `conv` up to the largest `inputs` and `outputs`.

        Empty if a complete grid reaches that far; otherwise the missing points of a grid of these widths and
        those already measured.
        """
        known = self.points.get(conv, {})
        grid = self._grids.get(conv)
        if grid is not None and grid.inputs[-1] >= max(inputs) and grid.outputs[-1] >= max(outputs):
            return []
        rows, columns = ({widths[axis] for widths in known} for axis in (0, 1))
        wanted = itertools.product(sorted(rows | set(inputs)), sorted(columns | set(outputs)))
        return [widths for widths in wanted if widths not in known]

    def with_points(self, conv: ConvClass, points: Mapping[LayerWidths, float]) -> Self:
        """The table with more measurements of `conv`."""
        return replace(self, points={**self.points, conv: {**self.points.get(conv, {}), **points}})

    def with_probe(self, axis: Axis, probe: Mapping[int, float]) -> Self:
        """The table with the probe of `axis`."""
        return replace(self, probes={**self.probes, axis: dict(probe)})

    @cached_property
    def _grids(self) -> dict[ConvClass, _Grid]:
        grids = ((conv, _grid(points)) for conv, points in self.points.items())
        return {conv: grid for conv, grid in grids if grid is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        return {
            "fingerprint": asdict(self.fingerprint),
            "probes": {axis: [list(item) for item in probe.items()] for axis, probe in self.probes.items()},
            "classes": [
                {"class": asdict(conv), "points": [[*widths, ms] for widths, ms in points.items()]}
                for conv, points in self.points.items()
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The table of a file.

        Raises:
            KeyError, TypeError, ValueError: the data is not such a table.
        """
        return cls(
            fingerprint=Fingerprint(**data["fingerprint"]),
            points={
                _conv_class(item["class"]): {(row, column): ms for (row, column), ms in _read(item["points"])}
                for item in data["classes"]
            },
            probes={
                axis: {width: ms for (width,), ms in _read(data["probes"][axis])}
                for axis in get_args(Axis)
                if axis in data["probes"]
            },
        )


def _conv_class(data: Mapping[str, Any]) -> ConvClass:
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in dict(data).items()}
    return ConvClass(**values)


def _read(rows: list[list[float]]) -> Iterator[tuple[list[int], float]]:
    for *widths, milliseconds in rows:
        if not 0 < milliseconds < np.inf:
            raise ValueError(f"{milliseconds} milliseconds")
        yield [int(width) for width in widths], float(milliseconds)


def _grid(points: Mapping[LayerWidths, float]) -> _Grid | None:
    """The measurements as a non-decreasing grid; None if it has gaps."""
    rows, columns = (sorted({widths[axis] for widths in points}) for axis in (0, 1))
    if not points or len(points) < len(rows) * len(columns):
        return None
    measured = np.array([[points[row, column] for column in columns] for row in rows])
    # Bisection on a budget and worth per millisecond need costs that never fall with the width. If a wider
    # layer was faster, its time is used for the narrower one: disturbances only add time, so the higher of
    # the two is the wrong one, and if it is right, the wider layer can be used instead.
    rising = measured[::-1, ::-1]
    for axis in (0, 1):
        rising = np.minimum.accumulate(rising, axis=axis)
    rising = rising[::-1, ::-1]
    return _Grid(np.array(rows), np.array(columns), rising)


def _step_end(width: int, step: int, measured: NDArray[np.int64]) -> int:
    """The first multiple of `step` or measured width from `width` on."""
    end = -(-width // step) * step
    above = measured[measured >= width]
    return min(end, int(above[0])) if len(above) else end


def _interpolated(grid: _Grid, inputs: int, outputs: int) -> float:
    row = float(np.clip(inputs, grid.inputs[0], grid.inputs[-1]))
    column = float(np.clip(outputs, grid.outputs[0], grid.outputs[-1]))
    over_inputs = [np.interp(column, grid.outputs, line) for line in grid.milliseconds]
    return float(np.interp(row, grid.inputs, over_inputs)) * (inputs / row) * (outputs / column)


def _free_step(probe: Mapping[int, float]) -> int:
    """The largest of `STEPS` that is free, like all before it, for widths aligned to the one before it."""
    best = 1
    for step in STEPS[1:]:
        ends = {width: width + best for width in probe if width % step == best}
        # The gain at one width does not pay for the loss at another.
        rises = [max(1.0, probe[end] / probe[width]) for width, end in ends.items() if end in probe]
        if not rises or sum(rises) / len(rises) > 1 + FREE:
            break
        best = step
    return best
