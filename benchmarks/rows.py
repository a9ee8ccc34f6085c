"""Figures in a CSV file, one a line, so that a benchmark that was ended goes on where it was."""

import math
from dataclasses import astuple, dataclass
from pathlib import Path

from utils.commands.csv_results import read_rows, write_rows


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        task: of the benchmark, such as "speed".
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
        self._rows = read_rows(path, Row)

    def has(self, task: str, case: str, *methods: str) -> bool:
        """Whether all these figures are there."""
        known = {(row.task, row.case, row.method) for row in self._rows}
        return all((task, case, method) in known for method in methods)

    def get(self, task: str, case: str, method: str) -> Row:
        """A figure that is there."""
        return next(row for row in self._rows if (row.task, row.case, row.method) == (task, case, method))

    def add(self, row: Row) -> None:
        """Append and print; nothing where it is there already."""
        if self.has(row.task, row.case, row.method):
            return
        self._rows.append(row)
        write_rows(self._path, self._rows)
        print(*(f"{value:.5g}" if isinstance(value, float) else value for value in astuple(row)))
