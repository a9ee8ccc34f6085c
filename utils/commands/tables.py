"""Tables and number formats of the commands."""

import math

from rich.console import Console
from rich.table import Table


def show(title: str, table: Table) -> None:
    """Print a table under its title, which is not wrapped to the width of the table."""
    print(title)
    Console().print(table)


def percent(fraction: float | None) -> str:
    """A fraction as per cent with two decimals; a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def multiply_adds(value: float, whole: float | None = None) -> str:
    """Any large count, with its unit.

    Args:
        value: the count.
        whole: the number that decides unit and decimals of a column; None for `value` itself.

    >>> multiply_adds(2.7e9), multiply_adds(12_345), multiply_adds(992e6, whole=2.7e9), multiply_adds(512)
    ('2.700 G', '12.35 K', '0.992 G', '512')
    """
    most = value if whole is None else whole
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if most >= size:
            return f"{value / size:.{decimals(most / size, 4)}f} {unit}"
    return f"{value:.0f}"


def mebibytes(value: float) -> str:
    """Bytes as MiB."""
    return f"{value / 2**20:.2f} MiB"


def milliseconds(value: float) -> str:
    """With their unit.

    >>> milliseconds(24.1), milliseconds(0.0412)
    ('24.10 ms', '0.0412 ms')
    """
    return f"{value:.{max(2, decimals(value, 3))}f} ms"


def decimals(value: float, digits: int) -> int:
    """Decimal places that show a positive number with `digits` significant digits, at least 0.

    >>> decimals(24.1, 3), decimals(0.0412, 3), decimals(1234.5, 3)
    (1, 4, 0)
    """
    return max(0, digits - 1 - math.floor(math.log10(value))) if value > 0 else digits - 1
