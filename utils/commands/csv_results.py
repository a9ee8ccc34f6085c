"""CSV files of results, with a dataclass for the row, so that nothing is computed twice.

Invariant: `read_rows(path, kind)` returns the rows given to `write_rows(path, rows)`, floats to the last bit;
the file is complete at any moment.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from ..errors import ToolkitError
from ..files import write_text

Row = TypeVar("Row")


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a file; empty if it does not exist.

    Args:
        path: of the CSV file.
        kind: a dataclass whose fields are text, int or float, or one of these or None.

    Raises:
        ToolkitError: the file has other contents.
    """
    if not path.exists():
        return []
    hints = get_type_hints(kind)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames is None or list(reader.fieldnames) != list(hints):
                raise ValueError("other columns")
            return [kind(**{name: _value(hints[name], row[name]) for name in hints}) for row in reader]
    except (ValueError, TypeError, csv.Error) as error:
        fact = f"does not contain results of this command ({error})"
        raise ToolkitError(path, fact, "remove it, or choose another folder with --output DIR") from error


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write rows of one dataclass, as a whole or not at all; None becomes an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(rows[0]))
    writer.writerows(astuple(row) for row in rows)
    write_text(path, text.getvalue())


def _value(hint: Any, text: str) -> Any:
    kinds = get_args(hint) or (hint,)
    if not text and NoneType in kinds:
        return None
    return next(kind for kind in kinds if kind is not NoneType)(text)
