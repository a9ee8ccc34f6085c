"""Figures in a CSV file, one a line, so that a benchmark that was ended goes on where it was."""

import csv
import math
from dataclasses import astuple, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        task: "speed", "equality" or "map".
        case: network and setting.
        method: program and variant.
        parameters: of the pruned network; 0 where there is none.
        figure: the value; nan where there is none.
        low, high: its 95 % interval, or nan.
        note: its unit, or the error.
    """

    task: str
    case: str
    method: str
    parameters: int
    figure: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""


class Rows:
    """The CSV file: rows that are there need not be measured again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: set[tuple[str, ...]] = set()
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self._known = {(row["task"], row["case"], row["method"]) for row in csv.DictReader(file)}

    def has(self, task: str, case: str, *methods: str) -> bool:
        """Whether all these figures are there."""
        return all((task, case, method) in self._known for method in methods)

    def add(self, row: Row) -> None:
        """Append and print; nothing where it is there already."""
        if self.has(row.task, row.case, row.method):
            return
        shown = [f"{value:.5g}" if isinstance(value, float) else value for value in astuple(row)]
        new = not self._path.exists()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(field.name for field in fields(Row))
            writer.writerow(shown)
        self._known.add((row.task, row.case, row.method))
        print(*shown)
