"""What a convolution of given widths costs on one runtime of one machine, from measurements.

Time is a staircase over the widths: vector instructions work on 8 or 16 channels at once, so 113 to 128
output channels may all cost the same. Therefore a width is first rounded up to the end of its stair, and only
between stair ends is interpolated. Widths inside a stair can even cost more than its end (the runtime falls
back to plainer code): the table answers for networks whose widths lie at stair ends, as `align` makes them.

Two widths of 8 and 16 channels measured, on a runtime whose probes know no stairs:

>>> conv = ConvClass((3, 3), (1, 1), (1, 1), (1, 1), "dense", "leaky", 26, 26)
>>> machine = Fingerprint("torch", "2", "some CPU", 2, 1, "float32")
>>> table = LatencyTable(machine, {conv: {(8, 8): 1.0, (8, 16): 2.0, (16, 8): 2.0, (16, 16): 4.0}})
>>> table.milliseconds(conv, 8, 16), table.milliseconds(conv, 12, 16), table.milliseconds(conv, 16, 32)
(2.0, 3.0, 8.0)

Invariants: never falling in either width; exact at measured widths unless a wider layer was measured to be
faster; all widths of one stair cost the same; `LatencyTable.from_json(table.to_json()) == table`.
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
STEPS = (1, 2, 4, 8, 16, 32)  # channels that a stair may be long
FREE = 0.03  # what rounding up may cost on average and still count as nothing


@dataclass(frozen=True)
class ConvClass:
    """Everything of a convolution but its widths; pairs are (height, width).

    Attributes:
        groups: "dense"; "depthwise:M", M outputs for each input channel; "grouped:N", N groups.
        activation: by the front end's name; "none" without one.
        height, width: of its input, cells.
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
        """Whether every output channel reads one input channel, so that the outputs tell the inputs."""
        return self.groups.startswith("depthwise")

    @property
    def sections(self) -> int:
        """Parts that a width is cut into: stairs are those of a single part."""
        return int(self.groups.removeprefix("grouped:")) if self.groups.startswith("grouped") else 1

    def __str__(self) -> str:
        size, stride = f"{self.kernel[0]}x{self.kernel[1]}", self.stride[0]
        kind = "" if self.groups == "dense" else f" {self.groups}"
        step = f" / {stride}" if stride > 1 else ""
        return f"{size}{step}{kind} {self.activation} at {self.width}x{self.height}"


@dataclass(frozen=True)
class Fingerprint:
    """What a measurement depends on beside the network.

    Attributes:
        runtime: name of the runtime.
        version: of the runtime.
        cpu: model of the processor (or of the GPU).
        cores: of the machine.
        threads: that the runtime computes with.
        precision: in which it computes.
    """

    runtime: str
    version: str
    cpu: str
    cores: int
    threads: int
    precision: str

    def differences(self, other: "Fingerprint") -> tuple[str, ...]:
        """What is different in `other`, one "name: this, that" for each."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return tuple(f"{name}: {mine}, {theirs}" for name, mine, theirs in pairs if mine != theirs)


@dataclass(frozen=True)
class Calibration:
    """From the sum over all convolutions to the whole network: scale * sum + overhead, milliseconds.

    What is between convolutions (pools, sums, routes) shrinks with the widths too, only not to nothing.
    """

    scale: float = 1.0
    overhead: float = 0.0

    def __call__(self, convolutions: float) -> float:
        """Milliseconds of a network whose convolutions take so many."""
        return self.scale * convolutions + self.overhead

    @classmethod
    def fitted(cls, predicted: Sequence[float], measured: Sequence[float]) -> Self:
        """The line through networks of several widths, least squares of relative errors; one gives a scale.

        >>> Calibration.fitted([10.0, 20.0], [12.0, 22.5])
        Calibration(scale=1.05, overhead=1.5)
        """
        weights = 1 / np.array(measured)
        columns = np.stack([np.array(predicted) * weights, weights], axis=1)
        scale, overhead = np.linalg.lstsq(columns, np.ones(len(weights)), rcond=None)[0].tolist()
        if len(weights) == 1 or overhead < 0 or scale <= 0:  # what is between convolutions takes time, too
            scale, overhead = float(np.mean(np.array(measured) / np.array(predicted))), 0.0
        return cls(round(scale, 6), round(overhead, 6))


@dataclass(frozen=True)
class _Grid:
    """Milliseconds (inputs, outputs), never falling along either axis."""

    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    milliseconds: NDArray[np.float64]


@dataclass(frozen=True)
class LatencyTable:
    """Measured milliseconds of convolutions.

    Attributes:
        fingerprint: where they hold.
        points: class -> (inputs, outputs) -> milliseconds; inputs are 1 for a depthwise class.
        probes: axis -> width -> milliseconds of a representative convolution at neighbouring widths; the
            stairs are read from them.
    """

    fingerprint: Fingerprint
    points: Mapping[ConvClass, Mapping[LayerWidths, float]] = field(default_factory=dict)
    probes: Mapping[Axis, Mapping[int, float]] = field(default_factory=dict)

    def milliseconds(self, conv: ConvClass, inputs: int, outputs: int) -> float:
        """What one run of such a convolution takes.

        Between measured widths bilinear; beyond them in proportion to the multiply-adds.

        Raises:
            PruningError: the class was not measured.
        """
        grid = self._grids.get(conv)
        if grid is None:
            raise PruningError(
                "latency table", f"{conv} was not measured", "run latency.py on this cfg and size"
            )
        if conv.is_depthwise:
            ends = (1, _stair_end(outputs, self.step("depthwise"), grid.outputs))
        else:
            steps = [self.step(axis) * conv.sections for axis in ("inputs", "outputs")]
            ends = (
                _stair_end(inputs, steps[0], grid.inputs),
                _stair_end(outputs, steps[1], grid.outputs),
            )
        return _interpolated(grid, *ends)

    def step(self, axis: Axis) -> int:
        """Channels of a stair: the largest step that one can round up to for less than `FREE`."""
        return _free_step(self.probes.get(axis, {}))

    @property
    def align(self) -> int:
        """The multiple that pruning should keep.

        A width is the outputs of one layer and the inputs of the next, and these may have stairs of different
        lengths: rounding up must be free in the sum of both (and of a depthwise layer in between).
        """
        if not self.probes:
            return 1
        widths = set.intersection(*(set(probe) for probe in self.probes.values()))
        return _free_step({width: sum(probe[width] for probe in self.probes.values()) for width in widths})

    def missing(
        self, conv: ConvClass, inputs: tuple[int, ...], outputs: tuple[int, ...]
    ) -> list[LayerWidths]:
        """Widths to measure before the table answers for `conv` up to the largest of `inputs` and `outputs`.

        None if a whole grid reaches that far; otherwise what a grid of these widths and those already
        measured lacks.
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
        """The table with the stairs along `axis`."""
        return replace(self, probes={**self.probes, axis: dict(probe)})

    @cached_property
    def _grids(self) -> dict[ConvClass, _Grid]:
        grids = ((conv, _grid(points)) for conv, points in self.points.items())
        return {conv: grid for conv, grid in grids if grid is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain values, the shape of the file."""
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
    """The measurements as a grid without noise that would make a wider layer cheaper; None with gaps."""
    rows, columns = (sorted({widths[axis] for widths in points}) for axis in (0, 1))
    if not points or len(points) < len(rows) * len(columns):
        return None
    measured = np.array([[points[row, column] for column in columns] for row in rows])
    # A budget searched by bisection, and a knapsack's score per millisecond, need costs that never fall. If
    # a wider layer was faster, its cost holds for the narrower one: disturbances only add time, so the higher
    # of the two is the one that errs, and if it does not, one can have the wider layer for less.
    rising = measured[::-1, ::-1]
    for axis in (0, 1):
        rising = np.minimum.accumulate(rising, axis=axis)
    rising = rising[::-1, ::-1]
    return _Grid(np.array(rows), np.array(columns), rising)


def _stair_end(width: int, step: int, measured: NDArray[np.int64]) -> int:
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
    """The largest of `STEPS` that is free, as are all before it, for widths aligned to the one before it."""
    best = 1
    for step in STEPS[1:]:
        ends = {width: width + best for width in probe if width % step == best}
        # What one width saves pays for no other's cost.
        rises = [max(1.0, probe[end] / probe[width]) for width, end in ends.items() if end in probe]
        if not rises or sum(rises) / len(rises) > 1 + FREE:
            break
        best = step
    return best
