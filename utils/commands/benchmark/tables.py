"""Tables of a benchmark: the models, then latencies for each runtime and number of threads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.table import Table

from ...reporting.speeds import Bar, Panel
from ..output import mebibytes, multiply_adds, percent, show
from .measure import CellResult

_MODELS = ("", "model", "parameters", "MACs", "size", "mAP@0.5")
_BESIDE = 2  # models that fit side by side

Rows = list[list[str]]


@dataclass(frozen=True)
class ModelRow:
    """Costs and accuracy of one model.

    Attributes:
        model: its name.
        digest: of its files.
        data: .data file of the mAP.
        content: digest of that file and of its validation list.
        images: how many of it at most; None for all.
        parameters, macs: at its own size; None where the file does not say.
        size: bytes of its weights.
        map50: fraction; None if not requested or failed.
        note: the reason.
    """

    model: str
    digest: str
    data: str
    content: str
    images: int | None
    parameters: int | None
    macs: int | None
    size: int
    map50: float | None = None
    note: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """Identity of the evaluation, without its result."""
        return self.model, self.digest, self.data, self.content, self.images


def show_benchmark(models: Sequence[ModelRow], timings: Sequence[CellResult]) -> None:
    """Print all tables, then the reasons for missing results."""
    for title, head, rows in _tables(models, timings):
        show(title, _table(head, rows))
    for line in _notes(models, timings):
        print(line)


def markdown(models: Sequence[ModelRow], timings: Sequence[CellResult]) -> str:
    """The tables as a Markdown page."""
    parts = ["# Benchmark\n"]
    for title, head, rows in _tables(models, timings):
        lines = [list(head), ["---"] * len(head), *rows]
        parts += [f"## {title}\n", "".join(f"| {' | '.join(line)} |\n" for line in lines)]
    parts += [f"- {line}\n" for line in _notes(models, timings)]
    return "\n".join(parts)


def _tables(
    models: Sequence[ModelRow], timings: Sequence[CellResult]
) -> Iterator[tuple[str, Sequence[str], Rows]]:
    """Title, head and rows of each table; a runtime without results has none."""
    marks = {row.model: f"#{number}" for number, row in enumerate(models, start=1)}
    yield "Models", _MODELS, [[marks[row.model], *_model_cells(row)] for row in models]
    for title, rows in _groups(timings):
        served = {row.model for row in rows if row.p50 is not None}
        own = {model: mark for model, mark in marks.items() if model in served}
        inputs = [
            [row for row in group if row.model in own] for _, group in groupby(rows, lambda row: row.cell)
        ]
        if not own:
            continue
        layout = _side_by_side if len(own) <= _BESIDE else _below
        yield f"{title}: p50 / p95 in ms", *layout(inputs, own)
        least = min(row.batch for row in rows)
        beside = [_beside_cells(each) for each in inputs if each[0].batch == least]
        head = ["input", "preprocessing, ms", *(f"NMS {mark}, ms" for mark in own.values())]
        yield "Preprocessing and NMS, per image", head, beside


def _side_by_side(inputs: Sequence[Sequence[CellResult]], marks: Mapping[str, str]) -> tuple[list[str], Rows]:
    """A line for each input; models are columns."""
    head = ["input", "batch", *marks.values(), *(["× faster"] if len(marks) > 1 else [])]
    return head, [
        [_input(rows[0]), str(rows[0].batch), *map(_latency, rows), *map(_faster, rows[1:])]
        for rows in inputs
    ]


def _below(inputs: Sequence[Sequence[CellResult]], marks: Mapping[str, str]) -> tuple[list[str], Rows]:
    """A line for each model on each input."""
    lines = [
        [_input(row), str(row.batch), marks[row.model], _latency(row), _faster(row)]
        for rows in inputs
        for row in rows
    ]
    return ["input", "batch", "", "p50 / p95, ms", "× faster"], lines


def panels(timings: Sequence[CellResult]) -> list[Panel]:
    """The results as panels of a picture: milliseconds per image."""
    found = []
    for title, rows in _groups(timings):
        bars = [
            Bar(row.model, f"{row.shape}\n{row.width}x{row.height}\n×{row.batch}", row.p50 / row.batch)
            for row in rows
            if row.p50 is not None
        ]
        found.append(Panel(title, bars))
    return [panel for panel in found if panel.bars]


def _groups(timings: Sequence[CellResult]) -> Iterator[tuple[str, list[CellResult]]]:
    """Tables with their titles."""
    for (runtime, threads), group in groupby(timings, lambda row: (row.runtime, row.threads)):
        rows = list(group)
        version = f" {rows[0].version}" if rows[0].version else ""
        yield f"{runtime}{version}, threads {threads}, {rows[0].machine}, {rows[0].image}", rows


def _model_cells(row: ModelRow) -> list[str]:
    return [
        row.model,
        "-" if row.parameters is None else f"{row.parameters:,}",
        "-" if row.macs is None else multiply_adds(row.macs),
        mebibytes(row.size),
        percent(row.map50),
    ]


def _beside_cells(rows: Sequence[CellResult]) -> list[str]:
    prepare = next((row.prepare for row in rows if row.prepare is not None), None)
    return [_input(rows[0]), *(_number(value) for value in (prepare, *(row.suppress for row in rows)))]


def _input(row: CellResult) -> str:
    return f"{row.shape} {row.width}x{row.height}"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _latency(row: CellResult) -> str:
    return "n/a" if row.p50 is None else f"{row.p50:.1f} / {row.p95:.1f}"


def _faster(row: CellResult) -> str:
    """Speed relative to the first model, its interval, and the verdict."""
    if row.faster is None or row.model == row.reference:
        return "-"
    return f"{row.faster:.2f} ({row.low:.2f}-{row.high:.2f}) {row.verdict}".rstrip()


def _notes(models: Sequence[ModelRow], timings: Sequence[CellResult]) -> list[str]:
    """Reasons for missing results, each once."""
    reasons = [f"{row.model} on {row.runtime}: {row.note}" for row in timings if row.note]
    return list(dict.fromkeys([*(f"{row.model}, mAP: {row.note}" for row in models if row.note), *reasons]))


def _table(names: Sequence[str], rows: Rows) -> Table:
    table = Table()
    for name in names:
        table.add_column(name, justify="left" if name in ("model", "input") else "right")
    for row in rows:
        table.add_row(*(cell.replace(") ", ")\n") for cell in row))  # a verdict below its interval
    return table
