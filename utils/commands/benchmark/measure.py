"""Measurement of a benchmark by cells; a cell is one input on one runtime, its models measured interleaved.

Invariant: the rows of a cell come from the same rounds, so that ratio i of two models pairs calls under the
same conditions. A cell is measured as a whole, or not at all if the file has results of all models that can
be run. A row without results is always retried.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ...data.images import fit, resize_exactly
from ...detection.boxes import suppress
from ...errors import ToolkitError
from ...profiling import interleaved_times, latency_of, measure_latency, median_interval
from ...pruning.layers import torch_threads
from ...runtimes.detecting import Thresholds, as_predict
from ...runtimes.runtime import Images, Runtime, Session, find_runtime
from ...runtimes.torch import Torch
from ..csv_results import read_rows, write_rows
from ..latency.measure import processor
from .models import Model, digest_of_all

CELL = 32  # pixels that rectangular inputs are cut in
LEAST_ROUNDS = 6  # fewer give no 95 % interval of a median
_WARMUP = 2
_ROUNDS_BESIDE = 10  # of preprocessing and NMS, which take little

Image = NDArray[np.uint8]
Key = tuple[object, ...]


@dataclass(frozen=True)
class Cell:
    """One input on one runtime.

    Attributes:
        runtime: its name.
        threads: of torch, which runtimes take over.
        shape: "square" or "rect".
        size: of the long side in pixels.
        batch: images at a time.
    """

    runtime: str
    threads: int
    shape: str
    size: int
    batch: int


@dataclass(frozen=True)
class CellResult:
    """Result of one model in one cell.

    Attributes:
        model: its name.
        digest: of its files.
        reference: name of the first model.
        together: digest of all models measured interleaved, in order; other companions mean another result.
        image: name of the input image; another image means another result.
        machine: model of the processor or GPU.
        version: of the runtime.
        runtime, threads, shape, size, batch: the cell, see `Cell`.
        height, width: of the input in pixels.
        rounds: timed calls; 0 where there are none.
        p50, p95: milliseconds of a whole batch that half and 95 % of the calls took at most.
        faster: the reference's time / this one's, median over the rounds; above 1 this one is faster.
        low, high: the 95 % interval of `faster`, see `profiling.median_interval`.
        prepare: milliseconds to bring an image to the input, median.
        suppress: milliseconds to suppress an image's boxes, median.
        note: why there is no result.
    """

    model: str
    digest: str
    reference: str
    together: str
    image: str
    machine: str
    version: str
    runtime: str
    threads: int
    shape: str
    size: int
    batch: int
    height: int
    width: int
    rounds: int = 0
    p50: float | None = None
    p95: float | None = None
    faster: float | None = None
    low: float | None = None
    high: float | None = None
    prepare: float | None = None
    suppress: float | None = None
    note: str = ""

    @property
    def key(self) -> Key:
        """Identity of the measurement, without its result."""
        names = [field.name for field in fields(self)]
        return astuple(self)[: names.index("rounds")]

    @property
    def cell(self) -> Cell:
        """The cell of this result."""
        return Cell(self.runtime, self.threads, self.shape, self.size, self.batch)

    @property
    def verdict(self) -> str:
        """ "faster" or "slower" than the reference where the interval excludes 1, else nothing."""
        if self.low is None or self.high is None or self.rounds < LEAST_ROUNDS:
            return ""
        return "faster" if self.low > 1 else "slower" if self.high < 1 else ""


@dataclass(frozen=True)
class Effort:
    """Limits of a cell: at most `rounds`, no new round after `seconds`, at least LEAST_ROUNDS."""

    rounds: int = 21
    seconds: float = 6.0


@dataclass(frozen=True)
class Benchmark:
    """A benchmark and the file of its results.

    Attributes:
        models: the first one is the reference.
        image: (h, w, 3) the input; a batch repeats it.
        source: its name in the results.
        path: CSV file of the rows.
        effort: of each cell.
        device: of torch.
    """

    models: Sequence[Model]
    image: Image
    source: str
    path: Path
    effort: Effort
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - is immutable

    def run(self, cells: Sequence[Cell]) -> list[CellResult]:
        """Measure missing cells, with a progress bar; return the results of all cells, in order.

        Raises:
            ToolkitError: the file is not a benchmark.
        """
        found: list[CellResult] = []
        for cell in tqdm(cells, "benchmark", unit="cell", disable=None):
            known = {row.key: row for row in read_rows(self.path, CellResult)}
            with torch_threads(cell.threads):
                runtime, blanks = self._blank(cell)
                rows = blanks if runtime is None else self._rows(cell, runtime, blanks, known)
            if runtime is not None:
                write_rows(self.path, list((known | {row.key: row for row in rows}).values()))
            found += rows
        return found

    def _rows(
        self, cell: Cell, runtime: Runtime, blanks: Sequence[CellResult], known: Mapping[Key, CellResult]
    ) -> list[CellResult]:
        """The known results, unless a model without a result can be run now."""
        rows = [known.get(blank.key, blank) for blank in blanks]
        lacking = [model for model, row in zip(self.models, rows, strict=True) if row.p50 is None]
        if not lacking:
            return rows
        notes: dict[str, str] = {}
        if len(lacking) < len(rows):
            *_, notes = _sessions(lacking, runtime, self._images(cell))
        if len(notes) < len(lacking):
            return self.measured(cell, runtime, blanks)
        return [replace(row, note=notes.get(row.model, row.note)) for row in rows]

    def _blank(self, cell: Cell) -> tuple[Runtime | None, list[CellResult]]:
        """Rows without results, with the reason where the runtime is missing."""
        note, version, machine = "", "", processor()
        runtime: Runtime | None = None
        try:
            runtime = Torch(str(self.device)) if cell.runtime == "torch" else find_runtime(cell.runtime)
            version, machine = runtime.version, runtime.device or machine
        except ToolkitError as error:
            runtime, note = None, str(error)
        height, width = self._prepared(cell).shape[1:]
        place = (machine, version, *astuple(cell), height, width)
        same = (self.models[0].name, digest_of_all(self.models), self.source, *place)
        rows = [CellResult(each.name, each.digest, *same) for each in self.models]
        return runtime, [replace(row, note=note) for row in rows]

    def _prepared(self, cell: Cell) -> Tensor:
        """The image as (C, H, W) in 0..1."""
        if cell.shape == "square":
            return resize_exactly(self.image, (cell.size, cell.size)).div_(255)
        steps = [each.darknet.network.size_step for each in self.models if each.darknet is not None]
        return fit(self.image, (cell.size, cell.size), math.lcm(CELL, *steps))[0].float().div_(255)

    def _images(self, cell: Cell) -> Images:
        return np.stack([self._prepared(cell).numpy()] * cell.batch)

    def measured(self, cell: Cell, runtime: Runtime, blanks: Sequence[CellResult]) -> list[CellResult]:
        """Measure all networks in one cell, interleaved; `blanks` are the rows to fill in."""
        images = self._images(cell)
        sessions, suppressing, notes = _sessions(self.models, runtime, images)
        runs = {name: session.bound(images) for name, session in sessions.items()}
        effort = self.effort
        times = interleaved_times(runs, effort.rounds, _WARMUP, seconds=effort.seconds, least=LEAST_ROUNDS)
        prepare = _milliseconds(lambda: self._prepared(cell))
        first = times.get(self.models[0].name)
        rows = []
        for blank in blanks:
            if blank.model in times:
                row = _filled(blank, times[blank.model], first)
                rows.append(replace(row, prepare=prepare, suppress=suppressing[blank.model]))
            else:
                rows.append(replace(blank, note=notes[blank.model]))
        return rows


def cells_of(
    runtimes: Sequence[str],
    threads: Sequence[int],
    shapes: Sequence[str],
    sizes: Sequence[int],
    batches: Sequence[int],
) -> list[Cell]:
    """All combinations, in the order of the table."""
    return [Cell(*values) for values in product(runtimes, threads, shapes, sizes, batches)]


def _sessions(
    models: Sequence[Model], runtime: Runtime, images: Images
) -> tuple[dict[str, Session], dict[str, float], dict[str, str]]:
    """The models that can be run on these images, their suppression's time, why the others cannot."""
    sessions, suppressing, notes = {}, {}, {}
    for model in models:
        try:
            session = model.session(runtime, images.shape)
            session.bound(images)()
            suppressing[model.name] = suppress_milliseconds(session, images)
        except ToolkitError as error:
            notes[model.name] = str(error)
        except Exception as error:  # noqa: BLE001 - each runtime's own; the others' figures still count
            notes[model.name] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        else:
            sessions[model.name] = session
    return sessions, suppressing, notes


def _filled(blank: CellResult, times: Sequence[float], first: Sequence[float] | None) -> CellResult:
    """With the figures of all rounds; `first` are the reference's."""
    latency = latency_of(times)
    row = replace(blank, rounds=latency.rounds, p50=latency.p50, p95=latency.p95)
    if first is None:
        return replace(row, note="no ratio: the first model cannot be run here")
    faster, low, high = median_interval([theirs / own for theirs, own in zip(first, times, strict=True)])
    return replace(row, faster=faster, low=low, high=high)


def suppress_milliseconds(session: Session, images: Images) -> float:
    """Milliseconds of NMS for one image, with the thresholds of detect.py."""
    height, width = images.shape[2:]
    predictions = as_predict(session, "benchmark")(torch.from_numpy(images))[0]
    predictions[:, :4] /= predictions.new_tensor([width, height, width, height])
    wanted = Thresholds()
    return _milliseconds(lambda: suppress(predictions, wanted.confidence, wanted.overlap))


def _milliseconds(run: Callable[[], object]) -> float:
    return measure_latency({"": run}, _ROUNDS_BESIDE, _WARMUP)[""].p50
